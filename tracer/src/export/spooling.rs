//! A batch as the spool keeps it: compressed JSON, which an update of this program still reads.

use std::io::{self, Read, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Origin, Source};
use super::spool::{Record, Spool};
use crate::span::{MonoNs, Span};

/// A batch is no larger than this, whatever a damaged file claims.
const LARGEST: u64 = 256 << 20;

#[derive(Serialize)]
struct Kept<'a> {
    origin: &'a Origin,
    spans: &'a [(Span, MonoNs)],
}

#[derive(Deserialize)]
struct Found {
    origin: Origin,
    spans: Vec<(Span, MonoNs)>,
}

pub(super) fn append(spool: &mut Spool, batch: &Batch) -> io::Result<()> {
    let Batch { origin, spans, source } = batch;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    serde_json::to_writer(&mut encoder, &Kept { origin, spans })?;
    encoder.flush()?;
    let payload = encoder.finish()?;
    let tag = source.as_ref().map_or(0, |source| source.tag);
    spool.append(tag, u32::try_from(spans.len()).unwrap_or(u32::MAX), &payload)
}

/// `None`: it is not what was written.
pub(super) fn restore(record: &Record, source: Option<Arc<Source>>) -> Option<Batch> {
    let reader = GzDecoder::new(&*record.payload).take(LARGEST);
    let Found { origin, spans } = serde_json::from_reader(io::BufReader::new(reader)).ok()?;
    // The same process: then also the same origin, which the transport need not set anew.
    let origin = match &source {
        Some(source) if *source.origin == origin => Arc::clone(&source.origin),
        _ => Arc::new(origin),
    };
    Some(Batch { origin, spans, source })
}
