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
