//! Decides, from what inspection found and what a profile wants, which function becomes which
//! span and where each probe sits. Pure: data in, data out, no I/O, no root.

mod attributes;
mod build;
mod coverage;
mod meta;
mod pattern;
mod probe;
mod profile;

pub use attributes::*;
pub use build::{Finding, Inputs, build, wanted};
pub use coverage::*;
pub use meta::*;
pub use pattern::{Pattern, PatternError};
pub use probe::*;
pub use profile::*;
