//! One process or one ELF file, read through `/proc/PID` alone: symbols, machine code, what
//! could be probed and what that would cost. Knows nothing of eBPF and of spans.
//!
//! [`Target::open`] looks at a process, [`Image::open`] at a file; [`Analysis`] goes over the
//! code of an image once and answers what can be probed in it: `scan` finds who calls whom,
//! `coroutine` and `dispatch` read poll functions, `sites` chooses instructions, `landmarks` and
//! `task_poll` know tokio and other libraries.
//!
//! Every byte read here is hostile: sizes are bounded, arithmetic is checked, and a malformed
//! input ends in a [`TargetError`].

mod analysis;
mod arguments;
mod coroutine;
mod debuginfo;
mod decode;
mod dispatch;
mod error;
mod image;
mod landmarks;
mod location;
mod names;
mod parallel;
mod process;
mod register_calls;
mod relocations;
mod scan;
mod sites;
mod symbols;
mod task_poll;
mod types;

pub use analysis::{Analysis, WhyNot};
pub use arguments::{Access, AccessStep, FoundArgument, Place, Shape, Undescribed, WantedArgument};
pub use debuginfo::{
    DebugInfo, DebugInfoNote, DebugInfoOptions, DebugInfoSource, Reader as DebugInfoReader,
    sources as debuginfo_sources,
};
pub use decode::probe_cost;
pub use error::{TargetError, TargetErrorKind};
pub use image::Image;
pub use process::{MappedModule, Target};
pub use types::*;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
