//! Writes the truth file; [`crate::record`] says what is in it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use crate::args::Args;
use crate::bodies::{self, Kind};
use crate::record::{self, Link, Outcome, Slot};

const OUTCOMES: [&str; 5] = ["running", "ok", "err", "cancelled", "panicked"];
const LINKS: [&str; 5] = ["await", "await", "spawn", "blocking", "root"];

/// Writes the header and every span to `path`.
///
/// # Errors
/// The file cannot be written, or there were more spans than room.
pub fn write(path: &Path, args: &Args, checksum: u64) -> io::Result<()> {
    let (slots, overflow) = record::spans();
    if overflow > 0 {
        return Err(io::Error::other(format!("{overflow} spans did not fit into the record")));
    }
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    header(&mut out, args, checksum)?;
    let polls = polls(slots);
    for (place, (slot, polls)) in slots.iter().zip(polls).enumerate() {
        span(&mut out, place + 1, slot, polls)?;
    }
    out.flush()
}

fn header(out: &mut impl Write, args: &Args, checksum: u64) -> io::Result<()> {
    let Args { seed, agents, workers, mix, .. } = args;
    let (pid, mix) = (std::process::id(), mix.name());
    write!(out, r#"{{"v":1,"pid":{pid},"seed":{seed},"mix":"{mix}","agents":{agents},"#)?;
    write!(out, r#""workers":{workers},"checksum":"{checksum:016x}","bodies":["#)?;
    for (i, body) in bodies::all().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let (id, function, line) = (body.id.0, body.function(), body.line());
        write!(out, r#"{comma}{{"id":{id},"function":"{function}","file":"{}","#, body.file)?;
        write!(out, r#""line":{line},"mix":"{}"}}"#, body.mix)?;
    }
    writeln!(out, "]}}")
}

fn span(out: &mut impl Write, id: usize, slot: &Slot, polls: Option<u32>) -> io::Result<()> {
    let (body, agent) = (slot.body.load(Relaxed), slot.agent.load(Relaxed));
    let (start, addr) = (slot.start.load(Relaxed), slot.addr.load(Relaxed));
    let outcome = OUTCOMES[usize::from(slot.outcome.load(Relaxed))];
    let link = LINKS[usize::from(slot.link.load(Relaxed))];
    let tid = slot.tid.load(Relaxed);
    write!(out, r#"{{"id":{id},"parent":"#)?;
    or_null(out, u64::from(slot.parent.load(Relaxed)))?;
    write!(out, r#","body":{body},"agent":{agent},"addr":{addr},"start_ns":{start},"end_ns":"#)?;
    or_null(out, slot.end.load(Relaxed))?;
    write!(out, r#","outcome":"{outcome}","polls":"#)?;
    or_null(out, u64::from(polls.unwrap_or(0)))?;
    writeln!(out, r#","tid":{tid},"link":"{link}"}}"#)
}

fn or_null(out: &mut impl Write, number: u64) -> io::Result<()> {
    if number == 0 { out.write_all(b"null") } else { write!(out, "{number}") }
}

/// How often each span was polled, where that is certain: it returned `Pending` as often as the
/// futures that it awaited did, and was polled once more unless it was dropped suspended.
fn polls(slots: &[Slot]) -> Vec<Option<u32>> {
    let mut pending: Vec<Option<u32>> = slots
        .iter()
        .map(|slot| match bodies::kind(slot.body.load(Relaxed)) {
            Kind::Leaf | Kind::Chain => Some(slot.pending.load(Relaxed)),
            Kind::Other => None,
        })
        .collect();
    // Children come after their parents, so from the end each is complete before it is added.
    for place in (0..slots.len()).rev() {
        let parent = slots[place].parent.load(Relaxed) as usize;
        if slots[place].link.load(Relaxed) == Link::Await as u8 && parent > 0 {
            pending[parent - 1] = pending[parent - 1].zip(pending[place]).map(|(a, b)| a + b);
        }
    }
    let ended = |slot: &Slot| {
        let outcome = slot.outcome.load(Relaxed);
        outcome != Outcome::Running as u8 && outcome != Outcome::Cancelled as u8
    };
    slots.iter().zip(pending).map(|(slot, n)| n.map(|n| n + u32::from(ended(slot)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bodies::{agent, calls};
    use crate::plan::{Cx, Fate, MAX_BUDGET};
    use futures::FutureExt;
    use std::future::Future;
    use std::panic::AssertUnwindSafe;
    use std::pin::Pin;
    use std::task::{Context, Waker};

    /// Polls `future` until it is done, but not more than `most` times; says how often it was.
    fn drive<F: Future + ?Sized>(mut future: Pin<Box<F>>, most: u32) -> u32 {
        let mut context = Context::from_waker(Waker::noop());
        for polls in 1..=most {
            if future.as_mut().poll(&mut context).is_ready() {
                return polls;
            }
        }
        most
    }

    /// The span of agent `agent` that has no parent, and its polls.
    fn root(agent: u32) -> (&'static Slot, Option<u32>) {
        let (slots, _) = record::spans();
        let is_it =
            |slot: &Slot| slot.agent.load(Relaxed) == agent && slot.parent.load(Relaxed) == 0;
        let place = slots.iter().position(is_it).expect("a root");
        (&slots[place], polls(slots)[place])
    }

    // One test, because the record is one per process and ids of two would mingle.
    #[test]
    fn the_record_agrees_with_who_polls() {
        record::start_recording(200 * usize::from(MAX_BUDGET));
        for seed in 0..50 {
            let fates = [Fate::Ok, Fate::Err, Fate::Never];
            let cx = Cx { fate: fates[seed % 3], ..Cx::agent(seed as u64, seed as u32, false) };
            let future = Box::pin(calls::merge_tables(cx));
            let from = std::ptr::from_ref(&*future) as u64;
            let extent = from..from + size_of_val(&*future) as u64;
            let most = if seed % 5 == 0 { 2 } else { 200 };
            let polled = drive(future, most);
            let (slot, polls) = root(seed as u32);
            assert_eq!(polls, Some(polled), "seed {seed}");
            assert!(extent.contains(&slot.addr.load(Relaxed)), "seed {seed}");
        }
        // The whole agent panics; it is driven by somebody who catches that.
        let agent = 1000;
        let cx = Cx { fate: Fate::Panic, ..Cx::agent(1, agent, false) };
        let caught = AssertUnwindSafe(calls::walk_tree(cx)).catch_unwind();
        let polled = drive(Box::pin(caught), 1_000);
        let (slot, polls) = root(agent);
        assert_eq!(slot.outcome.load(Relaxed), Outcome::Panicked as u8);
        assert_eq!(polls, Some(polled));
        // A future that nobody polls is no span.
        let (before, _) = record::spans();
        drop(agent::run_agent(Cx::agent(1, 1001, false)));
        assert_eq!(record::spans().0.len(), before.len());
    }
}
