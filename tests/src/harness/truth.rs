//! The truth workload, gated: it runs when the tracer is there, and stays until it has gone.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{Attach, PATIENCE, Process, Programs};
use crate::trace::Trace;
use crate::truth::{Coverage, Truth, Verdict, compare};

/// Long enough for the largest run on a slow machine.
const RUN: Duration = Duration::from_secs(600);

/// The bodies that a tracer is to follow.
pub const FUNCTIONS: &str = "truth_workload::bodies::*";

/// What to run.
#[derive(Clone, Debug)]
pub struct TruthOptions {
    /// Which plans.
    pub seed: u64,
    /// How many.
    pub agents: u32,
    /// Of which bodies.
    pub mix: String,
    /// Threads.
    pub workers: u32,
    /// Polls of every leaf; random if not given.
    pub polls: Option<u32>,
    /// Whether the workload records its truth.
    pub guards: bool,
    /// How to attach, functions aside.
    pub attach: Attach,
}

impl Default for TruthOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            agents: 10,
            mix: "all".into(),
            workers: 8,
            polls: None,
            guards: true,
            attach: Attach { functions: vec![FUNCTIONS.into()], ..Attach::default() },
        }
    }
}

/// A truth workload that waits for its gate, or holds after its run.
#[derive(Debug)]
pub struct TruthWorkload {
    /// The process.
    pub process: Process,
    gate: PathBuf,
    hold: PathBuf,
    out: PathBuf,
}

impl TruthWorkload {
    /// Starts it in `dir` and waits until it is ready to run.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(programs: &Programs, options: &TruthOptions, dir: &Path) -> Result<Self> {
        let TruthOptions { seed, agents, mix, workers, polls, guards, attach: _ } = options;
        let [gate, hold, out] = ["gate", "hold", "truth.jsonl"].map(|name| dir.join(name));
        let mut command = Command::new(programs.truth());
        command
            .args(["--seed", &seed.to_string(), "--agents", &agents.to_string()])
            .args(["--mix", mix, "--workers", &workers.to_string()])
            .arg("--out")
            .arg(&out)
            .arg("--gate")
            .arg(&gate)
            .arg("--hold")
            .arg(&hold)
            .env_remove("RUST_BACKTRACE");
        if let Some(polls) = polls {
            command.args(["--polls", &polls.to_string()]);
        }
        if !guards {
            command.arg("--no-guards");
        }
        let mut process = Process::start(&mut command, "workload", dir)?;
        process.wait_until("being ready", PATIENCE, |process| {
            Ok(process.stdout().starts_with("ready ").then_some(()))
        })?;
        Ok(Self { process, gate, hold, out })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Lets it run.
    ///
    /// # Errors
    /// The gate cannot be opened.
    pub fn open(&self) -> Result<()> {
        Ok(fs::write(&self.gate, "")?)
    }

    /// Waits until it has run. Then it holds: it is there, and nothing moves.
    ///
    /// # Errors
    /// It failed, or takes too long.
    pub fn ran(&mut self) -> Result<()> {
        self.process.wait_until("its checksum", RUN, |process| {
            let out = process.stdout();
            Ok((out.contains("\nchecksum ") && out.ends_with('\n')).then_some(()))
        })
    }

    /// Lets it exit, and waits for that.
    ///
    /// # Errors
    /// It failed.
    pub fn close(&mut self) -> Result<()> {
        fs::write(&self.hold, "")?;
        self.process.succeed(PATIENCE)
    }

    /// What it recorded of itself.
    ///
    /// # Errors
    /// It has not run, or without recording.
    pub fn truth(&self) -> Result<Truth> {
        Truth::read(BufReader::new(File::open(&self.out)?))
    }
}

impl TruthOptions {
    /// Runs the workload under the tracer, in `dir`, and compares.
    ///
    /// # Errors
    /// One of the two could not be started, or failed.
    pub fn run(&self, programs: &Programs, dir: &Path) -> Result<(Verdict, Truth, Trace)> {
        let mut workload = TruthWorkload::start(programs, self, dir)?;
        let coverage = Coverage::read(&self.attach.inspect(programs, workload.pid())?)?;
        let mut tracer = self.attach.start(programs, workload.pid(), "tracer", dir)?;
        workload.open()?;
        workload.ran()?;
        let trace = tracer.stop()?;
        workload.close()?;
        let truth = workload.truth()?;
        let verdict = compare(&truth, &trace, &coverage)?;
        Ok((verdict, truth, trace))
    }
}
