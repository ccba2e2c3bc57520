//! So many traces in a second: a token bucket that holds one second's worth.

use crate::span::MonoNs;

/// The part of a token that a nanosecond brings, times the rate.
const SECOND: u64 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct Limit {
    per_second: u64,
    /// In nanoseconds of one trace per second: exact, whatever the rate.
    filled: u64,
    at: Option<MonoNs>,
}

impl Limit {
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second);
        Self { per_second, filled: per_second * SECOND, at: None }
    }

    /// Takes one if there is one.
    pub(super) fn take(&mut self, now: MonoNs) -> bool {
        self.fill(now);
        match self.filled.checked_sub(SECOND) {
            Some(left) => {
                self.filled = left;
                true
            }
            None => false,
        }
    }

    /// Takes one whether there is one or not.
    pub(super) fn force(&mut self, now: MonoNs) {
        self.fill(now);
        self.filled = self.filled.saturating_sub(SECOND);
    }

    fn fill(&mut self, now: MonoNs) {
        let since = self.at.map_or(0, |at| now.0.saturating_sub(at.0));
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        let brought = since.saturating_mul(self.per_second);
        self.filled = self.filled.saturating_add(brought).min(self.per_second * SECOND);
    }
}
