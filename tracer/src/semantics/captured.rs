//! Bytes captured for spans that are open.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::Stats;
use crate::events::{Payload, PayloadKind};
use crate::span::SpanId;

/// Spans whose bytes are kept at once. Beyond, the oldest go first.
const MAX_SPANS: usize = 1 << 16;

/// What was captured for one span.
#[derive(Debug, Default)]
pub(super) struct Captured {
    /// The beginning of a statement's text.
    pub sql: Option<Box<[u8]>>,
}

/// By span.
#[derive(Debug, Default)]
pub(super) struct CapturedBySpan {
    by_span: HashMap<SpanId, Captured, FixedState>,
    order: VecDeque<SpanId>,
}

impl CapturedBySpan {
    pub fn add(&mut self, span: SpanId, payload: &Payload<'_>, stats: &mut Stats) {
        if !self.by_span.contains_key(&span) {
            self.make_room(stats);
            self.order.push_back(span);
        }
        let captured = self.by_span.entry(span).or_default();
        match payload.what {
            PayloadKind::SqlText => captured.sql = Some(payload.bytes.into()),
            PayloadKind::Request | PayloadKind::Response => {}
        }
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
