//! A stage for tests: builds events by hand, feeds them, checks what must always hold, and draws
//! the trees that come out.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use crate::assemble::{Assembler, Limits, Output, Stats};
use crate::events::{
    EndHow, Event, FnId, KernelId, LeafEnd, LeafKind, LeafLink, LeafStart, ParentSource, Payload,
    PayloadKind, SpanEnd, SpanStart, Stamp, TaskAddr, TaskEnd,
};
use crate::plan::{FunctionMeta, TargetMeta, TraceMeta};
use crate::span::{ClockAnchor, MonoNs, Span, SpanId, SpanKind};

/// A coroutine of 1,000 bytes.
pub const BIG: u16 = 1;
/// A coroutine of 100 bytes.
pub const SMALL: u16 = 2;
/// A coroutine of unknown size.
pub const VAGUE: u16 = 3;
/// A plain function.
pub const PLAIN: u16 = 4;
/// Another coroutine of 100 bytes.
pub const OTHER: u16 = 5;

pub fn meta() -> TraceMeta {
    meta_with([1000, 100, 0, 0, 100])
}

/// The same functions with other sizes.
pub fn meta_with(sizes: [u32; 5]) -> TraceMeta {
    let function = |id, name: &str, size_at_least, is_async| FunctionMeta {
        id,
        function: format!("app::{name}").into(),
        span: name.into(),
        kind: SpanKind::Internal,
        is_async,
        size_at_least,
        size_exact: size_at_least != 0,
        attributes: Vec::new(),
        constants: Vec::new(),
    };
    let functions = vec![
        function(BIG, "big", sizes[0], true),
        function(SMALL, "small", sizes[1], true),
        function(VAGUE, "vague", sizes[2], true),
        function(PLAIN, "plain", sizes[3], false),
        function(OTHER, "other", sizes[4], true),
    ];
    TraceMeta {
        seed: "000102030405060708090a0b0c0d0e0f".into(),
        anchor: ClockAnchor { offset_ns: 0 },
        target: TargetMeta { pid: 1, executable: PathBuf::from("/app"), build_id: None },
        functions,
    }
}

/// A start with everything at its simplest: a root outside any task.
pub fn start(id: u64, function: u16, addr: u64) -> SpanStart {
    SpanStart {
        at: Stamp { ts: MonoNs(0), tid: 1 },
        id: KernelId::new(id).unwrap(),
        function: FnId(function),
        parent: None,
        source: ParentSource::Root,
        addr,
        task: None,
        late: false,
    }
}

/// Small changes to a start.
impl SpanStart {
    pub(super) fn below(self, parent: u64) -> Self {
        Self { parent: KernelId::new(parent), source: ParentSource::Frame, ..self }
    }

    pub(super) fn spawned_by(self, parent: u64) -> Self {
        Self { parent: KernelId::new(parent), source: ParentSource::Spawn, ..self }
    }

    pub(super) fn in_task(self, task: u64) -> Self {
        Self { task: TaskAddr::new(task), ..self }
    }

    pub(super) fn from(self, source: ParentSource) -> Self {
        Self { source, ..self }
    }

    pub(super) fn seen_late(self) -> Self {
        Self { late: true, ..self }
    }
}

/// Feeds events, one a microsecond unless told otherwise.
pub struct Scene {
    pub assembler: Assembler,
    pub ts: u64,
    out: Vec<Output>,
    started: HashMap<SpanId, Span>,
    pub ended: Vec<Span>,
    /// Bytes of each request and response so far.
    streams: HashMap<(u64, PayloadKind), u64>,
}

impl Scene {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        Self::of(Arc::new(meta()), limits)
    }

    pub fn of(meta: Arc<TraceMeta>, limits: Limits) -> Self {
        let assembler = Assembler::new(meta, limits);
        Self {
            assembler,
            ts: 0,
            out: Vec::new(),
            started: HashMap::new(),
            ended: Vec::new(),
            streams: HashMap::new(),
        }
    }

    fn stamp(&mut self) -> Stamp {
        self.ts += 1_000;
        Stamp { ts: MonoNs(self.ts), tid: 1 }
    }

    pub fn feed(&mut self, event: &Event<'_>) {
        self.assembler.event(event, &mut self.out);
        self.check();
    }

    /// What holds after every event.
    fn check(&mut self) {
        let mut gone: HashMap<SpanId, Span> = HashMap::new();
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Started(span) => {
                    assert_eq!((span.end, span.polls), (None, None));
                    assert!(span.parent_id.is_none() || span.orphan.is_none());
                    assert_ne!(span.parent_id, Some(span.span_id));
                    let twice = self.started.insert(span.span_id, span);
                    assert!(twice.is_none(), "started twice: {twice:?}");
                }
                Output::Ended(span) => {
                    let begun = self.started.remove(&span.span_id).expect("ended before it began");
                    assert_eq!(begun.trace_id, span.trace_id);
                    assert_eq!((begun.parent_id, begun.orphan), (span.parent_id, span.orphan));
                    assert!(span.end.is_some_and(|end| end >= span.start), "{span:?}");
                    let parent = span.parent_id;
                    if let Some(parent) = parent.and_then(|parent| gone.get(&parent)) {
                        let end = parent.address + self.size_of(&parent.name);
                        let inside = (parent.address..end).contains(&span.address)
                            && Some(span.start) < parent.end;
                        assert!(!inside, "a parent was ended before what lies in it");
                    }
                    gone.insert(span.span_id, span.clone());
                    self.ended.push(span);
                }
            }
        }
        let stats = self.assembler.stats();
        assert!(stats.balanced(), "{stats:?}");
    }

    fn size_of(&self, name: &str) -> u64 {
        let function = self.assembler.meta.functions.iter().find(|f| &*f.span == name);
        function.map_or(0, |function| function.size_at_least.into())
    }

    pub fn start(&mut self, start: SpanStart) {
        let at = self.stamp();
        self.feed(&Event::SpanStart(SpanStart { at, ..start }));
    }

    pub fn end(&mut self, id: u64, how: EndHow) {
        let at = self.stamp();
        let id = KernelId::new(id).unwrap();
        self.feed(&Event::SpanEnd(SpanEnd { at, id, how, polled: Some((2, 7)), healed: false }));
    }

    pub fn returned(&mut self, id: u64) {
        self.end(id, EndHow::Returned);
    }

    pub fn task_end(&mut self, task: u64) {
        let at = self.stamp();
        self.feed(&Event::TaskEnd(TaskEnd { at, task: TaskAddr::new(task).unwrap() }));
    }

    pub fn leaf(&mut self, id: u64, kind: LeafKind, source: ParentSource, parent: u64) {
        let (at, key) = (self.stamp(), 0x5000 + id);
        let (id, parent) = (KernelId::new(id).unwrap(), KernelId::new(parent));
        self.feed(&Event::LeafStart(LeafStart { at, id, parent, source, key, kind, task: None }));
    }

    /// A request is read in `task` on connection `key`.
    pub fn serve(&mut self, id: u64, key: u64, task: u64) {
        let at = self.stamp();
        self.feed(&Event::LeafStart(LeafStart {
            at,
            id: KernelId::new(id).unwrap(),
            parent: None,
            source: ParentSource::Root,
            key,
            kind: LeafKind::ServedRequest,
            task: TaskAddr::new(task),
        }));
    }

    pub fn link(&mut self, id: u64, parent: u64) {
        let at = self.stamp();
        let (id, parent) = (KernelId::new(id).unwrap(), KernelId::new(parent));
        self.feed(&Event::LeafLink(LeafLink { at, id, parent }));
    }

    pub fn leaf_end(&mut self, id: u64, status: i32) {
        let at = self.stamp();
        let id = KernelId::new(id).unwrap();
        let status = Some(status).filter(|&status| status != -1);
        self.feed(&Event::LeafEnd(LeafEnd { at, id, end: at.ts, count: Some(1), status }));
    }

    /// A connection is closed before anything was read or written in answer.
    pub fn closed(&mut self, id: u64) {
        let at = self.stamp();
        let id = KernelId::new(id).unwrap();
        self.feed(&Event::LeafEnd(LeafEnd { at, id, end: at.ts, count: Some(0), status: None }));
    }

    pub fn payload(&mut self, id: u64, what: PayloadKind, bytes: &[u8]) {
        let at = self.stamp();
        let (key, len) = (0x5000 + id, bytes.len() as u32);
        let next = self.streams.entry((id, what)).or_default();
        let offset = *next;
        *next += u64::from(len);
        let id = KernelId::new(id).unwrap();
        let tail = [0; 8];
        self.feed(&Event::Payload(Payload { at, id, key, what, offset, len, bytes, tail }));
    }

    pub fn finish(&mut self) {
        self.ts += 1_000;
        self.assembler.finish(MonoNs(self.ts), &mut self.out);
        self.check();
        assert!(self.started.is_empty());
        assert_eq!(self.assembler.stats().open, 0);
        assert!(self.assembler.is_empty());
    }

    pub fn stats(&self) -> Stats {
        self.assembler.stats()
    }

    /// The span with this kernel id, which must have ended.
    pub fn span(&self, id: u64) -> &Span {
        let id = self.assembler.ids.span(KernelId::new(id).unwrap());
        self.ended.iter().find(|span| span.span_id == id).expect("has not ended")
    }

    /// Finishes and draws all trees, spans in order of their start, times in microseconds.
    pub fn draw(mut self) -> String {
        self.finish();
        let mut spans: Vec<&Span> = self.ended.iter().collect();
        spans.sort_by_key(|span| (span.start, span.address));
        let mut text = String::new();
        for root in spans.iter().filter(|span| span.parent_id.is_none()) {
            draw_below(&mut text, root, &spans, 0);
        }
        let drawn = text.lines().count();
        assert_eq!(drawn, spans.len(), "parents that were never handed out:\n{text}");
        let stats = self.assembler.stats();
        for (name, count) in stats.drops.iter().chain(stats.oddities.iter()) {
            if count != 0 {
                let _ = writeln!(text, "{name}={count}");
            }
        }
        text
    }
}

fn draw_below(text: &mut String, span: &Span, all: &[&Span], depth: usize) {
    let (from, to) = (span.start.0 / 1000, span.end.map_or(0, |end| end.0 / 1000));
    let _ = write!(text, "{:depth$}{} {from}..{to} {}", "", span.name, span.outcome.as_str());
    if let Some(polls) = span.polls {
        let _ = write!(text, " polls={polls}");
    }
    if span.start_is_late {
        let _ = write!(text, " late");
    }
    if let Some(why) = span.orphan {
        let _ = write!(text, " orphan={}", why.as_str());
    }
    text.push('\n');
    for child in all.iter().filter(|child| child.parent_id == Some(span.span_id)) {
        assert_eq!(child.trace_id, span.trace_id);
        draw_below(text, child, all, depth + 2);
    }
}
