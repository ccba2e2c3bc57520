//! What a span did: names and attributes from an assembled span and the bytes captured for it.
//!
//! Bytes arrive as [`Payload`](crate::events::Payload) events, before or while their span is
//! open; they are kept, bounded, until the span ends, and are then turned into attributes. What is
//! not certain is left out.

mod captured;
mod options;
mod process;
pub mod redact;
pub mod sql;
mod statement;

use std::sync::Arc;

use serde::Serialize;

use crate::assemble::Ids;
use crate::events::{Event, LeafKind};
use crate::plan::TraceMeta;
use crate::span::Span;
use captured::CapturedBySpan;
pub use options::{Captures, Options, Private};
use redact::{Redacted, Redactor};
use statement::Statements;

/// What could not be said, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Spans whose captured bytes were given up to make room.
    pub captures_evicted: u64,
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
    stats: Stats,
    statements: Statements,
    redactor: Redactor,
    #[expect(dead_code, reason = "attributes by profile need it")]
    meta: Arc<TraceMeta>,
}

impl Semantics {
    /// For one trace.
    pub fn new(meta: Arc<TraceMeta>, options: &Options) -> Self {
        let ids = Ids::new(&meta.seed);
        Self {
            ids,
            captured: CapturedBySpan::default(),
            stats: Stats::default(),
            statements: Statements::new(options.captures),
            redactor: Redactor::new(options.captures),
            meta,
        }
    }

    /// Keeps what an event says of a span, until that span ends.
    pub fn observe(&mut self, event: &Event<'_>) {
        match event {
            Event::Payload(payload) => {
                self.captured.add(self.ids.span(payload.id), payload, &mut self.stats);
            }
            Event::LeafStart(start) if start.kind != LeafKind::TlsRequest => {
                self.captured.expect(self.ids.span(start.id), start.kind, &mut self.stats);
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
        self.redact(span);
    }

    /// A span has ended: everything it says about itself.
    pub fn ended(&mut self, span: &mut Span) {
        if let Some(captured) = self.captured.take(span.span_id) {
            self.statements.describe(span, &captured);
            process::describe(span, &captured);
        }
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
