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
mod options;
mod process;
pub mod redact;
pub mod sql;
mod statement;

use std::sync::Arc;

use serde::Serialize;

use crate::assemble::Ids;
use crate::events::{Event, LeafKind, PayloadKind};
use crate::plan::TraceMeta;
use crate::span::Span;
use args::Arguments;
use captured::CapturedBySpan;
use exchanges::Exchanges;
pub use options::{Captures, Options, Private};
use redact::{Redacted, Redactor};
use statement::Statements;

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
    /// Texts out of which a credential was taken.
    pub secrets_redacted: u64,
    /// Attributes that are private and were not asked for.
    pub private_withheld: u64,
    /// Attributes and events beyond what one span may have.
    pub attributes_dropped: u64,
}

/// Fills in what spans say about themselves. Pure: the same events give the same attributes.
#[derive(Debug)]
pub struct Semantics {
    ids: Ids,
    captured: CapturedBySpan,
    exchanges: Exchanges,
    arguments: Arguments,
    stats: Stats,
    statements: Statements,
    redactor: Redactor,
    meta: Arc<TraceMeta>,
}

impl Semantics {
    /// For one trace.
    pub fn new(meta: Arc<TraceMeta>, options: &Options) -> Self {
        let ids = Ids::new(&meta.seed);
        Self {
            ids,
            captured: CapturedBySpan::default(),
            exchanges: Exchanges::default(),
            arguments: Arguments::default(),
            statements: Statements::new(options.captures),
            redactor: Redactor::new(options.captures),
            stats: Stats::default(),
            meta,
        }
    }

    /// Keeps what an event says of a span, until that span ends.
    pub fn observe(&mut self, event: &Event<'_>) {
        match event {
            Event::LeafStart(start) => {
                let span = self.ids.span(start.id);
                match start.kind {
                    LeafKind::Statement | LeafKind::Process => {
                        self.captured.expect(span, start.kind, &mut self.stats);
                    }
                    LeafKind::TlsRequest | LeafKind::ClientRequest | LeafKind::ServedRequest => {
                        self.exchanges.begin(span, start.kind, &mut self.stats);
                    }
                }
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
            Event::ProcessExec(exec) => {
                self.captured.executes(self.ids.span(exec.id), exec.name);
            }
            Event::LeafEnd(end) => self.captured.ended(self.ids.span(end.id), end),
            _ => {}
        }
    }

    /// A span begins: what is known by now.
    pub fn started(&mut self, span: &mut Span) {
        if let Some(captured) = self.captured.get(span.span_id) {
            self.statements.describe(span, captured);
            process::describe(span, captured);
        }
        self.arguments.describe(span);
        self.redact(span);
    }

    /// A span has ended: everything it says about itself.
    pub fn ended(&mut self, span: &mut Span) {
        if let Some(captured) = self.captured.take(span.span_id) {
            self.statements.describe(span, &captured);
            process::describe(span, &captured);
        }
        if let Some(exchange) = self.exchanges.take(span.span_id) {
            exchange.describe(span, &mut self.stats);
        }
        self.arguments.describe(span);
        self.arguments.forget(span.span_id, &mut self.stats);
        self.redact(span);
    }

    /// The last step: see [`redact`].
    fn redact(&mut self, span: &mut Span) {
        let mut counts = Redacted::default();
        self.redactor.span(span, &mut counts);
        // Counted once, when the span is complete.
        if span.end.is_some() {
            let Redacted { secrets, private, overflow } = counts;
            self.stats.secrets_redacted += secrets;
            self.stats.private_withheld += private;
            self.stats.attributes_dropped += overflow;
        }
    }

    /// What could not be said so far.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }
}

#[cfg(test)]
mod tests;
