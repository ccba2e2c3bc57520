//! A process of ours, which ends with us.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::wait_for;

/// A child whose output goes to files. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    out: Option<PathBuf>,
    err: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; its output goes to `NAME.out` and `NAME.err` in `dir`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, name: &str, dir: &Path) -> Result<Self> {
        let out = dir.join(format!("{name}.out"));
        command.stdout(File::create(&out)?);
        Self::spawn(command, name, dir, Some(out))
    }

    /// The same, with its standard output on ours.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_visible(command: &mut Command, name: &str, dir: &Path) -> Result<Self> {
        Self::spawn(command, name, dir, None)
    }

    fn spawn(command: &mut Command, name: &str, dir: &Path, out: Option<PathBuf>) -> Result<Self> {
        let err = dir.join(format!("{name}.err"));
        let child = command
            .stdin(Stdio::null())
            .stderr(File::create(&err)?)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, name: name.to_owned(), out, err, status: None })
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.out.as_deref().map(read).unwrap_or_default()
    }

    /// Where that is, if it is in a file.
    pub fn stdout_path(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    /// What it has complained about so far.
    pub fn stderr(&self) -> String {
        read(&self.err)
    }

    /// Its status, once it has ended.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.status(), Ok(None))
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// It has not after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait_for(&what, limit, || self.status())
    }

    /// Waits for it to end with status 0.
    ///
    /// # Errors
    /// It has not after `limit`, or failed.
    pub fn succeed(&mut self, limit: Duration) -> Result<()> {
        let status = self.wait(limit)?;
        if !status.success() {
            bail!("{} failed: {status}\n{}", self.name, self.stderr());
        }
        Ok(())
    }

    /// Waits for `condition` to hold as long as it runs.
    ///
    /// # Errors
    /// It ends, or the condition fails, or `limit` is over.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let name = self.name.clone();
        let what = format!("{what} ({name})");
        wait_for(&what, limit, || {
            // Asked first: a condition that came true with its end counts.
            let ended = self.status()?;
            match (condition(self)?, ended) {
                (Some(found), _) => Ok(Some(found)),
                (None, None) => Ok(None),
                (None, Some(status)) => {
                    bail!("{name} ended ({status}) before {what}\n{}", self.stderr())
                }
            }
        })
    }

    /// Sends it a signal. Whether it is still there does not matter.
    pub fn signal(&mut self, signal: i32) {
        if self.is_running() {
            // SAFETY: kill takes numbers; the child has not been waited for, so the id is its.
            unsafe { libc::kill(self.child.id() as i32, signal) };
        }
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if self.is_running() {
            // It may have ended just now: then there is nothing to kill.
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
