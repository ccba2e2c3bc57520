//! `orchestrate-trace`, as a user would run it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{PATIENCE, Process, Programs};
use crate::trace::Trace;

/// `attach --json` with what else is wanted.
#[derive(Clone, Debug, Default)]
pub struct Attach {
    /// `--function`, each.
    pub functions: Vec<String>,
    /// `--ring-size`.
    pub ring_size: Option<String>,
    /// Whatever else.
    pub more: Vec<String>,
}

/// A tracer at work.
#[derive(Debug)]
pub struct Tracer(pub Process);

impl Attach {
    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.more.push(arg.into());
        self
    }

    /// The command line.
    pub fn command(&self, programs: &Programs, pid: u32) -> Command {
        let Self { functions, ring_size, more } = self;
        let mut command = Command::new(&programs.tracer);
        command.arg("attach").arg(pid.to_string()).arg("--json");
        for function in functions {
            command.args(["--function", function]);
        }
        if let Some(bytes) = ring_size {
            command.args(["--ring-size", bytes]);
        }
        command.args(more);
        command
    }

    /// Attaches to `pid` and waits until the probes are in place.
    ///
    /// # Errors
    /// It could not attach.
    pub fn start(&self, programs: &Programs, pid: u32, name: &str, dir: &Path) -> Result<Tracer> {
        let mut tracer = Tracer(Process::start(&mut self.command(programs, pid), name, dir)?);
        tracer.attached()?;
        Ok(tracer)
    }

    /// What `inspect --json` says of `pid`.
    ///
    /// # Errors
    /// It failed.
    pub fn inspect(&self, programs: &Programs, pid: u32) -> Result<String> {
        let mut command = Command::new(&programs.tracer);
        command.arg("inspect").arg(pid.to_string()).arg("--json");
        for function in &self.functions {
            command.args(["--function", function]);
        }
        let out = command.output().context("inspect")?;
        let errors = String::from_utf8_lossy(&out.stderr);
        anyhow::ensure!(out.status.success(), "inspect failed: {}\n{errors}", out.status);
        Ok(String::from_utf8(out.stdout)?)
    }
}

impl Tracer {
    /// Waits until it says that the probes are in place.
    ///
    /// # Errors
    /// It ended instead.
    pub fn attached(&mut self) -> Result<()> {
        self.0.wait_until("being attached", PATIENCE, |process| {
            let file = process.stdout_path().context("its output is not in a file")?;
            let mut line = String::new();
            BufReader::new(File::open(file)?).read_line(&mut line)?;
            Ok((line.ends_with('\n') && line.contains("\"attached\"")).then_some(()))
        })
    }

    /// Ctrl-C: waits for its end and returns what it printed.
    ///
    /// # Errors
    /// It failed, or printed something else than a trace.
    pub fn stop(&mut self) -> Result<Trace> {
        self.0.signal(libc::SIGINT);
        self.finish()
    }

    /// Waits for its end and returns what it printed.
    ///
    /// # Errors
    /// It failed, or printed something else than a trace.
    pub fn finish(&mut self) -> Result<Trace> {
        self.0.succeed(PATIENCE)?;
        self.trace()
    }

    /// What it has printed so far.
    ///
    /// # Errors
    /// That is not a trace.
    pub fn trace(&self) -> Result<Trace> {
        let file = self.0.stdout_path().context("its output is not in a file")?;
        Trace::read(BufReader::new(File::open(file)?))
    }
}
