//! `inprocess`: what a span costs where the program itself makes it: `tracing` with
//! `tracing-opentelemetry` and a batch exporter, and `fastrace`, beside ours.

use std::process::Command;

use anyhow::{Result, ensure};

use super::Bench;
use super::cost::FUNCTIONS;
use super::sink::Sink;
use super::stats::{Figure, Samples};
use super::target::{Target, pin};
use super::tracers::Ours;

const OPS: [(&str, u64, &str); 4] = [
    ("plain", 100_000, "plain function"),
    ("once", 100_000, "async, polled once"),
    ("ten", 20_000, "async, polled 10 times"),
    ("hundred", 4_000, "async, polled 100 times"),
];

const IN_PROCESS: [&str; 2] = ["tracing", "fastrace"];

/// Measures. Thread: what the caller waits for. Process: the CPU that the target uses in all, its
/// exporter included.
///
/// # Errors
/// Something does not run, or spans got lost.
pub fn run(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut plain = bench.target()?;
    let mut sink = Sink::start(bench)?;
    let program = bench.programs.workloads.join("bench-instrumented");
    let mut others = vec![];
    for kind in IN_PROCESS {
        let mut command = Command::new(&program);
        command.args([kind, &sink.endpoint()]);
        let mut target = Target::start_with(command, &program)?;
        let _: serde_json::Value = target.answer()?;
        pin(target.pid(), true);
        others.push(target);
    }
    // By operation: ours, tracing, fastrace; nanoseconds of the caller, CPU of the process.
    let mut waited = vec![vec![Samples::default(); 3]; OPS.len()];
    let mut used = vec![vec![Samples::default(); 3]; OPS.len()];
    for _ in 0..bench.rounds {
        let mut nothing = vec![];
        for (op, n, _) in OPS {
            nothing.push(plain.run(&format!("cost {op} {n}"))?);
        }
        let ours = Ours::attach(&bench.programs, plain.pid(), &FUNCTIONS, &[], bench.dir)?;
        for (at, (op, n, _)) in OPS.iter().enumerate() {
            let took = plain.run(&format!("cost {op} {n}"))?;
            let base = nothing[at];
            waited[at][0].push(took.per_op() - base.per_op());
            used[at][0].push(took.cpu_per_op() - base.cpu_per_op());
        }
        ours.finish()?.must_be_whole()?;
        for (which, target) in others.iter_mut().enumerate() {
            for (at, (op, n, _)) in OPS.iter().enumerate() {
                let before = sink.received()?.spans;
                let took = target.run(&format!("cost {op} {n}"))?;
                let spans = sink.received()?.spans - before;
                ensure!(spans >= *n, "{}: {spans} of {n} spans exported", IN_PROCESS[which]);
                waited[at][which + 1].push(took.per_op() - nothing[at].per_op());
                used[at][which + 1].push(took.cpu_per_op() - nothing[at].cpu_per_op());
            }
        }
    }
    let mut figures = vec![];
    for (at, (.., name)) in OPS.iter().enumerate() {
        for (which, who) in ["ours", "tracing-opentelemetry", "fastrace"].iter().enumerate() {
            let what = format!("{name}: {who}, a span, caller");
            figures.push(Figure::new(what, "ns", &waited[at][which]));
            let what = format!("{name}: {who}, a span, CPU of the target");
            figures.push(Figure::new(what, "ns", &used[at][which]));
        }
        let ratio = waited[at][0].per(&waited[at][1]);
        let figure =
            Figure::new(format!("{name}: ours / tracing-opentelemetry, caller"), "×", &ratio);
        figures.push(if OPS[at].0 == "once" { figure.at_most(1.0) } else { figure });
        let ratio = used[at][0].per(&used[at][1]);
        figures.push(Figure::new(
            format!("{name}: ours / tracing-opentelemetry, CPU of the target"),
            "×",
            &ratio,
        ));
    }
    Ok(figures)
}
