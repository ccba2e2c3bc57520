//! The numbers.

use std::collections::BTreeMap;

use serde::Serialize;

/// How a trace compares with the truth. Serialised, it is what `cargo xtask truth` prints.
///
/// `spans = right + orphaned + wrong_parent + missing + lost_starts + inlined_unprobed`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// True spans: bodies executed, inlined ones included.
    pub spans: u64,
    /// Of these, those whose body has a probed function in the place where they were called.
    pub probed: u64,
    /// Traced, under the parent that is expected.
    pub right: u64,
    /// Traced, without the parent that they have; it may have been lost.
    pub orphaned: u64,
    /// Traced, under another parent.
    pub wrong_parent: u64,
    /// Probed, not traced, and no loss that the tracer counted explains it.
    pub missing: u64,
    /// Executed without a probed function of their own.
    pub inlined_unprobed: u64,
    /// Records lost: `lost_starts` + `lost_ends`.
    pub lost: u64,
    /// Spans that are not in the trace because, as the tracer counted, their start was lost.
    pub lost_starts: u64,
    /// Records of an end that the tracer counted as lost.
    pub lost_ends: u64,
    /// Spans whose outcome is unknown for that reason: at least one for each end of a span that
    /// was lost, and those whose end would have followed from it.
    pub outcome_unknown: u64,
    /// Traced with another outcome, or with none although no end was lost; and outcomes known of
    /// more spans than there are records of.
    pub outcome_wrong: u64,
    /// Traced with another number of polls, of those whose true number is known.
    pub polls_wrong: u64,
    /// Traced without a number of polls, of those whose true number is known.
    pub polls_unknown: u64,
    /// Traced spans of bodies in the truth file that are no true span.
    pub invented: u64,
    /// Records that came through the ring buffer.
    pub records: u64,
    /// Probe hits.
    pub hits: u64,
    /// What the tracer counted as lost, by name, zeros left out.
    pub drops: BTreeMap<String, u64>,
    /// Executions of unprobed bodies by function, most first: at most ten.
    pub inlined: Vec<(String, u64)>,
    /// Some of what is wrong, for a person.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Losses that the tracer counted, all names together.
    pub fn drops_total(&self) -> u64 {
        self.drops.values().sum()
    }

    /// `right` in parts per million of the probed bodies.
    pub fn right_ppm(&self) -> u64 {
        (self.right * 1_000_000).checked_div(self.probed).unwrap_or(0)
    }

    /// Nothing wrong: no parent, no outcome, nothing missing or invented, and what was lost was
    /// counted. Holds for a run that loses on purpose, too.
    pub fn is_sound(&self) -> bool {
        self.wrong_parent == 0
            && self.outcome_wrong == 0
            && self.missing == 0
            && self.invented == 0
            && self.polls_wrong == 0
    }

    /// Sound, nothing lost, and all but one in ten thousand under the right parent.
    pub fn is_right(&self) -> bool {
        self.is_sound() && self.lost == 0 && self.drops.is_empty() && self.right_ppm() >= 999_900
    }
}
