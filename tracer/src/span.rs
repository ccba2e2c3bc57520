//! A span as the assembler hands it out: what every sink (terminal, JSON, OTLP, tests) receives.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A trace's id, as in W3C Trace Context: 16 bytes, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TraceId(pub u128);

/// A span's id, as in W3C Trace Context: 8 bytes, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SpanId(pub u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<TraceId> for String {
    fn from(id: TraceId) -> Self {
        id.to_string()
    }
}

impl From<SpanId> for String {
    fn from(id: SpanId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for TraceId {
    type Error = std::num::ParseIntError;
    fn try_from(hex: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&hex, 16).map(Self)
    }
}

impl TryFrom<String> for SpanId {
    type Error = std::num::ParseIntError;
    fn try_from(hex: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&hex, 16).map(Self)
    }
}

/// `CLOCK_MONOTONIC`, nanoseconds: the only clock inside the tracer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MonoNs(pub u64);

impl MonoNs {
    /// This instant.
    pub fn now() -> Self {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Self(t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs())
    }
}

/// Converts monotonic time to wall-clock time. The only type that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockAnchor {
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    pub offset_ns: i64,
}

impl ClockAnchor {
    /// Reads both clocks now; the realtime reading lies between two monotonic ones.
    pub fn now() -> Self {
        let read = |clock| {
            let t = rustix::time::clock_gettime(clock);
            t.tv_sec * 1_000_000_000 + t.tv_nsec
        };
        let before = read(rustix::time::ClockId::Monotonic);
        let real = read(rustix::time::ClockId::Realtime);
        let after = read(rustix::time::ClockId::Monotonic);
        Self { offset_ns: real - (before + (after - before) / 2) }
    }

    /// Nanoseconds since the Unix epoch.
    pub fn unix_ns(self, at: MonoNs) -> u64 {
        at.0.saturating_add_signed(self.offset_ns)
    }
}

/// What kind of work a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanKind {
    /// Work inside the process.
    Internal,
    /// A request to somebody else: a statement, a model call.
    Client,
    /// A request served.
    Server,
}

/// How a span ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran to its end.
    Returned,
    /// It ran to its end and the result is an error.
    Error,
    /// A panic left it.
    Panicked,
    /// It was dropped before it was ready.
    Cancelled,
    /// It was still running when tracing stopped or the process went away.
    Running,
    /// It ended, but how was not seen (its end record was lost).
    Unknown,
}

impl Outcome {
    /// The word that users and scripts see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::Error => "error",
            Self::Panicked => "panicked",
            Self::Cancelled => "cancelled",
            Self::Running => "running",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a span that may have a parent is the root of a trace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrphanReason {
    /// It, its thread or its task was under way before tracing began.
    LateAttach,
    /// The parent's own start record was lost.
    ParentLost,
    /// Stack and containment named different parents.
    WitnessesDisagree,
    /// The parent ended so long ago that it has been forgotten.
    ParentForgotten,
    /// A leaf whose asker could not be proven.
    Unlinked,
}

impl OrphanReason {
    /// The word that users and scripts see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LateAttach => "late_attach",
            Self::ParentLost => "parent_lost",
            Self::WitnessesDisagree => "witnesses_disagree",
            Self::ParentForgotten => "parent_forgotten",
            Self::Unlinked => "unlinked",
        }
    }
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Text: bounded, valid UTF-8, free of control characters.
    Str(String),
    /// Several texts.
    Texts(Vec<String>),
}

impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Self::Str(s.to_owned())
    }
}

impl From<String> for Value {
    fn from(s: String) -> Self {
        Self::Str(s)
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

/// Something that happened at one instant of a span.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpanEvent {
    /// When.
    pub at: MonoNs,
    /// What, such as `agent.state`.
    pub name: Arc<str>,
    /// What it says about itself.
    pub attributes: Vec<(String, Value)>,
}

/// One piece of logical work: an async body, a plain call, a statement, a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// The trace it belongs to.
    pub trace_id: TraceId,
    /// Its own id.
    pub span_id: SpanId,
    /// Its parent's id; `None` for a root.
    pub parent_id: Option<SpanId>,
    /// What it is called, such as `tool_call`.
    pub name: Arc<str>,
    /// Demangled path of the function behind it, without hash and closure suffixes.
    pub function: Arc<str>,
    /// Kind of work.
    pub kind: SpanKind,
    /// When it began.
    pub start: MonoNs,
    /// When it ended; `None` while it is running.
    pub end: Option<MonoNs>,
    /// The true start lies earlier: it was first seen when already under way.
    pub start_is_late: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// Set where a parent exists or may exist but is not known.
    pub orphan: Option<OrphanReason>,
    /// Thread it began on, in the target's pid namespace.
    pub thread_id: u32,
    /// Address of the coroutine (stack pointer for a plain function, handle for a leaf).
    pub address: u64,
    /// Times it was polled, where that is known.
    pub polls: Option<u32>,
    /// Nanoseconds spent being polled, where that is known.
    pub busy_ns: Option<u64>,
    /// What it says about itself, in the order in which it was learnt.
    pub attributes: Vec<(String, Value)>,
    /// What happened in it, in order.
    #[serde(default)]
    pub events: Vec<SpanEvent>,
}

impl Span {
    /// Nanoseconds from start to end; `None` while it is running.
    pub fn duration_ns(&self) -> Option<u64> {
        self.end.map(|end| end.0.saturating_sub(self.start.0))
    }
}
