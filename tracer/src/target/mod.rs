//! One process or one ELF file, read through `/proc/PID` alone: symbols, machine code, what
//! could be probed and what that would cost. Knows nothing of eBPF and of spans.
//!
//! Every byte read here is hostile: sizes are bounded, arithmetic is checked, and a malformed
//! input ends in a [`TargetError`].

mod decode;
mod error;
mod image;
mod names;
mod parallel;
mod process;
mod relocations;
mod symbols;
mod types;

pub use decode::probe_cost;
pub use error::{TargetError, TargetErrorKind};
pub use image::Image;
pub use process::{MappedModule, Target};
pub use types::*;
