//! From raw records to spans that say what they did: the pure stages in a row, the same for a
//! live process and for a recording.

use std::sync::Arc;

use crate::assemble::{Assembler, Limits, Output, Stats};
use crate::events::Decoder;
use crate::plan::TraceMeta;
use crate::semantics::{self, Semantics};
use crate::span::MonoNs;

/// Decoding, assembly, semantics. Neither I/O nor clocks: a replay gives what the live trace gave.
#[derive(Debug)]
pub struct Pipeline {
    decoder: Decoder,
    assembler: Assembler,
    semantics: Semantics,
    ends_lost: u64,
    losing: bool,
}

/// Everything the pipeline may hold and show.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Bounds of the assembler.
    pub limits: Limits,
    /// What spans may say about themselves.
    pub semantics: semantics::Options,
}

impl Pipeline {
    /// A pipeline for one trace.
    pub fn new(meta: Arc<TraceMeta>, options: &Options) -> Self {
        Self {
            decoder: Decoder::default(),
            semantics: Semantics::new(Arc::clone(&meta), &options.semantics),
            assembler: Assembler::new(meta, options.limits),
            ends_lost: 0,
            losing: false,
        }
    }

    /// Takes in one raw record and appends what follows from it to `out`. Returns the record's
    /// time; `None` for one that is malformed, which is counted.
    pub fn record(&mut self, bytes: &[u8], out: &mut Vec<Output>) -> Option<MonoNs> {
        let event = self.decoder.decode(bytes)?;
        self.semantics.observe(&event);
        let from = out.len();
        self.assembler.event(&event, out);
        self.describe(&mut out[from..]);
        Some(event.at().ts)
    }

    /// Moves time on without a record.
    pub fn advance(&mut self, now: MonoNs, out: &mut Vec<Output>) {
        let from = out.len();
        self.assembler.advance(now, out);
        self.describe(&mut out[from..]);
    }

    /// Tells how many end records have been lost up to the last one of the records that follow,
    /// which reach up to the next call. Whether that makes a difference: then a recording needs
    /// the counters at this very place.
    pub const fn ends_lost(&mut self, count: u64) -> bool {
        let before = self.losing;
        self.losing = count != self.ends_lost;
        self.ends_lost = count;
        self.assembler.losing_ends(self.losing);
        before || self.losing
    }

    /// Ends everything that is still open: tracing stopped at `now`.
    pub fn finish(&mut self, now: MonoNs, out: &mut Vec<Output>) {
        let from = out.len();
        self.assembler.finish(now, out);
        self.describe(&mut out[from..]);
    }

    fn describe(&mut self, outputs: &mut [Output]) {
        for output in outputs {
            match output {
                Output::Started(span) => self.semantics.started(span),
                Output::Ended(span) => self.semantics.ended(span),
            }
        }
    }

    /// What was begun, ended and lost so far.
    pub fn stats(&self) -> Stats {
        self.assembler.stats()
    }

    /// What could not be said about spans, and why.
    pub const fn semantics_stats(&self) -> &semantics::Stats {
        self.semantics.stats()
    }

    /// Records that were malformed.
    pub const fn malformed(&self) -> u64 {
        self.decoder.malformed()
    }
}
