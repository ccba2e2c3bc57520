//! Holds traces against the truth, and starts what end-to-end tests observe.
//!
//! Nothing here knows the tracer from inside: it is judged by its command line and its JSON.
//!
//! | module | holds a trace against |
//! | --- | --- |
//! | [`truth`] | the record of the truth workload, span by span |
//! | [`mini`] | the record of the miniature orchestrate, agent by agent |
//! | [`requests`] | what the ends of requests wrote down |
//! | [`attributes`] | the same record, by what spans say about themselves |
//! | [`recorded`] | the same record, by its statements and child processes |
//! | [`live`] | the database of any orchestrate and the log of the API that it used |

pub mod agents;
pub mod attributes;
pub mod harness;
pub mod live;
pub mod mini;
pub mod recorded;
pub mod requests;
pub mod trace;
pub mod truth;
