//! What passed, what did not, and why.

use serde::Serialize;

/// Why a span was not exported, though nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unsampled {
    /// Its trace's id is not among those that the ratio takes.
    Ratio,
    /// Too many traces began in that second.
    Limit,
    /// It came so late that what was decided about its trace is forgotten.
    Late,
    /// Its trace began while as many were open as can be remembered.
    Untracked,
}

impl Unsampled {
    /// All causes, in the order of [`SamplingStats::unsampled`].
    pub const ALL: [Self; 4] = [Self::Ratio, Self::Limit, Self::Late, Self::Untracked];

    /// The name that users and scripts see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ratio => "unsampled_ratio",
            Self::Limit => "unsampled_limit",
            Self::Late => "unsampled_late",
            Self::Untracked => "unsampled_untracked",
        }
    }
}

/// A moment's account of spans: `offered = passed + waiting + unsampled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SamplingStats {
    /// Spans that ended.
    pub offered: u64,
    /// Spans that are to be exported.
    pub passed: u64,
    /// Spans that wait for their trace to be complete.
    pub waiting: u64,
    /// Spans that are not to be exported, by cause, in the order of [`Unsampled::ALL`].
    pub unsampled: [(&'static str, u64); 4],
    /// Traces that a rule kept.
    pub kept_by_rule: u64,
    /// Traces that were decided before they were complete, since too many spans waited.
    pub decided_early_full: u64,
    /// Traces that were decided before they were complete, since they had waited too long.
    pub decided_early_late: u64,
}

impl Default for SamplingStats {
    fn default() -> Self {
        Self {
            offered: 0,
            passed: 0,
            waiting: 0,
            unsampled: Unsampled::ALL.map(|cause| (cause.name(), 0)),
            kept_by_rule: 0,
            decided_early_full: 0,
            decided_early_late: 0,
        }
    }
}

impl SamplingStats {
    /// Spans that are not to be exported, whatever the cause.
    pub fn unsampled(&self) -> u64 {
        self.unsampled.iter().map(|(_, count)| count).sum()
    }

    /// Nothing is unaccounted for.
    pub fn balanced(&self) -> bool {
        self.offered == self.passed + self.waiting + self.unsampled()
    }
}
