//! From the kernel's bytes, through a recording, to spans: the same as without.

use proptest::prelude::*;
use tracer_ebpf::event::{self as wire, Wire, flags};

use super::model::run;
use super::scene::meta;
use crate::assemble::{Assembler, Limits, Output};
use crate::events::{
    Block, Counters, Decoder, Event, KernelId, Kind, Recorder, Replay, Stamp, StopReason, TaskAddr,
};
use crate::span::MonoNs;

fn header(kind: Kind, at: Stamp, id: KernelId) -> wire::Header {
    wire::Header { kind: kind as u8, flags: 0, fn_id: 0, tid: at.tid, ts: at.ts.0, id: id.get() }
}

/// The record that means `event`.
fn encode(event: &Event<'_>) -> Vec<u8> {
    let number = |id: Option<KernelId>| id.map_or(0, KernelId::get);
    let task = |task: Option<TaskAddr>| task.map_or(0, |task| task.0.get());
    match event {
        Event::SpanStart(e) => wire::SpanStart {
            header: wire::Header {
                fn_id: e.function.0,
                flags: if e.late { flags::LATE } else { 0 },
                ..header(Kind::SpanStart, e.at, e.id)
            },
            parent: number(e.parent),
            addr: e.addr,
            task_and_source: wire::SpanStart::pack(task(e.task), e.source),
        }
        .as_bytes()
        .to_vec(),
        Event::SpanEnd(e) => wire::SpanEnd {
            header: wire::Header {
                flags: if e.healed { flags::HEALED } else { 0 },
                ..header(Kind::SpanEnd, e.at, e.id)
            },
            busy_ns: e.polled.map_or(0, |(_, busy)| busy),
            polls: e.polled.map_or(0, |(polls, _)| polls),
            how: e.how as u8,
            reserved: [0; 3],
        }
        .as_bytes()
        .to_vec(),
        Event::TaskEnd(e) => {
            let id = KernelId::new(e.task.0.get()).unwrap();
            wire::TaskEnd { header: header(Kind::TaskEnd, e.at, id) }.as_bytes().to_vec()
        }
        Event::LeafStart(e) => wire::LeafStart {
            header: header(Kind::LeafStart, e.at, e.id),
            parent: number(e.parent),
            key: e.key,
            leaf: e.kind as u8,
            source: e.source as u8,
            task: e.task.map_or(0, |task| task.0.get()).to_le_bytes()[..6].try_into().unwrap(),
        }
        .as_bytes()
        .to_vec(),
        Event::LeafLink(e) => {
            let header = header(Kind::LeafLink, e.at, e.id);
            wire::LeafLink { header, parent: number(e.parent) }.as_bytes().to_vec()
        }
        Event::LeafEnd(e) => wire::LeafEnd {
            header: header(Kind::LeafEnd, e.at, e.id),
            end: e.end.0,
            count: e.count.unwrap_or(wire::LeafEnd::UNKNOWN),
            status: e.status.unwrap_or(-1),
        }
        .as_bytes()
        .to_vec(),
        Event::Argument(e) => unreachable!("the assembler takes no {e:?}"),
        Event::ProcessExec(e) => {
            let mut name = [0; wire::ProcessExec::CAPACITY];
            name[..e.name.len()].copy_from_slice(e.name);
            let header = header(Kind::ProcessExec, e.at, e.id);
            wire::ProcessExec { header, name }.as_bytes().to_vec()
        }
        Event::Payload(e) => {
            let mut bytes = [0; wire::Payload::CAPACITY];
            bytes[..e.bytes.len()].copy_from_slice(e.bytes);
            wire::Payload {
                header: header(Kind::Payload, e.at, e.id),
                key: e.key,
                offset: e.offset,
                len: e.len,
                captured: e.bytes.len() as u16,
                what: e.what as u8,
                reserved: 0,
                tail: e.tail,
                bytes,
            }
            .as_bytes()
            .to_vec()
        }
    }
}

fn assemble<'a>(events: impl Iterator<Item = &'a Event<'a>>) -> Vec<Output> {
    let mut assembler = Assembler::new(meta().into(), Limits::default());
    let mut out = Vec::new();
    for event in events {
        assembler.event(event, &mut out);
    }
    assembler.finish(MonoNs(u64::MAX), &mut out);
    out
}

proptest! {
    #[test]
    fn a_replay_gives_the_same_spans(dice in prop::collection::vec(any::<u8>(), 0..600)) {
        let events = run(dice).events;
        let mut recorder = Recorder::begin(Vec::new(), &meta()).unwrap();
        for event in &events {
            recorder.record(&encode(event)).unwrap();
        }
        let counters = Counters::default();
        let file = recorder.end(MonoNs(u64::MAX), &counters, StopReason::Requested).unwrap();

        let mut replay = Replay::open(&file[..]).unwrap();
        let mut assembler = Assembler::new(replay.meta().clone(), Limits::default());
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        let mut at = 0;
        while let Some(block) = replay.next_block().unwrap() {
            match block {
                Block::Record(bytes) => {
                    let event = decoder.decode(bytes);
                    prop_assert_eq!(event, Some(events[at]));
                    at += 1;
                    assembler.event(&event.unwrap(), &mut out);
                }
                Block::Counters(_) => {}
                Block::End(ending) => assembler.finish(ending.last.at, &mut out),
            }
        }
        prop_assert_eq!(at, events.len());
        prop_assert_eq!(out, assemble(events.iter()));
    }
}
