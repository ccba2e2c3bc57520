//! Head sampling by the trace's id.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::span::TraceId;

/// A share of all traces, from 0 to 1. Which ones follows from their ids alone, as in
/// OpenTelemetry's `TraceIdRatioBased` sampler: whoever decides by the same ratio decides the same,
/// and a smaller ratio's traces are among a larger one's.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ratio(f64);

impl Ratio {
    /// Every trace.
    pub const ALL: Self = Self(1.0);
    /// None.
    pub const NONE: Self = Self(0.0);

    /// The ratio nearest to `ratio` that there is, and whether that is another one. What is no
    /// number is taken for 1: losing nothing is the safer mistake.
    pub fn clamped(ratio: f64) -> (Self, bool) {
        if ratio.is_nan() {
            return (Self::ALL, true);
        }
        let clamped = ratio.clamp(0.0, 1.0);
        (Self(clamped), clamped != ratio)
    }

    /// As a number from 0 to 1.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// Whether this trace is one of them.
    pub fn samples(self, trace: TraceId) -> bool {
        if self.0 >= 1.0 {
            return true;
        }
        let bound = (self.0 * (1_u64 << 63) as f64) as u64;
        (trace.0 as u64) >> 1 < bound
    }
}

impl Default for Ratio {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromStr for Ratio {
    type Err = String;

    /// Only what needs no clamping; see [`Ratio::clamped`].
    fn from_str(text: &str) -> Result<Self, String> {
        let number: f64 = text.trim().parse().map_err(|_| format!("'{text}' is not a number"))?;
        match Self::clamped(number) {
            (ratio, false) => Ok(ratio),
            (_, true) => Err(format!("'{text}' is not between 0 and 1")),
        }
    }
}
