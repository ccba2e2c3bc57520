//! What later stages need to know of a plan: enough to rebuild spans from recorded events,
//! anywhere and without the target.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AttributeKey, AttributeMeta};
use crate::span::{ClockAnchor, SpanKind};

/// One traced function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionMeta {
    /// Index in the plan, the `fn_id` of its events. Ids begin at 1.
    pub id: u16,
    /// Demangled path without hash and closure suffixes: `code.function.name`.
    pub function: Arc<str>,
    /// Name of the spans it makes.
    pub span: Arc<str>,
    /// Kind of the spans it makes.
    pub kind: SpanKind,
    /// A coroutine; else a plain function.
    pub is_async: bool,
    /// Bytes that a coroutine certainly spans; an address inside is certainly part of it. 0:
    /// unknown.
    pub size_at_least: u32,
    /// `size_at_least` is the exact size, so an address outside is certainly not part of it.
    pub size_exact: bool,
    /// What its spans say of the values that it was given.
    #[serde(default)]
    pub attributes: Vec<AttributeMeta>,
    /// Attributes that all of its spans have.
    #[serde(default)]
    pub constants: Vec<(AttributeKey, String)>,
}

/// The process that was traced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetMeta {
    /// Process id as the tracer sees it.
    pub pid: u32,
    /// Executable as the target sees it.
    pub executable: PathBuf,
    /// GNU build-id of the executable, lower-case hex.
    pub build_id: Option<String>,
}

/// Everything beside the events that the assembler needs: the head of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceMeta {
    /// Seed of trace and span ids (32 hex digits), so that a replay gives the same ones.
    pub seed: String,
    /// Monotonic to wall clock.
    pub anchor: ClockAnchor,
    /// The traced process.
    pub target: TargetMeta,
    /// Traced functions, ordered by id.
    pub functions: Vec<FunctionMeta>,
}
