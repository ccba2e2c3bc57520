//! `cargo xtask demo`: a miniature orchestrate, already running, is traced; what was seen is held
//! against the program's own record.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::agents::{self, Report};
use e2e::harness::{Mini, MiniOptions, PATIENCE, Process, Standin};
use e2e::mini;
use e2e::trace::Trace;

use crate::{build, host, sh};

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stay until Ctrl-C: agents come and go
    #[arg(long)]
    watch: bool,

    /// How many agents
    #[arg(long, default_value_t = 6)]
    agents: u32,

    /// How many of them at once
    #[arg(long, default_value_t = 3)]
    concurrency: u32,

    /// Keep what the run wrote in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Builds, starts, attaches, shows, compares.
///
/// # Errors
/// Something is missing, does not build, or does not run.
pub fn run(args: &Args) -> Result<ExitCode> {
    host::require_tracing()?;
    let &Args { watch, agents, concurrency, ref keep } = args;
    let programs = build::programs()?;
    let dir = sh::Folder::new(keep.as_deref())?;
    let dir = dir.path();

    let standin = Standin::start(&programs, dir)?;
    let options = MiniOptions { agents, concurrency, stay: watch, ..MiniOptions::default() };
    let mut mini = Mini::start(&programs, &standin, &options, dir)?;
    let pid = mini.pid();
    sh::say(format_args!("mini-orchestrate runs as pid {pid}, plain release, no debuginfo"));
    sh::say(format_args!("orchestrate-trace attach {pid}"));

    let recording = dir.join("demo.rec");
    let mut attach = Command::new(&programs.tracer);
    attach.arg("attach").arg(pid.to_string()).arg("--record").arg(&recording);
    // The tree on this terminal; what it says to people is passed on when it has ended.
    let mut tracer = Process::start_visible(&mut attach, "tracer", dir)?;
    tracer.wait_until("being attached", PATIENCE, |process| {
        Ok(process.stderr().contains("attached to pid").then_some(()))
    })?;
    mini.open()?;
    if watch {
        // Ctrl-C reaches the tracer, the program and us alike.
        ignore_interrupt();
        let forever = Duration::from_secs(u64::from(u32::MAX));
        tracer.wait(forever)?;
        eprint!("{}", tracer.stderr());
        return Ok(ExitCode::SUCCESS);
    }
    mini.process.succeed(Duration::from_secs(300))?;
    // Its target has exited, so it ends by itself.
    tracer.succeed(PATIENCE)?;
    eprint!("{}", tracer.stderr());

    let replay =
        sh::output(Command::new(&programs.tracer).arg("replay").arg(&recording).arg("--json"))
            .context("replaying the recording")?;
    let trace = Trace::read(format!("{replay}\n").as_bytes())?;
    let report = agents::compare(&mini::agents(&mini.record()?)?, &trace)?;
    print(&report);
    Ok(if report.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report) {
    println!("\nheld against the program's own record (known/traced):");
    println!(
        "{:36}  {:20} {:>5} {:>7} {:>12} {:>10}",
        "agent", "type", "trees", "tools", "statements", "requests"
    );
    for row in &report.agents {
        let pair = |(known, found): (u64, u64)| format!("{known}/{found}");
        println!(
            "{:36}  {:20} {:>5} {:>7} {:>12} {:>10}",
            row.agent,
            row.agent_type,
            row.trees,
            pair(row.tools),
            pair(row.statements),
            pair(row.requests)
        );
        for wrong in &row.wrong {
            println!("    {wrong}");
        }
    }
    let Report { spans, right, orphaned, wrong_parent, missing, hits, records, drops, .. } = report;
    println!(
        "{right} of {spans} right; {orphaned} orphaned, {wrong_parent} with a wrong parent, \
         {missing} missing; {hits} hits, {records} records, drops: {}",
        if drops.is_empty() { "none".to_owned() } else { format!("{drops:?}") }
    );
    println!("{}", if report.is_right() { "demo: ok" } else { "demo: FAILED" });
}

fn ignore_interrupt() {
    // SAFETY: SIG_IGN installs no handler, so nothing runs in signal context.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}
