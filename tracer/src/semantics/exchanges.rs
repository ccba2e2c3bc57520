//! Requests that are under way, by their spans.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::Stats;
use super::http::Exchange;
use crate::events::{LeafKind, Payload};
use crate::span::SpanId;

/// Requests that are followed at once. Beyond, the oldest go first.
const MAX_EXCHANGES: usize = 1 << 14;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    by_span: HashMap<SpanId, Box<Exchange>, FixedState>,
    order: VecDeque<SpanId>,
}

impl Exchanges {
    /// A leaf begins, which may be a request.
    pub fn begin(&mut self, span: SpanId, kind: LeafKind, stats: &mut Stats) {
        let Some(exchange) = Exchange::new(kind) else { return };
        if self.order.len() >= 2 * MAX_EXCHANGES {
            let by_span = &self.by_span;
            self.order.retain(|span| by_span.contains_key(span));
        }
        while self.by_span.len() >= MAX_EXCHANGES
            && let Some(oldest) = self.order.pop_front()
        {
            stats.captures_evicted += u64::from(self.by_span.remove(&oldest).is_some());
        }
        self.by_span.insert(span, Box::new(exchange));
        self.order.push_back(span);
    }

    /// Takes in what was captured of one.
    pub fn add(&mut self, span: SpanId, payload: &Payload<'_>) {
        if let Some(exchange) = self.by_span.get_mut(&span) {
            exchange.feed(payload);
        }
    }

    /// The span has ended.
    pub fn take(&mut self, span: SpanId) -> Option<Box<Exchange>> {
        self.by_span.remove(&span)
    }
}
