//! Rebuilds spans from events: pure, replayable, sole owner of state, bounded.
//!
//! The kernel side decides identity; everything that needs judgement happens here: which trace
//! and parent a span belongs to, and how spans ended that nobody saw ending. Where evidence is
//! missing, a span is an orphan with a reason, never the child of a guess.

mod arena;
mod end;
mod extents;
mod http;
mod ids;
mod leaf;
mod start;
mod stats;
mod tombs;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::FixedState;

pub use ids::Ids;
pub use stats::{Drops, Oddities, Orphans, Outcomes, Stats};

use crate::events::{Event, FnId, KernelId};
use crate::plan::{FunctionMeta, TraceMeta};
use crate::span::{MonoNs, Outcome, Span, SpanKind};
use arena::{Arena, Idx};
use extents::Extents;
use leaf::Leaves;
use tombs::Tombs;

/// Keys are ids and addresses; the state is fixed so that a replay does the same work.
type Map<K, V> = HashMap<K, V, FixedState>;

/// How much the assembler may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Spans and leaves that are open. One more is dropped and counted.
    pub open: usize,
    /// Ended spans that are remembered, so that what they spawned still finds its trace.
    pub tombstones: usize,
    /// Ended leaves that wait for their asker to become known.
    pub waiting_leaves: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { open: 1 << 20, tombstones: 1 << 17, waiting_leaves: 4096 }
    }
}

/// What the assembler hands out. Every span is started once and then ended once.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A span began; it has neither end nor counts yet.
    Started(Span),
    /// A span ended and is complete.
    Ended(Span),
}

/// Nanoseconds for which a span whose place was taken by another may still report its own end.
const GRACE_NS: u64 = 1_000_000_000;

/// The sole owner of the state of all spans.
#[derive(Debug)]
pub struct Assembler {
    meta: Arc<TraceMeta>,
    /// Position in `meta.functions` by function id.
    by_fn: Vec<Option<u32>>,
    ids: Ids,
    limits: Limits,
    now: MonoNs,
    /// Start order: a child always has a greater number than its parent.
    seq: u64,
    /// Spans up to this number may have ended without a record of it.
    ends_lost_below: u64,
    /// End records are being lost right now.
    losing_ends: bool,
    arena: Arena,
    open: Map<KernelId, Idx>,
    /// Open spans by address and function.
    places: Map<(u64, FnId), Idx>,
    /// The newest open span of each task; the rest follows by links.
    tasks: Map<u64, Idx>,
    extents: Extents,
    /// Spans whose place was taken, with the time at which they are given up.
    displaced: VecDeque<(MonoNs, KernelId)>,
    leaves: Leaves,
    tombs: Tombs,
    stats: Stats,
    /// Kept for its capacity.
    dying: Vec<Idx>,
}

impl Assembler {
    /// An assembler for one trace.
    pub fn new(meta: Arc<TraceMeta>, limits: Limits) -> Self {
        let last = meta.functions.iter().map(|f| f.id).max().unwrap_or(0);
        let mut by_fn = vec![None; usize::from(last) + 1];
        for (at, function) in meta.functions.iter().enumerate() {
            by_fn[usize::from(function.id)] = u32::try_from(at).ok();
        }
        Self {
            by_fn,
            ids: Ids::new(&meta.seed),
            limits,
            now: MonoNs(0),
            seq: 0,
            ends_lost_below: 0,
            losing_ends: false,
            arena: Arena::default(),
            open: Map::default(),
            places: Map::default(),
            tasks: Map::default(),
            extents: Extents::default(),
            displaced: VecDeque::new(),
            leaves: Leaves::default(),
            tombs: Tombs::new(limits.tombstones),
            stats: Stats::default(),
            dying: Vec::new(),
            meta,
        }
    }

    /// Takes in one event, in the order of the stream, and appends what follows from it to `out`.
    pub fn event(&mut self, event: &Event<'_>, out: &mut Vec<Output>) {
        let ts = event.at().ts;
        self.advance(ts, out);
        match event {
            Event::SpanStart(start) => self.span_start(start, out),
            Event::SpanEnd(end) => self.span_end(end, out),
            Event::TaskEnd(end) => self.task_end(end, out),
            Event::LeafStart(start) => self.leaf_start(start, out),
            Event::LeafLink(link) => self.leaf_link(link, out),
            Event::LeafEnd(end) => self.leaf_end(end, out),
            Event::Payload(payload) => self.payload(payload, out),
            // It says nothing of who belongs to whom.
            Event::Argument(_) => {}
            // Says what a leaf is, not when.
            Event::ProcessExec(_) => {}
        }
    }

    /// Moves time on without an event, so that what only waits for time to pass is handed out.
    pub fn advance(&mut self, ts: MonoNs, out: &mut Vec<Output>) {
        self.now = self.now.max(ts);
        while let Some(&(until, id)) = self.displaced.front() {
            if until > self.now {
                break;
            }
            self.displaced.pop_front();
            self.give_up(id, out);
        }
        self.give_up_leaves(out);
    }

    /// Tells whether end records are lost while what follows happens. A span that is open
    /// meanwhile and found dead, then or later, is of unknown outcome, since it need not have been
    /// cancelled.
    pub const fn losing_ends(&mut self, losing: bool) {
        if losing || self.losing_ends {
            self.ends_lost_below = self.seq;
        }
        self.losing_ends = losing;
    }

    /// Ends everything that is still open: tracing stopped at `now`.
    pub fn finish(&mut self, now: MonoNs, out: &mut Vec<Output>) {
        self.advance(now, out);
        while let Some((_, id)) = self.displaced.pop_front() {
            self.give_up(id, out);
        }
        self.finish_leaves(out);
        let mut left: Vec<Idx> = self.open.values().copied().collect();
        left.sort_unstable_by_key(|&idx| std::cmp::Reverse(self.arena[idx].seq));
        for idx in left {
            self.detach(idx);
            let node = self.arena.remove(idx);
            self.emit_end(&node, Outcome::Running, self.now, None, out);
        }
    }

    /// What was begun, ended and lost so far.
    pub fn stats(&self) -> Stats {
        Stats { open: (self.arena.len() + self.leaves.len()) as u64, ..self.stats.clone() }
    }

    /// Whether nothing is left in any index: what a test asks after the end.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.open.is_empty()
            && self.arena.len() == 0
            && self.places.is_empty()
            && self.tasks.is_empty()
            && self.extents.is_empty()
            && self.displaced.is_empty()
            && self.leaves.is_empty()
    }

    fn function(&self, id: FnId) -> Option<&FunctionMeta> {
        let at = (*self.by_fn.get(usize::from(id.0))?)?;
        self.meta.functions.get(at as usize)
    }

    /// The span that `node` stands for, as it is while open.
    fn span_of(&self, node: &arena::Node) -> Span {
        let (name, function, kind) = match self.function(node.function) {
            Some(meta) => (meta.span.clone(), meta.function.clone(), meta.kind),
            None => (Arc::from(""), Arc::from(""), SpanKind::Internal),
        };
        Span {
            trace_id: node.trace,
            span_id: self.ids.span(node.id),
            parent_id: node.parent.map(|parent| self.ids.span(parent)),
            name,
            function,
            kind,
            start: node.start,
            end: None,
            start_is_late: node.late,
            outcome: Outcome::Running,
            orphan: node.orphan,
            thread_id: node.tid,
            address: node.addr,
            polls: None,
            busy_ns: None,
            attributes: Vec::new(),
            events: Vec::new(),
        }
    }

    fn emit_end(
        &mut self,
        node: &arena::Node,
        outcome: Outcome,
        end: MonoNs,
        polled: Option<(u32, u64)>,
        out: &mut Vec<Output>,
    ) {
        let span = Span {
            end: Some(end.max(node.start)),
            outcome,
            polls: polled.map(|(polls, _)| polls),
            busy_ns: polled.map(|(_, busy)| busy),
            ..self.span_of(node)
        };
        self.stats.ended(outcome);
        out.push(Output::Ended(span));
    }

    /// Room for one more open span or leaf?
    fn is_full(&self) -> bool {
        self.arena.len() + self.leaves.len() >= self.limits.open
    }
}
