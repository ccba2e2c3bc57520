//! A plan: probes as data, and the tables that the programs need.

use tracer_ebpf::access::Fetch;
use tracer_ebpf::config::FnConfig;
use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::hook::Hook;

use super::{Coverage, FunctionMeta};
use crate::target::{Cost, ModuleInfo};

/// One probe: where, what runs, and what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Index into [`ProbePlan::modules`].
    pub module: usize,
    /// Offset in the module's file.
    pub offset: u64,
    /// The instruction expected there.
    pub bytes: Vec<u8>,
    /// What it is there for.
    pub hook: Hook,
    /// What the program is told about the place; [`Self::hook`] is added on attaching.
    pub cookie: Cookie,
    /// What a hit costs the target.
    pub cost: Cost,
}

/// Everything that attaching needs.
#[derive(Clone, Debug)]
pub struct ProbePlan {
    /// Files to probe.
    pub modules: Vec<ModuleInfo>,
    /// The probes, in no particular order.
    pub probes: Vec<Probe>,
    /// Traced functions, ordered by id from 1.
    pub functions: Vec<FunctionMeta>,
    /// Entry of the function table for each of [`Self::functions`].
    pub configs: Vec<FnConfig>,
    /// Values to fetch, which [`Self::configs`] point to, from 1.
    pub fetches: Vec<Fetch>,
    /// File ranges of the traced functions' code in the first module.
    pub code: Vec<(u64, u64)>,
    /// Follow the child processes that the target starts.
    pub processes: bool,
    /// Offset of the SQL text in `sqlite3_stmt`.
    pub sql_text_offset: Option<u32>,
    /// What is covered, what is not, and why.
    pub coverage: Coverage,
}
