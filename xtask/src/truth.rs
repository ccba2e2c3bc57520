//! `cargo xtask truth`: a trace held against the truth, as one JSON object.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use e2e::harness::{Attach, TruthOptions};

use crate::{build, host, live, sh};

/// What to compare with what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object; without it, the same in words
    #[arg(long)]
    json: bool,

    /// Seed of the plans
    #[arg(long, default_value_t = 1, conflicts_with = "pid")]
    seed: u64,

    /// How many agents run, all at once
    #[arg(long, default_value_t = 100, conflicts_with = "pid")]
    agents: u32,

    /// Which bodies: calls, concurrent, tasks, cancel, panic, boxed, local, tiny, all
    #[arg(long, default_value = "all", conflicts_with = "pid")]
    mix: String,

    /// Worker threads of the workload's runtime
    #[arg(long, default_value_t = 8, conflicts_with = "pid")]
    workers: u32,

    /// Polls of every leaf [default: random]
    #[arg(long, conflicts_with = "pid")]
    polls: Option<u32>,

    /// Size of the ring buffer, such as 64K: a small one loses on purpose
    #[arg(long, value_name = "BYTES")]
    ring_size: Option<String>,

    /// How probes are attached: auto, uprobe-multi, perf-event
    #[arg(long)]
    mechanism: Option<String>,

    /// Keep what the run wrote in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// Instead of the truth workload: this live orchestrate
    #[arg(long, requires_all = ["db", "api_log"])]
    pid: Option<u32>,

    /// Its database
    #[arg(long, value_name = "FILE", requires = "pid")]
    db: Option<PathBuf>,

    /// The log of its API endpoint: JSON lines with `start` and `end` (Unix seconds), `path`,
    /// `model`, `input_tokens`, `output_tokens`
    #[arg(long, value_name = "FILE", requires = "pid")]
    api_log: Option<PathBuf>,

    /// Watch it for so many seconds [default: until its agents are done]
    #[arg(long, value_name = "SECONDS", requires = "pid")]
    duration: Option<u64>,
}

/// Runs the comparison. The exit status says whether the trace is sound.
///
/// # Errors
/// Something is missing, does not build, or does not run.
pub fn run(args: &Args) -> Result<ExitCode> {
    host::require_tracing()?;
    let Args { json, seed, agents, mix, workers, polls, ring_size, mechanism, .. } = args;
    let mut attach = Attach { ring_size: ring_size.clone(), ..Attach::default() };
    if let Some(mechanism) = mechanism {
        attach = attach.arg("--mechanism").arg(mechanism);
    }
    let dir = sh::Folder::new(args.keep.as_deref())?;
    let dir = dir.path();

    if let (Some(pid), Some(db), Some(api_log)) = (args.pid, &args.db, &args.api_log) {
        let programs = build::tracer_only()?;
        let duration = args.duration.map(Duration::from_secs);
        let watch = live::Watch { pid, db, api_log, duration, attach };
        let verdict = watch.run(&programs, dir)?;
        return print(&verdict, verdict.is_right(), *json);
    }

    let programs = build::programs()?;
    let mut options = TruthOptions {
        seed: *seed,
        agents: *agents,
        mix: mix.clone(),
        workers: *workers,
        polls: *polls,
        ..TruthOptions::default()
    };
    options.attach.ring_size = attach.ring_size;
    options.attach.more = attach.more;
    let (verdict, ..) = options.run(&programs, dir)?;
    // What a small ring loses is no fault of this run.
    let good = if ring_size.is_some() { verdict.is_sound() } else { verdict.is_right() };
    print(&verdict, good, *json)
}

fn print(verdict: &impl serde::Serialize, good: bool, json: bool) -> Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string(verdict)?);
    } else {
        println!("{}", serde_json::to_string_pretty(verdict)?);
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
