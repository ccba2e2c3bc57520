//! Trace the logical work of a running async Rust program from outside, with eBPF uprobes.
//!
//! One direction, one type between neighbours:
//!
//! ```text
//! PID ─► Target ─► ProbePlan ─► AttachedProbes ─► Event ─► Span ─► Span ─► Span ─► exporter
//!     target     plan         attach          events  assemble semantics sampling export
//! ```
//!
//! `plan`, `events`, `assemble`, `semantics`, `sampling` need neither root nor a kernel; only
//! `attach` names aya, only `export` names OpenTelemetry and Thrift.

pub mod assemble;
pub mod attach;
pub mod config;
pub mod events;
pub mod export;
pub mod follow;
pub mod pipeline;
pub mod plan;
pub mod protocol;
pub mod sampling;
pub mod semantics;
pub mod service;
pub mod session;
pub mod span;
pub mod target;
