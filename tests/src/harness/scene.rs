//! What every test begins with.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Programs, kernel};

/// The programs, a folder, and the machine to itself.
#[derive(Debug)]
pub struct Scene {
    /// What to run.
    pub programs: Programs,
    dir: TempDir,
    _alone: File,
}

impl Scene {
    /// Waits until no other test traces: each would load the machine, and see the other's eBPF
    /// objects.
    ///
    /// # Errors
    /// The programs have not been built, or this process is not root.
    pub fn new() -> Result<Self> {
        // SAFETY: geteuid takes nothing and always succeeds.
        let root = unsafe { libc::geteuid() == 0 };
        anyhow::ensure!(root, "tracing needs root: run `cargo xtask test` in a root shell");
        let programs = Programs::find()?;
        let lock = std::env::temp_dir().join("orchestrate-trace-tests.lock");
        let alone = File::create(&lock).with_context(|| lock.display().to_string())?;
        alone.lock()?;
        Ok(Self { programs, dir: tempfile::tempdir()?, _alone: alone })
    }

    /// A folder of its own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The eBPF objects of the machine just now.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn objects(&self) -> Result<kernel::Objects> {
        kernel::Objects::now()
    }
}
