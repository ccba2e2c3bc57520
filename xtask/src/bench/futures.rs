//! `futures`: what an event costs while many other futures are alive. `processes`: while many
//! processes are traced.

use anyhow::{Context, Result, ensure};
use e2e::harness::wait_for;

use super::cost::FUNCTIONS;
use super::procfs::Look;
use super::stats::{Figure, Samples};
use super::target::Target;
use super::tracers::Ours;
use super::{Bench, PATIENCE, kernel};

/// How many are alive.
const LIVE: [u64; 4] = [100, 10_000, 100_000, 1_000_000];

/// From a hundred live futures to a million.
///
/// # Errors
/// Something does not run, or was lost.
pub fn run(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut target = bench.target()?;
    let mut nothing = Samples::default();
    // A future that is never suspended, and one that is: only the second is ever looked up.
    const OPS: [(&str, u64, &str); 2] =
        [("once", 100_000, "polled once"), ("ten", 10_000, "polled 10 times")];
    let mut samples = vec![vec![Samples::default(); LIVE.len()]; OPS.len()];
    for _ in 0..bench.rounds {
        target.run("live 0")?;
        nothing.push(target.run("cost once 100000")?.cpu_per_op());
        let more = ["--max-futures", "2097152", "--ring-size", "256M"];
        let ours = Ours::attach(&bench.programs, target.pid(), &FUNCTIONS[..1], &more, bench.dir)?;
        for (at, live) in LIVE.into_iter().enumerate() {
            target.run(&format!("live {live}"))?;
            for (which, (op, n, _)) in OPS.into_iter().enumerate() {
                samples[which][at].push(target.run(&format!("cost {op} {n}"))?.cpu_per_op());
            }
        }
        ours.finish()?.must_be_whole()?;
    }
    let mut figures = vec![];
    for ((_, _, name), of) in OPS.iter().zip(&samples) {
        for (live, samples) in LIVE.iter().zip(of) {
            let what = format!("{name}, {live} futures alive: an operation");
            figures.push(Figure::new(what, "ns", samples));
        }
        let [fewest, .., most] = &of[..] else { continue };
        let ratio = Figure::new(format!("{name}: a million / a hundred"), "×", &most.per(fewest));
        figures.push(ratio.at_most(1.3));
    }
    figures.push(Figure::new("untraced, polled once: an operation", "ns", &nothing));
    Ok(figures)
}

/// From one process to fifty, traced by one tracer; the same number of spans in all.
///
/// # Errors
/// Something does not run, or was lost.
pub fn processes(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    const IN_ALL: u64 = 20_000;
    const SECONDS: u64 = 3;
    let mut figures = vec![];
    for count in [1, 10, 50] {
        let (mut cpu, mut cost, mut memory) =
            (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..bench.rounds {
            // Of a name of their own: a process of somebody else's must not be traced.
            let program = bench.dir.join(format!("bench-many-{}", std::process::id()));
            std::fs::copy(bench.programs.workloads.join("bench-target"), &program)?;
            let mut targets =
                (0..count).map(|_| Target::start(&program)).collect::<Result<Vec<_>>>()?;
            let name = program.file_name().context("a name")?.to_string_lossy().into_owned();
            let ours = Ours::attach_all(&bench.programs, &name, count, &FUNCTIONS[..1], bench.dir)?;
            let before = Look::at(ours.pid())?;
            let each = IN_ALL / count as u64;
            for target in &mut targets {
                target.tell(&format!("rate once {each} {SECONDS}"))?;
            }
            let mut ops = 0;
            for target in &mut targets {
                ops += target.answer::<super::target::Took>()?.ops;
            }
            let after = Look::at(ours.pid())?;
            cpu.push((after.cpu_ns - before.cpu_ns) as f64 / ops as f64);
            memory.push((after.rss + after.maps) as f64 / f64::from(1 << 20));
            // One of them alone, while the others are traced and at rest.
            cost.push(targets[0].run("cost once 50000")?.cpu_per_op());
            let account = ours.finish()?;
            account.must_be_whole()?;
            drop(targets);
            wait_for("probes to go", PATIENCE, || Ok(kernel::links()?.is_empty().then_some(())))?;
            ensure!(ops == each * SECONDS * count as u64, "{ops} operations");
        }
        let of = format!("{count} processes");
        figures.push(Figure::new(format!("{of}: an operation in one of them"), "ns", &cost));
        let what = format!("{of}, {IN_ALL} spans/s in all: tracer, a span");
        figures.push(Figure::new(what, "ns", &cpu));
        figures.push(Figure::new(format!("{of}: memory of the tracer in all"), "MiB", &memory));
    }
    Ok(figures)
}
