//! Decides, from what inspection found and what a profile wants, which function becomes which
//! span and where each probe sits. Pure: data in, data out, no I/O, no root.

mod meta;

pub use meta::*;
