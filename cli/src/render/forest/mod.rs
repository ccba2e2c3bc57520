//! Traces under way: holds spans back until a tree can be shown whole, within bounds.

use std::collections::{BTreeSet, HashMap, HashSet};

use tracer::span::{MonoNs, Span, SpanId, TraceId};

const MS: u64 = 1_000_000;

/// Deeper spans are shown at this depth.
const MAX_DEPTH: usize = 64;

/// Bounds, in spans and nanoseconds.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Spans held for one trace.
    pub trace_spans: usize,
    /// Spans held in all.
    pub total_spans: usize,
    /// A trace without open spans is shown when nothing has happened in it for this long.
    pub settle: u64,
    /// A trace whose root has ended while others run on is shown after this long.
    pub linger: u64,
    /// What has ended in a trace under way is shown after this long, and then as often.
    pub long: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            trace_spans: 10_000,
            total_spans: 100_000,
            settle: 150 * MS,
            linger: 2_000 * MS,
            long: 30_000 * MS,
        }
    }
}

#[derive(Debug)]
struct Node {
    span: Span,
    open: bool,
    shown: bool,
}

#[derive(Debug, Default)]
struct Trace {
    source: usize,
    nodes: HashMap<SpanId, Node>,
    open: BTreeSet<(MonoNs, SpanId)>,
    /// Spans that were not kept since the last time it was shown.
    left_out: u64,
    changed: u64,
    shown_at: u64,
    shown_before: bool,
    root_ended: Option<u64>,
}

/// One span of a block, with its place in the tree.
#[derive(Debug)]
pub struct Row {
    /// The span.
    pub span: Span,
    /// For each level above: whether more siblings follow there. Empty for a root.
    pub more_follow: Vec<bool>,
    /// It has not ended.
    pub open: bool,
    /// It was shown before, and is here for its children.
    pub context: bool,
}

/// A tree, or what has been added to one, ready to be shown.
#[derive(Debug)]
pub struct Block {
    /// Which session it comes from.
    pub source: usize,
    /// Its trace.
    pub trace_id: TraceId,
    /// Parts of the trace have been shown before.
    pub continued: bool,
    /// In the order in which they are shown.
    pub rows: Vec<Row>,
    /// Spans that were left out.
    pub left_out: u64,
}

/// What runs in one trace right now.
#[derive(Debug)]
pub struct Current<'a> {
    /// The span that has run longest.
    pub oldest: &'a Span,
    /// The span that began last, where that is another.
    pub newest: Option<&'a Span>,
    /// Open spans.
    pub open: usize,
}

/// All traces under way.
#[derive(Debug, Default)]
pub struct Forest {
    bounds: Bounds,
    traces: HashMap<TraceId, Trace>,
    held: usize,
    /// Spans of traces that are not kept at all.
    left_out: u64,
}

impl Forest {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, traces: HashMap::new(), held: 0, left_out: 0 }
    }

    /// A span began.
    pub fn started(&mut self, source: usize, span: Span) {
        let at = span.start.0;
        let key = (span.start, span.span_id);
        if let Some(trace) = self.insert(source, span, true) {
            trace.open.insert(key);
            trace.changed = trace.changed.max(at);
        }
    }

    /// A span ended, or tracing did while it was open.
    pub fn ended(&mut self, source: usize, span: Span) {
        let at = span.end.unwrap_or(span.start).0;
        let (open, root) = (span.end.is_none(), span.parent_id.is_none());
        if let Some(trace) = self.insert(source, span, open) {
            trace.changed = trace.changed.max(at);
            if root && !open {
                trace.root_ended = Some(at);
            }
        }
    }

    fn insert(&mut self, source: usize, span: Span, open: bool) -> Option<&mut Trace> {
        let id = span.span_id;
        let known =
            self.traces.get(&span.trace_id).map(|t| (t.nodes.contains_key(&id), t.nodes.len()));
        match known {
            Some((true, _)) => {}
            // A span that was left out when it began is counted once, when it ends.
            Some((false, len))
                if len >= self.bounds.trace_spans || self.held >= self.bounds.total_spans =>
            {
                if !open && let Some(trace) = self.traces.get_mut(&span.trace_id) {
                    trace.left_out += 1;
                }
                return None;
            }
            None if self.held >= self.bounds.total_spans => {
                self.left_out += u64::from(!open);
                return None;
            }
            Some((false, _)) | None => self.held += 1,
        }
        let trace = self.traces.entry(span.trace_id).or_insert_with(|| Trace {
            source,
            shown_at: span.start.0,
            changed: span.start.0,
            ..Trace::default()
        });
        if let Some(node) = trace.nodes.get_mut(&id) {
            // Its start may have been corrected meanwhile.
            trace.open.remove(&(node.span.start, id));
            if open {
                trace.open.insert((span.start, id));
            }
            // That it has ended is news, also where it was shown before.
            *node = Node { span, open, shown: node.shown && node.open == open };
        } else {
            trace.nodes.insert(id, Node { span, open, shown: false });
        }
        Some(trace)
    }

    /// What can be shown at `now`, oldest first.
    pub fn ready(&mut self, now: MonoNs) -> Vec<Block> {
        let Bounds { settle, linger, long, .. } = self.bounds;
        let due: Vec<(TraceId, bool)> = self
            .traces
            .iter()
            .filter_map(|(id, trace)| {
                let passed = |since: u64| now.0.saturating_sub(since);
                if trace.open.is_empty() {
                    return (passed(trace.changed) >= settle).then_some((*id, true));
                }
                let news = trace.left_out > 0
                    || trace.nodes.values().any(|node| !node.open && !node.shown);
                let patience = if trace.root_ended.is_some() && !trace.shown_before {
                    linger.saturating_sub(passed(trace.root_ended.unwrap_or(0)))
                } else {
                    long.saturating_sub(passed(trace.shown_at))
                };
                (patience == 0 && news).then_some((*id, false))
            })
            .collect();
        self.take(due, now)
    }

    /// Everything that is left, at the end of tracing.
    pub fn drain(&mut self, now: MonoNs) -> Vec<Block> {
        let all = self.traces.keys().map(|id| (*id, true)).collect();
        self.take(all, now)
    }

    /// Spans of traces that were never shown, because too many were under way.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    fn take(&mut self, due: Vec<(TraceId, bool)>, now: MonoNs) -> Vec<Block> {
        let mut blocks: Vec<(u64, Block)> = Vec::with_capacity(due.len());
        for (id, complete) in due {
            let Some(trace) = self.traces.get_mut(&id) else { continue };
            let before = trace.nodes.len();
            let block = trace.show(id, now);
            if complete {
                self.traces.remove(&id);
                self.held -= before;
            } else {
                self.held -= before - trace.nodes.len();
            }
            if !block.1.rows.is_empty() {
                blocks.push(block);
            }
        }
        blocks.sort_by_key(|(changed, block)| (*changed, block.trace_id));
        blocks.into_iter().map(|(_, block)| block).collect()
    }

    /// Open spans, traces with open spans, and what runs in the `limit` oldest of these.
    pub fn current(&self, limit: usize) -> (usize, usize, Vec<Current<'_>>) {
        let mut open: Vec<(&(MonoNs, SpanId), &Trace)> = self
            .traces
            .values()
            .filter_map(|trace| trace.open.first().map(|first| (first, trace)))
            .collect();
        let spans = open.iter().map(|(_, trace)| trace.open.len()).sum();
        let traces = open.len();
        open.sort_by_key(|(first, _)| **first);
        let current = open
            .into_iter()
            .take(limit)
            .filter_map(|((_, oldest), trace)| {
                let newest = trace.open.last().filter(|(_, id)| id != oldest);
                Some(Current {
                    oldest: &trace.nodes.get(oldest)?.span,
                    newest: newest.and_then(|(_, id)| Some(&trace.nodes.get(id)?.span)),
                    open: trace.open.len(),
                })
            })
            .collect();
        (spans, traces, current)
    }
}

impl Trace {
    /// Makes a block of what is new, with its ancestors; forgets what is done.
    fn show(&mut self, trace_id: TraceId, now: MonoNs) -> (u64, Block) {
        let mut children: HashMap<Option<SpanId>, Vec<SpanId>> = HashMap::new();
        for (id, node) in &self.nodes {
            let parent = node.span.parent_id.filter(|parent| self.nodes.contains_key(parent));
            children.entry(parent).or_default().push(*id);
        }
        for siblings in children.values_mut() {
            siblings.sort_by_key(|id| (self.nodes[id].span.start, *id));
        }
        // New, or with something new below: these are shown. Open, or with something open
        // below: these are kept.
        let mut news = HashSet::new();
        let mut alive = HashSet::new();
        for (id, node) in &self.nodes {
            if !node.shown || node.open {
                self.mark_upwards(*id, &mut news);
            }
            if node.open {
                self.mark_upwards(*id, &mut alive);
            }
        }

        let mut rows = Vec::with_capacity(news.len());
        let visible = |parent: Option<SpanId>| -> Vec<SpanId> {
            let all = children.get(&parent).map_or(&[][..], Vec::as_slice);
            all.iter().copied().filter(|id| news.contains(id)).collect()
        };
        let mut stack: Vec<(SpanId, Vec<bool>)> =
            visible(None).into_iter().rev().map(|id| (id, vec![])).collect();
        while let Some((id, more_follow)) = stack.pop() {
            let below = visible(Some(id));
            let count = below.len();
            for (i, child) in below.into_iter().enumerate().rev() {
                let mut levels = more_follow.clone();
                if levels.len() < MAX_DEPTH {
                    levels.push(i + 1 < count);
                }
                stack.push((child, levels));
            }
            let node = &self.nodes[&id];
            rows.push(Row {
                span: node.span.clone(),
                more_follow,
                open: node.open,
                context: node.shown && !node.open,
            });
        }

        let block = Block {
            source: self.source,
            trace_id,
            continued: self.shown_before,
            rows,
            left_out: std::mem::take(&mut self.left_out),
        };
        self.nodes.retain(|id, _| alive.contains(id));
        for node in self.nodes.values_mut() {
            node.shown = true;
        }
        self.shown_before = true;
        self.shown_at = now.0;
        (self.changed, block)
    }

    fn mark_upwards(&self, id: SpanId, marked: &mut HashSet<SpanId>) {
        let mut at = Some(id);
        while let Some(id) = at {
            let Some(node) = self.nodes.get(&id) else { break };
            if !marked.insert(id) {
                break;
            }
            at = node.span.parent_id;
        }
    }
}

#[cfg(test)]
mod tests;
