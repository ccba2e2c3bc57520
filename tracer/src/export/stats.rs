//! The account of what was taken in, sent, kept and lost, and what to tell about it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Why a span was not exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropCause {
    /// The queue was full.
    QueueFull,
    /// The endpoint did not answer for as long as a batch is tried.
    Unreachable,
    /// The endpoint refused it.
    Rejected,
    /// It was still waiting when the time for the last flush was over.
    NotFlushed,
    /// It was the oldest in a spool that was full.
    SpoolFull,
    /// The spool's file holds something else than was written.
    SpoolCorrupt,
}

impl DropCause {
    /// How many there are.
    pub const COUNT: usize = 6;

    /// All causes, in the order of [`ExportStats::dropped`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::QueueFull,
        Self::Unreachable,
        Self::Rejected,
        Self::NotFlushed,
        Self::SpoolFull,
        Self::SpoolCorrupt,
    ];

    /// The name that users and scripts see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "export_queue_full",
            Self::Unreachable => "export_unreachable",
            Self::Rejected => "export_rejected",
            Self::NotFlushed => "export_not_flushed",
            Self::SpoolFull => "export_spool_full",
            Self::SpoolCorrupt => "export_spool_corrupt",
        }
    }
}

/// Something to tell the user. There is one per change of state, not one per failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The endpoint cannot be reached; spans are kept and tried again.
    Unreachable {
        /// Where to.
        endpoint: String,
        /// Why not.
        error: String,
    },
    /// The endpoint answers again.
    Recovered {
        /// Where to.
        endpoint: String,
    },
    /// The endpoint refuses what we send.
    Rejected {
        /// Where to.
        endpoint: String,
        /// What it says.
        error: String,
    },
    /// Spans are being lost.
    LossBegan {
        /// Where they should have gone.
        endpoint: String,
        /// Why, in the name that [`DropCause::name`] gives.
        cause: &'static str,
    },
    /// None has been lost for a while.
    LossEnded {
        /// Where they should have gone.
        endpoint: String,
        /// How many were, from the beginning to the end.
        lost: u64,
    },
    /// The spool's disk does not take anything more; spans wait in memory.
    SpoolFailed {
        /// Where the spool is.
        spool: String,
        /// Why.
        error: String,
    },
}

/// A moment's account: `accepted = exported + dropped + spooled + what waits in memory`; a span
/// that found the queue full was not accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportStats {
    /// Spans that entered the queue; of an endpoint also those that the spool held at the start.
    pub accepted: u64,
    /// Spans the endpoint has taken.
    pub exported: u64,
    /// Spans that wait on disk. After a shutdown they are not lost: the next run sends them.
    pub spooled: u64,
    /// Spans lost, by cause, in the order of [`DropCause::ALL`].
    pub dropped: [(&'static str, u64); DropCause::COUNT],
    /// Tries beyond the first.
    pub retries: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

impl ExportStats {
    /// Spans lost, whatever the cause.
    pub fn lost(&self) -> u64 {
        self.dropped.iter().map(|(_, count)| count).sum()
    }

    /// Spans lost for this cause.
    pub fn lost_by(&self, cause: DropCause) -> u64 {
        self.dropped[cause as usize].1
    }

    /// Spans in memory: in the queue, or in the batch that is being sent.
    pub fn waiting(&self) -> u64 {
        let not_accepted = self.lost_by(DropCause::QueueFull);
        let gone = self.exported + self.spooled + self.lost() - not_accepted;
        self.accepted.saturating_sub(gone)
    }
}

/// The numbers, of one process or of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) exported: AtomicU64,
    pub(super) spooled: AtomicU64,
    dropped: [AtomicU64; DropCause::COUNT],
}

impl Counters {
    pub(super) fn lost(&self, cause: DropCause, count: u64) {
        self.dropped[cause as usize].fetch_add(count, Relaxed);
    }

    pub(super) fn lost_by(&self, cause: DropCause) -> u64 {
        self.dropped[cause as usize].load(Relaxed)
    }

    pub(super) fn unspooled(&self, count: u64) {
        let _ = self.spooled.fetch_update(Relaxed, Relaxed, |n| Some(n.saturating_sub(count)));
    }

    /// `closed`: what waits in memory now will not be sent any more.
    pub(super) fn stats(&self, closed: bool) -> ExportStats {
        let mut stats = ExportStats {
            accepted: self.accepted.load(Relaxed),
            exported: self.exported.load(Relaxed),
            spooled: self.spooled.load(Relaxed),
            dropped: DropCause::ALL
                .map(|cause| (cause.name(), self.dropped[cause as usize].load(Relaxed))),
            retries: 0,
            last_error: None,
        };
        if closed {
            stats.dropped[DropCause::NotFlushed as usize].1 += stats.waiting();
        }
        stats
    }
}

/// What the tracing loop and the export thread both know of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) counters: Counters,
    pub(super) retries: AtomicU64,
    /// Nothing is sent any more.
    pub(super) closed: AtomicBool,
    last_error: Mutex<Option<String>>,
    notices: Mutex<VecDeque<Notice>>,
}

/// More notices than this are of no use to anybody.
const MAX_NOTICES: usize = 16;

impl Shared {
    pub(super) fn notice(&self, notice: Notice) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.len() < MAX_NOTICES {
            notices.push_back(notice);
        }
    }

    pub(super) fn take_notices(&self) -> Vec<Notice> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    pub(super) fn failed(&self, error: &str) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(error.to_owned());
    }

    pub(super) fn stats(&self) -> ExportStats {
        self.complete(&self.counters)
    }

    /// `counters` with what is known of the endpoint only.
    pub(super) fn complete(&self, counters: &Counters) -> ExportStats {
        ExportStats {
            retries: self.retries.load(Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ..counters.stats(self.closed.load(Relaxed))
        }
    }
}
