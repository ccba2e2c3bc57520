//! `cargo xtask interop`: a live workload is traced into a real Jaeger, by every protocol, directly
//! and through a real OpenTelemetry Collector; what Jaeger then has is held against what the
//! tracer printed.

mod backends;
mod compare;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::harness::{Attach, Mini, MiniOptions, PATIENCE, Programs, Standin, wait_for};
use e2e::trace::Trace;

use crate::{build, host, sh};
use backends::{Collector, Jaeger, Receivers};

/// How to go about it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only build Jaeger, which takes minutes the first time
    #[arg(long)]
    build_only: bool,

    /// Keep what the run wrote in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// One way for spans to get into Jaeger.
struct Way {
    service: &'static str,
    protocol: Protocol,
    through_collector: bool,
    /// `run` instead of `attach`.
    run: bool,
}

#[derive(Clone, Copy)]
enum Protocol {
    Thrift,
    Grpc,
    Http,
}

const WAYS: [Way; 6] = {
    const fn way(service: &'static str, protocol: Protocol, through_collector: bool) -> Way {
        Way { service, protocol, through_collector, run: false }
    }
    [
        way("thrift-direct", Protocol::Thrift, false),
        Way { run: true, ..way("grpc-direct", Protocol::Grpc, false) },
        way("http-direct", Protocol::Http, false),
        Way { run: true, ..way("thrift-collector", Protocol::Thrift, true) },
        way("grpc-collector", Protocol::Grpc, true),
        way("http-collector", Protocol::Http, true),
    ]
};

/// Builds, starts, traces, compares.
///
/// # Errors
/// Something is missing, does not build, or does not run.
pub fn run(args: &Args) -> Result<ExitCode> {
    let jaeger = backends::build()?;
    if args.build_only {
        return Ok(ExitCode::SUCCESS);
    }
    host::require_tracing()?;
    let programs = build::programs()?;
    let dir = sh::Folder::new(args.keep.as_deref())?;
    let dir = dir.path();
    let began = Instant::now();
    let store = Jaeger::start(&jaeger, dir)?;
    let collector = Collector::start(&jaeger, &store, 100, dir)?;
    sh::say("Jaeger and a Collector in front of it are up");

    let mut good = true;
    let mut traces = vec![];
    for way in &WAYS {
        let to = if way.through_collector { &collector.receivers } else { &store.receivers };
        let options = MiniOptions { agents: 3, ..MiniOptions::default() };
        let trace = trace(&programs, way, to, options, &[], &dir.join(way.service))?;
        sh::say(format_args!("{}: {} spans sent", way.service, trace.spans.len()));
        traces.push((way, trace));
    }
    for (way, trace) in &traces {
        let stored = backends::wait_for_spans(&store, way.service, trace.spans.len())?;
        let wrong = compare::compare(way.service, trace, &stored)?;
        let (spans, count) = (trace.spans.len(), stored.len());
        println!("{:18} {spans:5} spans in {count:3} traces, {} differ", way.service, wrong.len());
        wrong.iter().take(20).for_each(|what| println!("    {what}"));
        good &= wrong.is_empty() && spans > 10;
        if way.through_collector {
            counted(&collector, way.service, trace.spans.len() as u64)?;
        }
    }
    good &= sampled(&programs, &jaeger, &store, dir)?;
    println!(
        "interop: {} after {} s",
        if good { "ok" } else { "FAILED" },
        began.elapsed().as_secs()
    );
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The Collector's span metrics are of everything that was sent.
fn counted(collector: &Collector, service: &str, expected: u64) -> Result<()> {
    let mut last = 0;
    wait_for("the Collector's span metrics", Duration::from_secs(30), || {
        last = collector.counted(service)?;
        Ok((last == expected).then_some(()))
    })
    .with_context(|| format!("{service}: {last} of {expected} spans counted"))
}

/// Ours and the Collector's sampling: of agents that fail in several ways, all traces with an
/// error arrive, whole, and no others.
fn sampled(programs: &Programs, program: &Path, store: &Jaeger, dir: &Path) -> Result<bool> {
    let collector = Collector::start(program, store, 0, dir)?;
    let faults = || MiniOptions { agents: 5, mix: "faults".into(), ..MiniOptions::default() };
    let way = |service, through_collector| Way {
        service,
        protocol: Protocol::Http,
        through_collector,
        run: false,
    };
    let ours = way("sampled-here", false);
    let keep = ["--sample-rate", "0", "--keep", "error"];
    let here = trace(programs, &ours, &store.receivers, faults(), &keep, &dir.join(ours.service))?;
    let theirs = way("sampled-there", true);
    let there_dir = dir.join(theirs.service);
    let there = trace(programs, &theirs, &collector.receivers, faults(), &[], &there_dir)?;
    counted(&collector, theirs.service, there.spans.len() as u64)?;
    let mut good = true;
    for (way, all) in [(ours, here), (theirs, there)] {
        let kept = with_errors(&all);
        ensure!(!kept.spans.is_empty(), "{}: no agent failed, so nothing is shown", way.service);
        let stored = backends::wait_for_spans(store, way.service, kept.spans.len())?;
        let wrong = compare::compare(way.service, &kept, &stored)?;
        println!(
            "{:18} {:5} of {} spans, {} differ",
            way.service,
            kept.spans.len(),
            all.spans.len(),
            wrong.len()
        );
        wrong.iter().take(20).for_each(|what| println!("    {what}"));
        good &= wrong.is_empty();
    }
    Ok(good)
}

/// The traces with an error in them.
fn with_errors(all: &Trace) -> Trace {
    let failed: std::collections::HashSet<&str> = all
        .spans
        .iter()
        .filter(|span| matches!(span.outcome.as_str(), "error" | "panicked"))
        .map(|span| span.trace_id.as_str())
        .collect();
    let kept = all.spans.iter().filter(|span| failed.contains(span.trace_id.as_str()));
    Trace { spans: kept.cloned().collect(), ..Trace::default() }
}

/// Runs the miniature under the tracer and returns what that printed.
fn trace(
    programs: &Programs,
    way: &Way,
    to: &Receivers,
    mut options: MiniOptions,
    more: &[&str],
    dir: &Path,
) -> Result<Trace> {
    std::fs::create_dir_all(dir)?;
    let mut flags: Vec<String> = match way.protocol {
        Protocol::Thrift => vec!["--jaeger-endpoint".into(), format!("http://{}", to.thrift)],
        Protocol::Grpc => vec!["--otlp-endpoint".into(), format!("http://{}", to.otlp_grpc)],
        Protocol::Http => {
            vec!["--otlp-endpoint".into(), format!("http://{}/v1/traces", to.otlp_http)]
        }
    };
    flags.extend(["--service-name".into(), way.service.into()]);
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    let standin = Standin::start(programs, dir)?;
    let trace = if way.run {
        let out = dir.join("spans.jsonl");
        options.under = vec![programs.tracer.clone().into(), "run".into(), "--json".into()];
        options.under.extend(["-o".into(), out.clone().into()]);
        options.under.extend(flags.into_iter().map(Into::into));
        options.under.push("--".into());
        let mut mini = Mini::start(programs, &standin, &options, dir)?;
        mini.open()?;
        mini.process.succeed(PATIENCE)?;
        Trace::read(BufReader::new(File::open(&out)?))?
    } else {
        let attach = flags.into_iter().fold(Attach::default(), Attach::arg);
        let mut mini = Mini::start(programs, &standin, &options, dir)?;
        let mut tracer = attach.start(programs, mini.pid(), "tracer", dir)?;
        mini.open()?;
        mini.process.succeed(PATIENCE)?;
        tracer.finish()?
    };
    let exports = trace.summary()?.more.get("exports").cloned().unwrap_or_default();
    let drops = exports.pointer("/0/drops").and_then(serde_json::Value::as_object);
    let dropped = drops.into_iter().flatten().filter(|(_, count)| **count != 0).count();
    ensure!(drops.is_some() && dropped == 0, "{}: the exporter lost some: {exports}", way.service);
    Ok(trace)
}
