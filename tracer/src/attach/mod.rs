//! Loads the eBPF object and places probes: the only stage that knows aya and the kernel.

mod btf;
mod error;
mod features;
mod multi;
mod object;
mod perf;
mod probes;
mod processes;
mod selftest;
mod suspects;
mod sys;

pub use error::AttachError;
pub use features::{Features, features};
pub use probes::{AttachOptions, AttachedProbes, Mechanism};
