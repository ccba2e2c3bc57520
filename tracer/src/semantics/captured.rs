//! Bytes captured for spans that are open.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::Stats;
use crate::events::{LeafEnd, LeafKind, Payload, PayloadKind};
use crate::span::SpanId;

/// Spans whose bytes are kept at once. Beyond, the oldest go first.
const MAX_SPANS: usize = 1 << 16;

/// What was captured for one span.
#[derive(Debug, Default)]
pub(super) struct Captured {
    /// What it is, where that is asked for.
    pub leaf: Option<LeafKind>,
    /// What a child process executes.
    pub executable: Option<Box<[u8]>>,
    /// The beginning of a statement's text, and whether it goes on.
    pub sql: Option<(Box<[u8]>, bool)>,
    /// What was counted in it and how it ended.
    pub end: Option<LeafEnd>,
}

/// By span.
#[derive(Debug, Default)]
pub(super) struct CapturedBySpan {
    by_span: HashMap<SpanId, Captured, FixedState>,
    order: VecDeque<SpanId>,
}

impl CapturedBySpan {
    pub fn add(&mut self, span: SpanId, payload: &Payload<'_>, stats: &mut Stats) {
        let captured = self.entry(span, stats);
        match payload.what {
            PayloadKind::SqlText => {
                let goes_on = payload.len as usize > payload.bytes.len();
                captured.sql = Some((payload.bytes.into(), goes_on));
            }
            PayloadKind::Request | PayloadKind::Response => {}
        }
    }

    fn entry(&mut self, span: SpanId, stats: &mut Stats) -> &mut Captured {
        if !self.by_span.contains_key(&span) {
            self.make_room(stats);
            self.order.push_back(span);
        }
        self.by_span.entry(span).or_default()
    }

    /// A statement or a process begins.
    pub fn expect(&mut self, span: SpanId, leaf: LeafKind, stats: &mut Stats) {
        self.entry(span, stats).leaf = Some(leaf);
    }

    /// A child process executes a program. The first one is what it was started for: a shell may
    /// go over into its last command.
    pub fn executes(&mut self, span: SpanId, name: &[u8]) {
        if let Some(captured) = self.by_span.get_mut(&span) {
            captured.executable.get_or_insert_with(|| name.into());
        }
    }

    /// A leaf ended of which something is kept.
    pub fn ended(&mut self, span: SpanId, end: &LeafEnd) {
        if let Some(captured) = self.by_span.get_mut(&span) {
            captured.end = Some(*end);
        }
    }

    pub fn get(&self, span: SpanId) -> Option<&Captured> {
        self.by_span.get(&span)
    }

    pub fn take(&mut self, span: SpanId) -> Option<Captured> {
        self.by_span.remove(&span)
    }

    fn make_room(&mut self, stats: &mut Stats) {
        if self.order.len() >= 2 * MAX_SPANS {
            let by_span = &self.by_span;
            self.order.retain(|span| by_span.contains_key(span));
        }
        while self.by_span.len() >= MAX_SPANS
            && let Some(oldest) = self.order.pop_front()
        {
            stats.captures_evicted += u64::from(self.by_span.remove(&oldest).is_some());
        }
    }
}
