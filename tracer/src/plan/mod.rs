//! Decides, from what inspection found and what a profile wants, which function becomes which
//! span and where each probe sits. Pure: data in, data out, no I/O, no root.

mod coverage;
mod meta;
mod probe;

pub use coverage::*;
pub use meta::*;
pub use probe::*;
