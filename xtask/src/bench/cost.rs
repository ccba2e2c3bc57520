//! `cost`: what a span costs its target, in CPU time. Every variant in every round, on one and the same
//! process, one after the other.

use anyhow::{Context, Result};

use super::stats::{Figure, Samples};
use super::target::Target;
use super::tracers::{self, Bpftrace, Ours, Style};
use super::{Bench, kernel};
use crate::{host, sh};

/// Operation, how many of them a round takes, and what it is.
const OPS: [(&str, u64, &str); 5] = [
    ("plain", 200_000, "plain function"),
    ("once", 200_000, "async, polled once"),
    ("ten", 20_000, "async, polled 10 times"),
    ("hundred", 4_000, "async, polled 100 times"),
    ("task", 20_000, "async, as a task of its own"),
];

/// What the tracer is asked to trace.
pub const FUNCTIONS: [&str; 2] = ["bench_target::step", "bench_target::plain"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Nothing,
    Floor,
    Ours,
    Histogram,
    Events,
}

const VARIANTS: [(Variant, &str); 5] = [
    (Variant::Nothing, "nothing"),
    (Variant::Floor, "floor"),
    (Variant::Ours, "ours"),
    (Variant::Histogram, "bpftrace, histogram"),
    (Variant::Events, "bpftrace, a line each"),
];

/// Measures.
///
/// # Errors
/// Something does not run, or lost what it should have measured.
pub fn run(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    host::apt_install(&["bpftrace"], "compare with it")?;
    let mut target = bench.target()?;
    // Where the floor's probes go is where ours are.
    let ours = Ours::attach(&bench.programs, target.pid(), &FUNCTIONS, &[], bench.dir)?;
    let sites = tracers::probe_sites(target.program())?;
    ours.finish()?;
    let symbols = symbols(&target)?;

    let mut samples = vec![vec![Samples::default(); VARIANTS.len()]; OPS.len()];
    for round in 0..bench.rounds {
        for at in 0..VARIANTS.len() {
            // Each round begins with another one: what drifts, drifts for all.
            let variant = (at + round) % VARIANTS.len();
            let took = one(bench, &mut target, VARIANTS[variant].0, &sites, &symbols)
                .with_context(|| VARIANTS[variant].1)?;
            for (op, ns) in took.into_iter().enumerate() {
                samples[op][variant].push(ns);
            }
        }
    }
    let mut figures = vec![];
    for ((_, _, name), of) in OPS.iter().zip(&samples) {
        let nothing = &of[0];
        figures.push(Figure::new(format!("{name}: untraced, an operation"), "ns", nothing));
        let extra: Vec<Samples> = of.iter().map(|variant| variant.minus(nothing)).collect();
        for ((_, variant), extra) in VARIANTS.iter().zip(&extra).skip(1) {
            figures.push(Figure::new(format!("{name}: {variant}, a span"), "ns", extra));
        }
        let once = *name == OPS[1].2;
        let held = |figure: Figure, goal: f64| if once { figure.at_most(goal) } else { figure };
        let [_, floor, ours, histogram, events] = &extra[..] else { continue };
        figures
            .push(held(Figure::new(format!("{name}: ours / floor"), "×", &ours.per(floor)), 1.25));
        let ratio = ours.per(histogram);
        figures.push(held(
            Figure::new(format!("{name}: ours / bpftrace histogram"), "×", &ratio),
            0.5,
        ));
        let ratio = ours.per(events);
        figures.push(Figure::new(format!("{name}: ours / bpftrace a line each"), "×", &ratio));
    }
    figures.extend(kernel_time(bench, &mut target)?);
    Ok(figures)
}

/// One variant: nanoseconds of an operation, by operation.
fn one(
    bench: &Bench<'_>,
    target: &mut Target,
    variant: Variant,
    sites: &[u64],
    symbols: &[String],
) -> Result<Vec<f64>> {
    match variant {
        Variant::Nothing => measure(target),
        Variant::Floor => {
            let floor = tracers::floor(target, sites)?;
            let took = measure(target);
            floor.finish();
            took
        }
        Variant::Ours => {
            let ours = Ours::attach(&bench.programs, target.pid(), &FUNCTIONS, &[], bench.dir)?;
            let took = measure(target);
            ours.finish()?.must_be_whole()?;
            took
        }
        Variant::Histogram | Variant::Events => {
            let style = if variant == Variant::Events { Style::Events } else { Style::Histogram };
            let bpftrace = Bpftrace::attach(target, symbols, style, bench.dir)?;
            let took = measure(target);
            bpftrace.finish()?;
            took
        }
    }
}

fn measure(target: &mut Target) -> Result<Vec<f64>> {
    OPS.iter().map(|(op, n, _)| Ok(target.run(&format!("cost {op} {n}"))?.cpu_per_op())).collect()
}

/// The symbols behind [`FUNCTIONS`], as bpftrace wants them.
fn symbols(target: &Target) -> Result<Vec<String>> {
    host::apt_install(&["binutils"], "list symbols")?;
    let mut nm = std::process::Command::new("nm");
    let out = sh::output(nm.arg(target.program()))?;
    let wanted = |name: &&str| {
        name.starts_with("_ZN12bench_target5plain17h")
            || name.starts_with("_ZN12bench_target4step28_$u7b$$u7b$closure$u7d$$u7d$17h")
    };
    let found: Vec<String> = out
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .filter(wanted)
        .map(str::to_owned)
        .collect();
    anyhow::ensure!(found.len() >= 2, "the functions to compare are not in the symbol table");
    Ok(found)
}

/// How long our programs run, by the kernel's own account, which itself takes some 50 ns a run.
fn kernel_time(bench: &Bench<'_>, target: &mut Target) -> Result<Vec<Figure>> {
    let _counting = kernel::enable_stats().context("counting the programs' time")?;
    let mut figures = vec![];
    for (op, n, name) in OPS {
        let ours = Ours::attach(&bench.programs, target.pid(), &FUNCTIONS, &[], bench.dir)?;
        target.run(&format!("cost {op} {n}"))?;
        let programs = kernel::programs()?;
        let account = ours.finish()?;
        account.must_be_whole()?;
        let spans = account.number("spans")? as f64;
        let (runs, ns) = programs
            .iter()
            .fold((0, 0), |(runs, ns), program| (runs + program.runs, ns + program.run_ns));
        let each = ns as f64 / runs.max(1) as f64;
        figures.push(Figure::single(format!("{name}: our program runs, a hit"), "ns", each));
        let each = ns as f64 / spans;
        figures.push(Figure::single(format!("{name}: our program runs, a span"), "ns", each));
    }
    Ok(figures)
}
