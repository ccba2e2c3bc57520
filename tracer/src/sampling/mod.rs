//! Which traces are exported: decided for a trace as a whole, between assembly and export.
//!
//! A trace's id decides first (head sampling), as every OpenTelemetry SDK would decide it; then a
//! limit of traces per second. A trace that these two leave out is still kept when one of its
//! spans matches a *keep* rule: for that, its spans wait until it is complete. Everything that
//! waits is bounded, and every span that does not pass is counted under a name.
//!
//! Pure: no I/O, no clock. Time is what the caller says.

mod limit;
mod ratio;
mod rules;
mod sampler;
mod stats;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use ratio::Ratio;
pub use rules::{KeepRule, RuleError};
pub use sampler::Sampler;
pub use stats::{SamplingStats, Unsampled};

/// What is exported of what was traced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// The share of traces, by their id.
    pub ratio: Ratio,
    /// No more traces than this begin to be exported in a second. Those that a rule keeps use it
    /// up, and are not refused by it.
    pub traces_per_second: Option<u32>,
    /// What is exported all the same.
    pub keep: Vec<KeepRule>,
    /// How much may be remembered.
    pub bounds: Bounds,
}

impl Policy {
    /// Whether everything passes.
    pub fn is_all(&self) -> bool {
        self.ratio == Ratio::ALL && self.traces_per_second.is_none()
    }
}

/// How much a [`Sampler`] may remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Traces of which it is known what was decided. One more that begins while all of these have
    /// open spans is left out.
    pub traces: usize,
    /// Spans that wait for their trace to be complete. When there are more, the trace that has
    /// waited longest is decided by head sampling alone.
    pub spans: usize,
    /// How long a trace may wait, likewise. A rule about slow spans prolongs it.
    pub wait: Duration,
    /// A trace is complete when for this long no span of it has been open: a task may have been
    /// spawned and not begun.
    pub settle: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            traces: 1 << 16,
            spans: 1 << 15,
            wait: Duration::from_secs(300),
            settle: Duration::from_secs(1),
        }
    }
}
