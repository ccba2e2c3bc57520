//! Leaves: statements and requests, which often run on somebody else's task or thread.

use std::collections::VecDeque;
use std::sync::Arc;

use super::http::{Exchange, request_outcome};
use super::start::Origin;
use super::tombs::{Past, Tomb};
use super::{Assembler, Map, Output};
use crate::events::{
    KernelId, LeafEnd, LeafKind, LeafLink, LeafStart, ParentSource, Payload, PayloadKind, TaskAddr,
};
use crate::span::{MonoNs, OrphanReason, Outcome, Span, SpanKind, TraceId};

/// Nanoseconds for which an ended leaf waits for its asker.
const PATIENCE_NS: u64 = 10_000_000_000;

/// An open leaf, or an ended one that waits for its asker.
#[derive(Debug)]
pub(super) struct Leaf {
    seq: u64,
    pub kind: LeafKind,
    key: u64,
    tid: u32,
    start: MonoNs,
    /// `None` while the asker is not known.
    origin: Option<Origin>,
    /// It was handed out as begun.
    announced: bool,
    /// Set once it ended.
    end: Option<Ending>,
    /// For a request.
    pub exchange: Option<Box<Exchange>>,
    /// The task that serves it.
    pub task: Option<TaskAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Ending {
    at: MonoNs,
    outcome: Outcome,
    /// By a record; else that record may follow.
    recorded: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    by_id: Map<KernelId, Leaf>,
    by_key: Map<(LeafKind, u64), KernelId>,
    /// Ended ones without an asker, and when they are given up; and some that have found one.
    waiting: VecDeque<(MonoNs, KernelId)>,
    /// How many of those have none.
    unsettled: usize,
    /// A served request that has ended before its response was complete: on which connection, when.
    cut_short: Option<(u64, MonoNs)>,
    names: Option<Names>,
}

/// Made once, shared by all leaves.
#[derive(Clone, Debug)]
struct Names {
    database_query: Arc<str>,
    sqlite3_step: Arc<str>,
    api_call: Arc<str>,
    http_request: Arc<str>,
    ssl_write: Arc<str>,
    nothing: Arc<str>,
    process: Arc<str>,
}

impl Leaves {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
            && self.by_key.is_empty()
            && self.waiting.is_empty()
            && self.unsettled == 0
    }

    pub fn contains(&self, id: KernelId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub fn get_mut(&mut self, id: KernelId) -> Option<&mut Leaf> {
        self.by_id.get_mut(&id)
    }

    fn names(&mut self) -> &Names {
        self.names.get_or_insert_with(|| Names {
            database_query: "database_query".into(),
            sqlite3_step: "sqlite3_step".into(),
            api_call: "api_call".into(),
            http_request: "http_request".into(),
            ssl_write: "SSL_write".into(),
            nothing: "".into(),
            process: "process".into(),
        })
    }
}

impl Assembler {
    pub(super) fn leaf_start(&mut self, start: &LeafStart, out: &mut Vec<Output>) {
        self.stats.begun += 1;
        let known = self.leaves.contains(start.id)
            || self.open.contains_key(&start.id)
            || matches!(self.tombs.find(start.id), Past::Ended(_));
        if known {
            self.stats.drops.duplicate_start += 1;
            return;
        }
        let place = (start.kind, start.key);
        if let Some(&old) = self.leaves.by_key.get(&place) {
            // One handle does one thing at a time.
            self.stats.oddities.leaf_replaced += 1;
            self.end_leaf(
                old,
                Ending { at: start.at.ts, outcome: Outcome::Unknown, recorded: false },
                out,
            );
        }
        if self.is_full() {
            self.stats.drops.open_spans_full += 1;
            return;
        }
        let origin = match (start.source, start.parent) {
            (ParentSource::Root, _) => Some(Origin::ROOT),
            (ParentSource::Frame | ParentSource::Spawn | ParentSource::Link, Some(parent)) => {
                Some(self.child_of(parent, None))
            }
            // Its link follows.
            (ParentSource::Unknown, _) if start.kind == LeafKind::Statement => None,
            (ParentSource::Unknown, _) => Some(Origin::orphan(OrphanReason::Unlinked)),
            _ => Some(Origin::orphan(OrphanReason::ParentLost)),
        };
        self.seq += 1;
        let mut exchange = Exchange::new(start.kind).map(Box::new);
        if let Some(exchange) = &mut exchange
            && self.leaves.cut_short.take() == Some((start.key, start.at.ts))
        {
            // Two are served at once, and nothing tells what is done for which.
            exchange.is_barren = true;
        }
        let (id, kind, key, tid) = (start.id, start.kind, start.key, start.at.tid);
        let (task, start, seq) = (start.task, start.at.ts, self.seq);
        let (origin_of_it, end, announced) = (None, None, false);
        let leaf = Leaf {
            seq,
            kind,
            key,
            tid,
            start,
            origin: origin_of_it,
            announced,
            end,
            exchange,
            task,
        };
        self.leaves.by_key.insert(place, id);
        self.leaves.by_id.insert(id, leaf);
        if let Some(origin) = origin {
            self.settle(id, origin, out);
        }
    }

    pub(super) fn leaf_link(&mut self, link: &LeafLink, out: &mut Vec<Output>) {
        match self.leaves.by_id.get(&link.id) {
            Some(Leaf { origin: None, .. }) => {
                let origin = link.parent.map_or(Origin::ROOT, |parent| self.child_of(parent, None));
                self.settle(link.id, origin, out);
            }
            Some(_) => self.stats.oddities.late_link += 1,
            None => match self.tombs.find(link.id) {
                Past::Ended(_) | Past::Forgotten => self.stats.oddities.late_link += 1,
                Past::Never => self.stats.oddities.leaf_without_start += 1,
            },
        }
    }

    pub(super) fn leaf_end(&mut self, end: &LeafEnd, out: &mut Vec<Output>) {
        let Some(leaf) = self.leaves.by_id.get(&end.id).filter(|leaf| leaf.end.is_none()) else {
            let oddities = &mut self.stats.oddities;
            match self.tombs.find(end.id) {
                // The response was complete long before the kernel could know.
                Past::Ended(Tomb { inferred: true, .. }) => {}
                Past::Ended(_) => oddities.duplicate_end += 1,
                Past::Forgotten => oddities.end_forgotten += 1,
                Past::Never if self.leaves.contains(end.id) => oddities.duplicate_end += 1,
                Past::Never => oddities.leaf_without_start += 1,
            }
            return;
        };
        let outcome = match leaf.kind {
            LeafKind::Statement => end.status.map_or(Outcome::Returned, statement_outcome),
            LeafKind::TlsRequest | LeafKind::ClientRequest | LeafKind::ServedRequest => {
                request_outcome(leaf, end.count.is_some_and(|count| count != 0))
            }
            LeafKind::Process => end.status.map_or(Outcome::Unknown, process_outcome),
        };
        if leaf.kind == LeafKind::ServedRequest
            && leaf.exchange.as_ref().is_some_and(|exchange| !exchange.is_complete())
        {
            self.leaves.cut_short = Some((leaf.key, end.at.ts));
        }
        self.end_leaf(end.id, Ending { at: end.end, outcome, recorded: true }, out);
    }

    pub(super) fn payload(&mut self, payload: &Payload<'_>, out: &mut Vec<Output>) {
        let Some(leaf) = self.leaves.by_id.get_mut(&payload.id) else {
            if matches!(self.tombs.find(payload.id), Past::Never) {
                self.stats.oddities.leaf_without_start += 1;
            }
            return;
        };
        let Some(exchange) = leaf.exchange.as_mut() else { return };
        exchange.feed(payload);
        let complete = exchange.is_complete() && payload.what == PayloadKind::Response;
        if exchange.is_foreign() && !leaf.announced {
            self.drop_leaf(payload.id);
            return;
        }
        if exchange.is_named() && !leaf.announced && leaf.origin.is_some() {
            self.announce(payload.id, out);
        }
        let Some(leaf) = self.leaves.by_id.get(&payload.id) else { return };
        if complete && leaf.end.is_none() {
            let outcome = request_outcome(leaf, true);
            let ending = Ending { at: payload.at.ts, outcome, recorded: false };
            self.end_leaf(payload.id, ending, out);
        }
    }

    /// Ends a leaf, or lets it wait for its asker.
    fn end_leaf(&mut self, id: KernelId, ending: Ending, out: &mut Vec<Output>) {
        let Some(leaf) = self.leaves.by_id.get_mut(&id) else { return };
        leaf.end = Some(ending);
        let place = (leaf.kind, leaf.key);
        let is_settled = leaf.origin.is_some();
        if self.leaves.by_key.get(&place) == Some(&id) {
            self.leaves.by_key.remove(&place);
        }
        if is_settled {
            self.close_leaf(id, out);
            return;
        }
        let until = MonoNs(self.now.0.saturating_add(PATIENCE_NS));
        self.leaves.waiting.push_back((until, id));
        self.leaves.unsettled += 1;
        while self.leaves.unsettled > self.limits.waiting_leaves
            && let Some((_, oldest)) = self.leaves.waiting.pop_front()
        {
            self.stats.oddities.waiting_leaves_full += u64::from(self.give_up_leaf(oldest, out));
        }
        let Leaves { by_id, waiting, .. } = &mut self.leaves;
        if waiting.len() > 2 * self.limits.waiting_leaves {
            waiting.retain(|(_, id)| by_id.contains_key(id));
        }
    }

    /// Gives up ended leaves whose time is over.
    pub(super) fn give_up_leaves(&mut self, out: &mut Vec<Output>) {
        while let Some(&(until, id)) = self.leaves.waiting.front() {
            if until > self.now {
                break;
            }
            self.leaves.waiting.pop_front();
            self.give_up_leaf(id, out);
        }
    }

    fn give_up_leaf(&mut self, id: KernelId, out: &mut Vec<Output>) -> bool {
        let waits = matches!(self.leaves.by_id.get(&id), Some(Leaf { origin: None, .. }));
        if waits {
            self.settle(id, Origin::orphan(OrphanReason::Unlinked), out);
        }
        waits
    }

    /// Ends all leaves: tracing stopped.
    pub(super) fn finish_leaves(&mut self, out: &mut Vec<Output>) {
        let mut left: Vec<_> = self.leaves.by_id.iter().map(|(&id, leaf)| (leaf.seq, id)).collect();
        left.sort_unstable();
        for (_, id) in left {
            self.give_up_leaf(id, out);
            if self.leaves.contains(id) {
                let outcome = Outcome::Running;
                self.end_leaf(id, Ending { at: self.now, outcome, recorded: true }, out);
            }
        }
        self.leaves.waiting.clear();
    }

    /// The leaf's place is known: it is handed out, with its end if it had ended.
    fn settle(&mut self, id: KernelId, origin: Origin, out: &mut Vec<Output>) {
        let Some(leaf) = self.leaves.by_id.get_mut(&id) else { return };
        leaf.origin = Some(origin);
        let ended = leaf.end.is_some();
        self.leaves.unsettled -= usize::from(ended);
        if let Some(why) = origin.orphan {
            self.stats.orphaned(why);
        }
        let Some(leaf) = self.leaves.by_id.get(&id) else { return };
        // What a request is called follows from its head.
        if leaf.exchange.as_ref().is_none_or(|exchange| exchange.is_named()) {
            self.announce(id, out);
        }
        if ended {
            self.close_leaf(id, out);
        }
    }

    fn announce(&mut self, id: KernelId, out: &mut Vec<Output>) {
        if let Some(span) = self.leaf_span(id) {
            out.push(Output::Started(Span { end: None, outcome: Outcome::Running, ..span }));
        }
        if let Some(leaf) = self.leaves.by_id.get_mut(&id) {
            leaf.announced = true;
        }
    }

    fn close_leaf(&mut self, id: KernelId, out: &mut Vec<Output>) {
        if self.leaves.by_id.get(&id).is_some_and(|leaf| !leaf.announced) {
            self.announce(id, out);
        }
        let Some(span) = self.leaf_span(id) else { return };
        let Some(leaf) = self.leaves.by_id.remove(&id) else { return };
        let recorded = leaf.end.is_none_or(|end| end.recorded);
        // What it spawned may begin later.
        let has_children = leaf.exchange.as_ref().is_some_and(|exchange| exchange.has_children());
        let trace = has_children.then_some(span.trace_id);
        self.bury(id, Tomb { trace, inferred: !recorded, served_by: leaf.task });
        self.stats.ended(span.outcome);
        out.push(Output::Ended(span));
    }

    /// It is nothing to be shown.
    fn drop_leaf(&mut self, id: KernelId) {
        let Some(leaf) = self.leaves.by_id.remove(&id) else { return };
        let place = (leaf.kind, leaf.key);
        if self.leaves.by_key.get(&place) == Some(&id) {
            self.leaves.by_key.remove(&place);
        }
        self.stats.drops.not_http += 1;
        self.bury(id, Tomb { trace: None, inferred: true, served_by: None });
    }

    fn leaf_span(&mut self, id: KernelId) -> Option<Span> {
        let names = self.leaves.names().clone();
        let leaf = self.leaves.by_id.get(&id)?;
        let origin = leaf.origin?;
        let (name, function, attributes) = match leaf.kind {
            LeafKind::Statement => {
                let system = ("db.system.name".to_owned(), "sqlite".into());
                (names.database_query, names.sqlite3_step, vec![system])
            }
            LeafKind::Process => (names.process, names.nothing, Vec::new()),
            kind => {
                let is_call = leaf.exchange.as_ref().is_some_and(|e| e.is_model_call());
                // Which of the C library's functions it was, is not told.
                let function = match kind {
                    LeafKind::TlsRequest | LeafKind::Statement => names.ssl_write,
                    LeafKind::ClientRequest | LeafKind::ServedRequest | LeafKind::Process => {
                        names.nothing
                    }
                };
                (if is_call { names.api_call } else { names.http_request }, function, Vec::new())
            }
        };
        let kind = match leaf.kind {
            LeafKind::ServedRequest => SpanKind::Server,
            LeafKind::Process => SpanKind::Internal,
            LeafKind::Statement | LeafKind::TlsRequest | LeafKind::ClientRequest => {
                SpanKind::Client
            }
        };
        let caller = leaf.exchange.as_ref().and_then(|exchange| exchange.caller());
        let (parent, trace): (_, TraceId) = match (origin.parent, caller) {
            (Some((parent, trace)), _) => (Some(self.ids.span(parent)), trace),
            (None, Some((parent, trace))) => (Some(parent), trace),
            (None, None) => (None, self.ids.trace(id)),
        };
        Some(Span {
            trace_id: trace,
            span_id: self.ids.span(id),
            parent_id: parent,
            name,
            function,
            kind,
            start: leaf.start,
            end: leaf.end.map(|end| end.at.max(leaf.start)),
            start_is_late: false,
            outcome: leaf.end.map_or(Outcome::Running, |end| end.outcome),
            orphan: origin.orphan,
            thread_id: leaf.tid,
            address: leaf.key,
            polls: None,
            busy_ns: None,
            attributes,
            events: Vec::new(),
        })
    }
}

/// By SQLite's primary result code: `SQLITE_OK`, `SQLITE_ROW` and `SQLITE_DONE` are no errors.
const fn statement_outcome(status: i32) -> Outcome {
    match status & 0xff {
        0 | 100 | 101 => Outcome::Returned,
        _ => Outcome::Error,
    }
}

/// By a status as `wait` returns it: the low bits are the signal that killed the process. An exit
/// code is its own business: `grep` tells by one that it found nothing.
const fn process_outcome(status: i32) -> Outcome {
    if status & 0x7f == 0 { Outcome::Returned } else { Outcome::Error }
}
