//! One process or one ELF file, read through `/proc/PID` alone: symbols, machine code, what
//! could be probed and what that would cost. Knows nothing of eBPF and of spans.
//!
//! Every byte read here is hostile: sizes are bounded, arithmetic is checked, and a malformed
//! input ends in a [`TargetError`].

mod types;

pub use types::*;
