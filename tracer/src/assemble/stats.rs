//! What the assembler counts. `begun == ended + open + drops.sum()` holds after every event.

use serde::Serialize;

use crate::span::{OrphanReason, Outcome};

macro_rules! counts {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct $name { $($(#[$field_doc])* pub $field: u64),* }

        impl $name {
            /// Names, as users and scripts see them, with values.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                let Self { $($field),* } = *self;
                [$((stringify!($field), $field)),*].into_iter()
            }

            /// All of them together.
            pub fn sum(&self) -> u64 {
                self.iter().map(|(_, count)| count).sum()
            }
        }
    };
}

counts! {
    /// Ended spans by how they ended.
    Outcomes {
        /// [`Outcome::Returned`].
        returned,
        /// [`Outcome::Error`].
        error,
        /// [`Outcome::Panicked`].
        panicked,
        /// [`Outcome::Cancelled`].
        cancelled,
        /// [`Outcome::Running`].
        running,
        /// [`Outcome::Unknown`].
        unknown,
    }
}

counts! {
    /// Begun spans that are orphans, by reason.
    Orphans {
        /// [`OrphanReason::LateAttach`].
        late_attach,
        /// [`OrphanReason::ParentLost`].
        parent_lost,
        /// [`OrphanReason::WitnessesDisagree`].
        witnesses_disagree,
        /// [`OrphanReason::ParentForgotten`].
        parent_forgotten,
        /// [`OrphanReason::Unlinked`].
        unlinked,
    }
}

counts! {
    /// Starts that did not become spans.
    Drops {
        /// As many spans were open as [`Limits::open`](super::Limits::open) allows.
        open_spans_full,
        /// The id had begun before.
        duplicate_start,
        /// The function is not in the plan.
        unknown_function,
        /// What looked like a request of HTTP/1 at first was none: no loss.
        not_http,
    }
}

counts! {
    /// What is worth knowing but lost no span.
    Oddities {
        /// Ends of ids that never began (their start was lost).
        end_without_start,
        /// Ends of ids that ended long ago and are forgotten.
        end_forgotten,
        /// Second ends of one id.
        duplicate_end,
        /// Ends of spans that had been found dead before: their outcome was inferred.
        ended_after_inferred,
        /// Children begun in a span that had ended: a span found dead was not.
        begun_in_ended,
        /// Spans ended because a new one began at the same place.
        replaced,
        /// Spans ended because another function's coroutine took their memory.
        displaced,
        /// Leaves ended because a new one began on the same handle.
        leaf_replaced,
        /// Leaves given up as unlinked before their time, since too many waited.
        waiting_leaves_full,
        /// Links of leaves that had their parent already, or were given up.
        late_link,
        /// Links, ends or bytes for leaves that never began (their start was lost).
        leaf_without_start,
        /// Ended spans forgotten to make room.
        tombstones_evicted,
    }
}

/// What was begun, ended and lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Start records seen, of spans and leaves.
    pub begun: u64,
    /// Spans and leaves handed out as ended.
    pub ended: u64,
    /// Spans and leaves that are open.
    pub open: u64,
    /// How the ended ones ended.
    pub outcomes: Outcomes,
    /// Why begun ones are orphans.
    pub orphans: Orphans,
    /// Start records that did not become spans.
    pub drops: Drops,
    /// What else was noticed.
    pub oddities: Oddities,
}

impl Stats {
    /// Nothing is unaccounted for.
    pub fn balanced(&self) -> bool {
        self.begun == self.ended + self.open + self.drops.sum() && self.ended == self.outcomes.sum()
    }

    pub(super) fn ended(&mut self, outcome: Outcome) {
        self.ended += 1;
        let outcomes = &mut self.outcomes;
        *match outcome {
            Outcome::Returned => &mut outcomes.returned,
            Outcome::Error => &mut outcomes.error,
            Outcome::Panicked => &mut outcomes.panicked,
            Outcome::Cancelled => &mut outcomes.cancelled,
            Outcome::Running => &mut outcomes.running,
            Outcome::Unknown => &mut outcomes.unknown,
        } += 1;
    }

    pub(super) fn orphaned(&mut self, reason: OrphanReason) {
        let orphans = &mut self.orphans;
        *match reason {
            OrphanReason::LateAttach => &mut orphans.late_attach,
            OrphanReason::ParentLost => &mut orphans.parent_lost,
            OrphanReason::WitnessesDisagree => &mut orphans.witnesses_disagree,
            OrphanReason::ParentForgotten => &mut orphans.parent_forgotten,
            OrphanReason::Unlinked => &mut orphans.unlinked,
        } += 1;
    }
}
