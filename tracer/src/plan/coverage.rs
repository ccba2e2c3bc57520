//! What a plan covers, what it does not, and why: the substance of `inspect` and `status`.

use serde::{Deserialize, Serialize};

use super::AttributeCoverage;
use crate::target::{DebugInfoNote, SourceLocation};

/// How a function's exits are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitKind {
    /// Behind the calls in its callers: cheap.
    Caller,
    /// On its own `ret`: always there, single-stepped.
    Ret,
}

/// A function that is probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbedFunction {
    /// Demangled path.
    pub name: String,
    /// It is an `async` body.
    pub is_async: bool,
    /// Entry probes.
    pub entries: usize,
    /// How many of them are emulated by the kernel.
    pub cheap_entries: usize,
    /// Exit probes.
    pub exits: usize,
    /// How many of them are emulated by the kernel.
    pub cheap_exits: usize,
    /// How its exits are seen.
    pub exit_kind: ExitKind,
    /// What its spans say of the values that it is given.
    #[serde(default)]
    pub attributes: Vec<AttributeCoverage>,
}

/// A function that matched and cannot be probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedFunction {
    /// Demangled path.
    pub name: String,
    /// Why not.
    pub reason: String,
}

/// An `async` body that the compiler inlined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlinedFunction {
    /// Where it is written.
    pub location: SourceLocation,
    /// The function it was inlined into.
    pub inside: String,
}

/// What became of one line of a profile, or of one `--function`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryCoverage {
    /// Name of its spans.
    pub span: String,
    /// Its function pattern, or the library it stands for.
    pub pattern: String,
    /// Functions that are probed.
    pub probed: Vec<ProbedFunction>,
    /// Functions that matched and cannot be probed.
    pub refused: Vec<RefusedFunction>,
    /// Bodies that were inlined away.
    pub inlined: Vec<InlinedFunction>,
    /// Set where nothing is probed: why, in words for a person.
    pub missing: Option<String>,
}

/// A library's functions that links and leaves stand on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandmarkCoverage {
    /// What they are for.
    pub purpose: String,
    /// How many probes.
    pub probes: usize,
    /// What does not work without them; set where there are none.
    pub missing: Option<String>,
}

/// What a plan covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// tokio's version, where it could be read.
    pub tokio_version: Option<String>,
    /// By profile line.
    pub entries: Vec<EntryCoverage>,
    /// By library function.
    pub landmarks: Vec<LandmarkCoverage>,
    /// Files that may be debuginfo, and what became of each.
    #[serde(default)]
    pub debuginfo: Vec<DebugInfoNote>,
}

impl Coverage {
    /// Functions probed, inlined bodies, functions refused.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.entries.iter().fold((0, 0, 0), |(p, i, r), e| {
            (p + e.probed.len(), i + e.inlined.len(), r + e.refused.len())
        })
    }
}
