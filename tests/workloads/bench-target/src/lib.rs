//! What both variants of the target share: bodies, drivers, clocks, and the commands they obey.
//!
//! A target reads commands on standard input, one a line, and answers each with one line of JSON
//! on standard output. It measures itself: no tracer has a say in how long an operation took.

pub mod bodies;
pub mod clock;
pub mod futures;
pub mod load;
pub mod serve;
