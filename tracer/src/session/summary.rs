//! What a session saw, and what it lost, by name.

use serde::Serialize;

use crate::assemble::Stats;
use crate::attach::Mechanism;
use crate::events::{Counters, StopReason};
use crate::semantics;

/// What a session saw and lost, in total.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Process traced.
    pub pid: u32,
    /// How probes were placed.
    pub mechanism: Mechanism,
    /// Probes placed.
    pub probes: usize,
    /// How many of them the kernel emulates.
    pub emulated_probes: usize,
    /// Functions probed.
    pub functions_probed: usize,
    /// Bodies known to be inlined.
    pub functions_inlined: usize,
    /// Functions that matched and cannot be probed.
    pub functions_refused: usize,
    /// The kernel side's counters.
    pub counters: Counters,
    /// The assembler's.
    pub spans: Stats,
    /// What could not be said about spans, and why.
    pub semantics: semantics::Stats,
    /// Records that were malformed.
    pub malformed: u64,
    /// Why it ended.
    pub why: StopReason,
    /// Nanoseconds between attach and detach.
    pub traced_ns: u64,
    /// Nanoseconds that inspection and planning took.
    pub inspect_ns: u64,
    /// Nanoseconds that loading and placing the probes took.
    pub attach_ns: u64,
}

impl Summary {
    /// Everything lost, by name; empty when nothing was.
    pub fn drops(&self) -> Vec<(String, u64)> {
        losses(&self.counters, &self.spans, self.malformed)
    }
}

/// What a session has seen and lost so far.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The kernel side's counters.
    pub counters: Counters,
    /// The assembler's.
    pub spans: Stats,
    /// Records that were malformed.
    pub malformed: u64,
}

/// Everything lost, by name; empty when nothing was.
pub fn losses(counters: &Counters, spans: &Stats, malformed: u64) -> Vec<(String, u64)> {
    let kernel = counters.losses().map(|(counter, n)| (counter.name().to_owned(), n));
    // What is no request is no span that was lost.
    let ours = spans.drops.iter().filter(|&(name, n)| n != 0 && name != "not_http");
    let mut all: Vec<_> = kernel.chain(ours.map(|(name, n)| (name.to_owned(), n))).collect();
    if malformed != 0 {
        all.push(("malformed_records".to_owned(), malformed));
    }
    all
}
