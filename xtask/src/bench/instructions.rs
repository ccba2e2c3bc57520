//! `instructions`: how many instructions the pure stages spend on an event, counted by callgrind:
//! no clock has a part in it, so a regression shows on any machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use tracer_ebpf::event::{
    EndHow, Header, Kind, LeafEnd, LeafKind, LeafStart, ParentSource, Payload, PayloadKind,
    SpanEnd, SpanStart, Wire,
};

use super::Bench;
use super::stats::Figure;
use crate::{host, sh};

/// No more than that, for a mean event of [`trace`]: what was measured, and a tenth.
const CEILING: f64 = 2_550.0;

/// Records of one trace of [`trace`].
const RECORDS: u64 = 13;

/// Counts. `replay` reads, decodes, assembles and finds attributes, as `attach` does; the
/// difference between a short and a long recording leaves out what is done once.
///
/// # Errors
/// Callgrind is missing or fails.
pub fn run(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    const TRACES: [u64; 2] = [1_000, 6_000];
    host::apt_install(&["valgrind"], "count instructions")?;
    let mut counted = vec![];
    for traces in TRACES {
        let file = bench.dir.join(format!("synthetic-{traces}.rec"));
        fs::write(&file, recording(traces)).with_context(|| file.display().to_string())?;
        counted.push(count(&bench.programs.tracer, &file, bench.dir)? as f64);
    }
    let events = ((TRACES[1] - TRACES[0]) * RECORDS) as f64;
    let each = (counted[1] - counted[0]) / events;
    Ok(vec![
        Figure::single("decode, assemble, attributes: an event", "instr.", each).at_most(CEILING),
    ])
}

fn count(tracer: &Path, recording: &Path, dir: &Path) -> Result<u64> {
    let out = dir.join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(tracer).arg("replay").arg(recording).args(["--quiet", "--json"]);
    sh::output(&mut valgrind)?;
    let text = fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    totals.and_then(|n| n.trim().parse().ok()).context("callgrind gives no totals")
}

/// A recording of so many traces.
fn recording(traces: u64) -> Vec<u8> {
    let mut out = b"orchestrate-trace recording 1\n".to_vec();
    let function = |id: u16, name: &str| {
        serde_json::json!({
            "id": id, "function": name, "span": name, "kind": "internal", "is_async": true,
            "size_at_least": 0, "size_exact": false,
        })
    };
    let meta = serde_json::json!({
        "seed": "0123456789abcdef0123456789abcdef",
        "anchor": { "offset_ns": 1_700_000_000_000_000_000_i64 },
        "target": { "pid": 1, "executable": "/bin/x", "build_id": null },
        "functions": [function(1, "app::agent"), function(2, "app::tool")],
    });
    out.extend(meta.to_string().into_bytes());
    out.push(b'\n');
    let mut write = |record: &[u8]| {
        out.push(b'E');
        out.extend((record.len() as u32).to_le_bytes());
        out.extend(record);
    };
    for n in 0..traces {
        trace(n, &mut write);
    }
    out
}

/// One trace: an agent, four tools one after the other, a statement in the last of them.
fn trace(n: u64, write: &mut impl FnMut(&[u8])) {
    let mut now = 1_000_000_000 + n * 1_000_000;
    let mut header = |kind: Kind, fn_id: u16, id: u64| {
        now += 1_000;
        Header { kind: kind as u8, flags: 0, fn_id, tid: 7, ts: now, id }
    };
    let root = n * 100 + 1;
    let task = 0x5500_0000_0000 + (n % 64) * 4096;
    let start = |header: Header, parent: u64, addr: u64| {
        let source = if parent == 0 { ParentSource::Root } else { ParentSource::Frame };
        SpanStart { header, parent, addr, task_and_source: SpanStart::pack(task, source) }
    };
    let end = |header: Header| SpanEnd {
        header,
        busy_ns: 500,
        polls: 3,
        how: EndHow::Returned as u8,
        reserved: [0; 3],
    };
    write(start(header(Kind::SpanStart, 1, root), 0, task + 0x38).as_bytes());
    for child in 1..=4 {
        let id = root + child;
        write(start(header(Kind::SpanStart, 2, id), root, task + 0x100).as_bytes());
        if child == 4 {
            let leaf = root + 50;
            write(
                LeafStart {
                    header: header(Kind::LeafStart, 0, leaf),
                    parent: id,
                    key: 0x1000,
                    leaf: LeafKind::Statement as u8,
                    source: ParentSource::Frame as u8,
                    task: [0; 6],
                }
                .as_bytes(),
            );
            write(statement(header(Kind::Payload, 0, leaf)).as_bytes());
            let header = header(Kind::LeafEnd, 0, leaf);
            write(LeafEnd { header, end: header.ts, count: 1, status: 101 }.as_bytes());
        }
        write(end(header(Kind::SpanEnd, 2, id)).as_bytes());
    }
    write(end(header(Kind::SpanEnd, 1, root)).as_bytes());
}

fn statement(header: Header) -> Payload {
    const TEXT: &[u8] = b"SELECT id, name FROM agents WHERE id = ? ORDER BY created_at LIMIT 10";
    let mut bytes = [0; Payload::CAPACITY];
    bytes[..TEXT.len()].copy_from_slice(TEXT);
    Payload {
        header,
        key: 0x1000,
        offset: 0,
        len: TEXT.len() as u32,
        captured: TEXT.len() as u16,
        what: PayloadKind::SqlText as u8,
        reserved: 0,
        tail: [0; 8],
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_as_many_records_as_are_divided_by() {
        let mut records = 0;
        trace(0, &mut |_| records += 1);
        assert_eq!(records, RECORDS);
    }
}
