//! `cargo xtask bench`: every figure, measured side by side.
//!
//! Who is compared runs in the same round on the same process; what is reported is the median of
//! all rounds and its spread. A benchmark that does not run fails the command; a goal that is
//! missed does not: that is a finding.

mod attach;
mod cost;
mod filler;
mod floor;
mod futures;
mod inprocess;
mod instructions;
mod kernel;
mod memory;
mod mix;
mod procfs;
mod sink;
mod stats;
mod sustained;
mod switches;
mod target;
mod tracers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use e2e::harness::{PATIENCE, Programs};
use serde::Serialize;

use crate::{build, host, sh};
use stats::Figure;
use target::{Target, pin};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this one [default: all]; `list` names them
    name: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Fail where a goal is missed
    #[arg(long)]
    check: bool,

    /// How often each comparison is made
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// A large release binary to attach to, besides those that are made for it
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// What every benchmark has at hand.
pub struct Bench<'a> {
    programs: Programs,
    rounds: usize,
    binary: Option<PathBuf>,
    dir: &'a Path,
}

impl Bench<'_> {
    /// A new target, tied to a CPU of its own.
    fn target(&self) -> Result<Target> {
        let target = Target::start(&self.programs.workloads.join("bench-target"))?;
        pin(target.pid(), true);
        Ok(target)
    }
}

type Run = fn(&Bench<'_>) -> Result<Vec<Figure>>;

/// The one that needs neither root nor a quiet machine.
const INSTRUCTIONS: &str = "instructions";

const ALL: &[(&str, &str, Run)] = &[
    ("cost", "what a span costs its target, beside the floor and bpftrace", cost::run),
    ("inprocess", "the same beside instrumentation in process", inprocess::run),
    ("counts", "hits, records and bytes of a span", sustained::counts),
    ("sustained", "what the tracer takes at given rates", sustained::run),
    ("burst", "as many events as there can be", sustained::burst),
    ("export", "what the tracer takes with every span exported", sustained::export),
    ("attach", "attaching, detaching, by probes and size of binary", attach::run),
    ("memory", "resident, and in eBPF maps", memory::run),
    ("switches", "context switches of a target at rest", switches::run),
    ("futures", "an event among many live futures", futures::run),
    ("processes", "one tracer, many processes", futures::processes),
    ("mix", "a web API with a database, traced and untraced", mix::run),
    (INSTRUCTIONS, "instructions of the pure stages, by callgrind", instructions::run),
];

#[derive(Serialize)]
struct Report {
    v: u8,
    benches: Vec<Section>,
}

#[derive(Serialize)]
struct Section {
    name: &'static str,
    figures: Vec<Figure>,
}

/// Builds, measures, prints.
///
/// # Errors
/// Something is missing, does not build, or does not run.
pub fn run(args: &Args) -> Result<ExitCode> {
    let Args { name, json, check, rounds, binary } = args;
    if name.as_deref() == Some("list") {
        for (name, what, _) in ALL {
            println!("{name:12} {what}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let wanted: Vec<_> =
        ALL.iter().filter(|(known, ..)| name.as_deref().is_none_or(|n| n == *known)).collect();
    if wanted.is_empty() {
        bail!("no such benchmark; `cargo xtask bench list` names them");
    }
    let programs = if name.as_deref() == Some(INSTRUCTIONS) {
        build::tracer_only()?
    } else {
        host::require_tracing()?;
        build::benchmarks()?
    };
    let dir = sh::Folder::new(None)?;
    let bench =
        Bench { programs, rounds: (*rounds).max(1), binary: binary.clone(), dir: dir.path() };
    let mut report = Report { v: 1, benches: vec![] };
    for (name, what, run) in wanted {
        sh::say(format_args!("{name}: {what}"));
        let figures = run(&bench).with_context(|| format!("benchmark `{name}`"))?;
        if !json {
            println!("{name}");
            for figure in &figures {
                println!("{}", figure.line());
            }
        }
        report.benches.push(Section { name, figures });
    }
    if *json {
        println!("{}", serde_json::to_string(&report)?);
    }
    let missed = report.benches.iter().flat_map(|one| &one.figures).any(|f| f.met == Some(false));
    Ok(if *check && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
