//! `sustained`: 100,000 spans a second, without loss; `burst`: as many as the machine can do;
//! `export`: the same with every span sent over OTLP; `counts`: hits, records and bytes of a span.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use super::Bench;
use super::cost::FUNCTIONS;
use super::procfs::Look;
use super::sink::Sink;
use super::stats::{Figure, Samples};
use super::tracers::Ours;

const SECONDS: u64 = 4;

/// Spans a second that must go through without loss.
const RATE: u64 = 100_000;

/// What the tracer does at a given rate: its CPU, its wakeups.
///
/// # Errors
/// Something does not run, or was lost.
pub fn run(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut figures = vec![];
    for rate in [1_000, 10_000, RATE] {
        let (mut core, mut each, mut wakeups, mut reached) =
            (Samples::default(), Samples::default(), Samples::default(), Samples::default());
        for _ in 0..bench.rounds {
            let mut target = bench.target()?;
            let ours =
                Ours::attach(&bench.programs, target.pid(), &FUNCTIONS[..1], &[], bench.dir)?;
            let before = Look::at(ours.pid())?;
            let took = target.run(&format!("rate once {rate} {SECONDS}"))?;
            let after = Look::at(ours.pid())?;
            let account = ours.finish()?;
            account.must_be_whole()?;
            let spans = account.number("spans")?;
            ensure!(spans == took.ops, "{spans} spans of {} calls", took.ops);
            let seconds = took.elapsed_ns as f64 / 1e9;
            let cpu = (after.cpu_ns - before.cpu_ns) as f64;
            core.push(cpu / took.elapsed_ns as f64);
            each.push(cpu / took.ops as f64);
            wakeups.push((after.wakeups - before.wakeups) as f64 / seconds);
            reached.push(took.ops as f64 / seconds);
        }
        let at = format!("at {rate} spans/s");
        let held = |figure: Figure, most: f64| {
            if rate == RATE { figure.at_most(most) } else { figure }
        };
        let reached = Figure::new(format!("{at}: reached, nothing lost"), "spans/s", &reached);
        figures.push(reached.at_least(rate as f64 * 0.99));
        figures.push(held(Figure::new(format!("{at}: tracer"), "cores", &core), 0.5));
        figures.push(Figure::new(format!("{at}: tracer, a span"), "ns", &each));
        figures.push(
            Figure::new(format!("{at}: wakeups of the tracer"), "1/s", &wakeups).at_most(100.0),
        );
    }
    Ok(figures)
}

/// Every span sent to a local endpoint.
///
/// # Errors
/// Something does not run, or a span did not arrive.
pub fn export(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut figures = vec![];
    let mut sink = Sink::start(bench)?;
    let endpoint = sink.endpoint();
    for rate in [1_000, 10_000, 50_000] {
        let (mut each, mut wakeups, mut bytes) =
            (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..bench.rounds {
            let mut target = bench.target()?;
            let more = ["--exporter", "otlp", "--otlp-endpoint", &endpoint];
            let mut ours =
                Ours::attach(&bench.programs, target.pid(), &FUNCTIONS[..1], &more, bench.dir)?;
            let received = sink.received()?;
            let before = Look::at(ours.pid())?;
            let took = target.run(&format!("rate once {rate} {SECONDS}"))?;
            // Until the last of them has arrived: what is still waiting costs CPU, too.
            let want = received.spans + took.ops;
            let arrived = ours.process().wait_until("the spans", super::PATIENCE, |_| {
                Ok(Some(sink.received()?).filter(|now| now.spans >= want))
            })?;
            let after = Look::at(ours.pid())?;
            ours.finish()?.must_be_whole()?;
            let seconds = took.elapsed_ns as f64 / 1e9;
            each.push((after.cpu_ns - before.cpu_ns) as f64 / took.ops as f64 / 1000.0);
            wakeups.push((after.wakeups - before.wakeups) as f64 / seconds);
            bytes.push((arrived.bytes - received.bytes) as f64 / took.ops as f64);
        }
        let at = format!("at {rate} spans/s, exported");
        let cpu = Figure::new(format!("{at}: CPU of the tracer, a span"), "µs", &each);
        figures.push(if rate == 1_000 { cpu } else { cpu.at_most(3.0) });
        figures.push(
            Figure::new(format!("{at}: wakeups of the tracer"), "1/s", &wakeups).at_most(100.0),
        );
        figures.push(Figure::new(format!("{at}: bytes sent, a span"), "B", &bytes));
    }
    Ok(figures)
}

/// As fast as two threads go: everything is seen, or counted as lost.
///
/// # Errors
/// Something does not run, or the sums do not agree.
pub fn burst(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    const SPANS: u64 = 1_000_000;
    let (mut rate, mut lost) = (Samples::default(), Samples::default());
    for _ in 0..bench.rounds {
        let mut target = bench.target()?;
        super::target::unpin(target.pid());
        let ours = Ours::attach(&bench.programs, target.pid(), &FUNCTIONS[..1], &[], bench.dir)?;
        let took = target.run(&format!("burst once {SPANS} 2"))?;
        let account = ours.finish()?;
        let gone: u64 = account.lost().iter().map(|(_, n)| n).sum();
        let (hits, records) = (account.number("hits")?, account.number("records")?);
        ensure!(hits == 2 * took.ops, "{hits} hits of {} calls", took.ops);
        ensure!(
            records + gone == 2 * took.ops,
            "{records} records and {:?} of {} calls",
            account.lost(),
            took.ops
        );
        rate.push(2.0 * took.ops as f64 / (took.wall_ns as f64 / 1e9));
        lost.push(gone as f64);
    }
    Ok(vec![
        Figure::new("burst of 1,000,000 spans on two threads", "events/s", &rate),
        Figure::new("lost, and counted as lost", "events", &lost).at_most(0.0),
    ])
}

/// What one span is in numbers that no clock has a part in.
///
/// # Errors
/// Something does not run, or was lost.
pub fn counts(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    const OPS: [(&str, u64, &str); 5] = [
        ("plain", 10_000, "plain function"),
        ("once", 10_000, "async, polled once"),
        ("ten", 2_000, "async, polled 10 times"),
        ("hundred", 500, "async, polled 100 times"),
        ("task", 5_000, "async, as a task of its own"),
    ];
    let mut target = bench.target()?;
    let mut figures = vec![];
    let file = bench.dir.join("counts.rec");
    for (op, n, name) in OPS {
        let record = file.to_string_lossy();
        let more = ["--record", &*record];
        let ours = Ours::attach(&bench.programs, target.pid(), &FUNCTIONS, &more, bench.dir)?;
        target.run(&format!("cost {op} {n}"))?;
        let account = ours.finish()?;
        account.must_be_whole()?;
        let spans = account.number("spans")? as f64;
        let records = account.number("records")? as f64;
        let bytes = record_bytes(&fs::read(&file).with_context(|| file.display().to_string())?)?;
        let hits = account.number("hits")? as f64;
        figures.push(Figure::single(format!("{name}: hits of a span"), "", hits / spans));
        let records_each =
            Figure::single(format!("{name}: records of a span"), "", records / spans);
        figures.push(if op == "task" {
            records_each.at_most(3.0)
        } else {
            records_each.at_most(2.01)
        });
        let each = bytes as f64 / records;
        figures.push(Figure::single(format!("{name}: bytes of a record"), "B", each).at_most(48.0));
    }
    Ok(figures)
}

/// Bytes of the records in a recording: a line that names the format, a line of metadata, then
/// blocks of a tag, a length and so many bytes.
fn record_bytes(recording: &[u8]) -> Result<u64> {
    let mut rest = recording;
    for _ in 0..2 {
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            bail!("the recording has no head");
        };
        rest = &rest[end + 1..];
    }
    let mut sum = 0;
    while let Some((head, after)) = rest.split_at_checked(5) {
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        sum += if head[0] == b'E' { u64::from(length) } else { 0 };
        rest = after.get(length as usize..).context("the recording is cut off")?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_bytes_of_records_only() {
        let recording = b"format 1\n{}\nE\x03\0\0\0abcC\x02\0\0\0{}E\x01\0\0\0x";
        assert_eq!(record_bytes(recording).unwrap(), 4);
        assert!(record_bytes(b"format 1\n{}\nE\x03\0\0\0a").is_err());
    }
}
