//! Where the programs are that runs are made of.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The tracer and the workloads, built.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `orchestrate-trace`.
    pub tracer: PathBuf,
    /// The folder of the workloads.
    pub workloads: PathBuf,
}

impl Programs {
    /// Those that `ORCHESTRATE_TRACE_BIN` and `ORCHESTRATE_TRACE_WORKLOADS` name, as `cargo
    /// xtask test` sets them; else those that it built earlier.
    ///
    /// # Errors
    /// They are not there.
    pub fn find() -> Result<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let path = |name: &str, default: &str| {
            env::var_os(name).map_or_else(|| target.join(default), PathBuf::from)
        };
        let found = Self {
            tracer: path("ORCHESTRATE_TRACE_BIN", "release/orchestrate-trace"),
            workloads: path("ORCHESTRATE_TRACE_WORKLOADS", "workloads/release"),
        };
        for needed in [&found.tracer, &found.truth(), &found.mini(), &found.standin()] {
            if !needed.exists() {
                bail!("{} is missing: run `cargo xtask test`, which builds it", needed.display());
            }
        }
        Ok(found)
    }

    /// The same with workloads that were built with debuginfo: those that
    /// `ORCHESTRATE_TRACE_DEBUGINFO_WORKLOADS` names, as `cargo xtask test` sets it; else those
    /// that it built earlier.
    ///
    /// # Errors
    /// It is not there.
    pub fn with_debuginfo(&self) -> Result<Self> {
        let default = || {
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
            manifest.join("../target/workloads-debuginfo/release")
        };
        let named = env::var_os("ORCHESTRATE_TRACE_DEBUGINFO_WORKLOADS").map(PathBuf::from);
        let workloads = named.unwrap_or_else(default);
        let found = Self { workloads, ..self.clone() };
        if !found.mini().exists() {
            bail!("{} is missing: run `cargo xtask test`, which builds it", found.mini().display());
        }
        Ok(found)
    }

    /// `truth-workload`.
    pub fn truth(&self) -> PathBuf {
        self.workloads.join("truth-workload")
    }

    /// `mini-orchestrate`.
    pub fn mini(&self) -> PathBuf {
        self.workloads.join("mini-orchestrate")
    }

    /// `messages-standin`.
    pub fn standin(&self) -> PathBuf {
        self.workloads.join("messages-standin")
    }
}
