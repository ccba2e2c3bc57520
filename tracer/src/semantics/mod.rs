//! What a span did: names and attributes from an assembled span and the bytes captured for it.
//!
//! Bytes arrive as [`Payload`](crate::events::Payload) events, before or while their span is
//! open; they are kept, bounded, until the span ends, and are then turned into attributes. What is
//! not certain is left out.

mod args;
mod captured;
mod exchanges;
mod http;
mod model;

use std::sync::Arc;

use serde::Serialize;

use crate::assemble::Ids;
use crate::events::{Event, PayloadKind};
use crate::plan::TraceMeta;
use crate::span::Span;
use args::Arguments;
use captured::CapturedBySpan;
use exchanges::Exchanges;

/// What spans may say about themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {}

/// What could not be said, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Spans whose captured bytes were given up to make room.
    pub captures_evicted: u64,
    /// Requests whose head was not seen, or is none.
    pub requests_unread: u64,
    /// Requests that ended without a response that could be read.
    pub responses_unread: u64,
    /// Calls of a model whose body did not say which.
    pub models_unread: u64,
    /// Answers of a model without its numbers of tokens: cut, damaged, or of another form.
    pub answers_unread: u64,
    /// Values that were fetched and read as nothing that the attribute can be.
    pub arguments_implausible: u64,
    /// Attributes left out because several values may be meant.
    pub arguments_ambiguous: u64,
}

/// Fills in what spans say about themselves. Pure: the same events give the same attributes.
#[derive(Debug)]
pub struct Semantics {
    ids: Ids,
    captured: CapturedBySpan,
    exchanges: Exchanges,
    arguments: Arguments,
    stats: Stats,
    meta: Arc<TraceMeta>,
}

impl Semantics {
    /// For one trace.
    pub fn new(meta: Arc<TraceMeta>, _options: &Options) -> Self {
        let ids = Ids::new(&meta.seed);
        let (captured, arguments) = (CapturedBySpan::default(), Arguments::default());
        let exchanges = Exchanges::default();
        Self { ids, captured, exchanges, arguments, stats: Stats::default(), meta }
    }

    /// Keeps what an event says of a span, until that span ends.
    pub fn observe(&mut self, event: &Event<'_>) {
        match event {
            Event::LeafStart(start) => {
                self.exchanges.begin(self.ids.span(start.id), start.kind, &mut self.stats);
            }
            Event::Payload(payload) => match payload.what {
                PayloadKind::SqlText => {
                    self.captured.add(self.ids.span(payload.id), payload, &mut self.stats);
                }
                PayloadKind::Request | PayloadKind::Response => {
                    self.exchanges.add(self.ids.span(payload.id), payload);
                }
            },
            Event::Argument(argument) => {
                self.arguments.add(self.ids.span(argument.id), argument, &self.meta);
            }
            _ => {}
        }
    }

    /// A span begins: what is known by now.
    pub fn started(&mut self, span: &mut Span) {
        self.arguments.describe(span);
    }

    /// A span has ended: everything it says about itself.
    pub fn ended(&mut self, span: &mut Span) {
        let _captured = self.captured.take(span.span_id);
        if let Some(exchange) = self.exchanges.take(span.span_id) {
            exchange.describe(span, &mut self.stats);
        }
        self.arguments.describe(span);
        self.arguments.forget(span.span_id, &mut self.stats);
    }

    /// What could not be said so far.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }
}

#[cfg(test)]
mod tests;
