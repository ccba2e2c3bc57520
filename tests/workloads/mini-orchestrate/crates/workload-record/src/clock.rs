//! Time on two clocks: the wall clock for people and databases, the monotonic one for comparing.

use rustix::time::{clock_gettime, ClockId};
use serde::Serialize;

/// One moment, in nanoseconds of `CLOCK_REALTIME` and of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stamp {
    /// Nanoseconds since the epoch.
    pub unix_ns: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub mono_ns: u64,
}

impl Stamp {
    /// The present moment.
    pub fn now() -> Self {
        Self { unix_ns: read(ClockId::Realtime), mono_ns: read(ClockId::Monotonic) }
    }
}

/// From one moment to another.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Interval {
    start_unix_ns: u64,
    start_mono_ns: u64,
    end_unix_ns: u64,
    end_mono_ns: u64,
}

impl Interval {
    /// From `start` until now.
    pub fn since(start: Stamp) -> Self {
        let end = Stamp::now();
        Self {
            start_unix_ns: start.unix_ns,
            start_mono_ns: start.mono_ns,
            end_unix_ns: end.unix_ns,
            end_mono_ns: end.mono_ns,
        }
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Neither clock is negative after boot and the epoch.
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
