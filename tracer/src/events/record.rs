//! Writes a recording: a magic line, one line of JSON with the
//! [`TraceMeta`], then blocks.
//!
//! A block is a tag byte, the length of what follows as a little-endian `u32`, and that many
//! bytes. Tags: `E` one raw record as the kernel wrote it, `C` the loss counters so far (JSON,
//! [`CountersAt`]), `F` the end (JSON, [`Ending`]). A file without an `F` was cut off.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::loss::{Counters, CountersAt};
use super::scrub::scrub;
use crate::plan::TraceMeta;
use crate::span::MonoNs;

/// First line of every recording; the number is the format's version.
pub(super) const MAGIC: &str = "orchestrate-trace recording 1\n";
/// Longest line of metadata, about 1 KiB for each of 4,096 functions and room to spare.
pub(super) const MAX_META: usize = 16 << 20;
/// Longest raw record.
pub(super) const MAX_RECORD: usize = 8192;
/// Longest block of JSON.
pub(super) const MAX_JSON: usize = 64 << 10;

pub(super) const RECORD: u8 = b'E';
pub(super) const COUNTERS: u8 = b'C';
pub(super) const END: u8 = b'F';

/// Why tracing stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Somebody asked for it (Ctrl-C, `disable`).
    Requested,
    /// The time asked for is over.
    DurationElapsed,
    /// The target exited.
    TargetExited,
    /// The target executed another program.
    TargetReplaced,
    /// The tracer itself failed.
    Failed,
}

/// The last block of a recording that was not cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When tracing stopped, and what had been counted by then.
    #[serde(flatten)]
    pub last: CountersAt,
    /// Why.
    pub why: StopReason,
}

/// Writes one recording. Give it a buffered writer.
#[derive(Debug)]
pub struct Recorder<W: Write> {
    to: W,
}

impl<W: Write> Recorder<W> {
    /// Begins a recording.
    pub fn begin(mut to: W, meta: &TraceMeta) -> io::Result<Self> {
        to.write_all(MAGIC.as_bytes())?;
        let mut line = serde_json::to_vec(meta)?;
        line.push(b'\n');
        if line.len() > MAX_META {
            return Err(too_long("metadata", line.len(), MAX_META));
        }
        to.write_all(&line)?;
        Ok(Self { to })
    }

    /// Adds one record, as the kernel wrote it, but without credentials in what was captured.
    pub fn record(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > MAX_RECORD {
            return Err(too_long("record", bytes.len(), MAX_RECORD));
        }
        match scrub(bytes) {
            Some(clean) => self.block(RECORD, &clean),
            None => self.block(RECORD, bytes),
        }
    }

    /// Adds the counters. Do so every second or so: a recording that is cut off then still says
    /// what had been lost.
    pub fn counters(&mut self, at: MonoNs, counters: &Counters) -> io::Result<()> {
        self.json(COUNTERS, &CountersAt { at, counters: counters.clone() })
    }

    /// Ends the recording and gives the writer back.
    pub fn end(mut self, at: MonoNs, counters: &Counters, why: StopReason) -> io::Result<W> {
        self.json(END, &Ending { last: CountersAt { at, counters: counters.clone() }, why })?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn json(&mut self, tag: u8, what: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec(what)?;
        if bytes.len() > MAX_JSON {
            return Err(too_long("block of counters", bytes.len(), MAX_JSON));
        }
        self.block(tag, &bytes)
    }

    fn block(&mut self, tag: u8, bytes: &[u8]) -> io::Result<()> {
        let [a, b, c, d] = (bytes.len() as u32).to_le_bytes();
        self.to.write_all(&[tag, a, b, c, d])?;
        self.to.write_all(bytes)
    }
}

fn too_long(what: &str, len: usize, most: usize) -> io::Error {
    let text = format!("cannot record {what} of {len} bytes: at most {most} can be read back");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
