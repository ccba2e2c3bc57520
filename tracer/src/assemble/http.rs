//! Requests: what they are called, when their responses are complete, and what is done for them.

use super::Assembler;
use super::leaf::Leaf;
use super::start::Origin;
use crate::events::{KernelId, LeafKind, Payload, PayloadKind};
use crate::protocol::{Message, Part, RequestHead, ResponseHead, is_model_call};
use crate::span::{OrphanReason, Outcome, SpanId, TraceId};

/// One request and its response.
#[derive(Debug)]
pub(super) struct Exchange {
    served: bool,
    request: Message<RequestHead>,
    response: Message<ResponseHead>,
    /// Nothing may be said to be done for it.
    pub is_barren: bool,
}

impl Exchange {
    /// For a leaf of this kind; `None` if it is no request.
    pub fn new(kind: LeafKind) -> Option<Self> {
        let served = match kind {
            LeafKind::Statement | LeafKind::Process => return None,
            LeafKind::TlsRequest | LeafKind::ClientRequest => false,
            LeafKind::ServedRequest => true,
        };
        Some(Self {
            served,
            request: Message::default(),
            response: Message::default(),
            is_barren: false,
        })
    }

    /// Takes in what was captured.
    pub fn feed(&mut self, payload: &Payload<'_>) {
        let &Payload { offset, len, bytes, tail, .. } = payload;
        let part = Part { offset, len: len.into(), bytes, tail };
        match payload.what {
            PayloadKind::Request => {
                self.request.feed(&part, |_| {});
                if self.request.head().is_some_and(|head| matches!(head.method, "HEAD" | "CONNECT"))
                {
                    self.response.without_body();
                }
            }
            PayloadKind::Response => self.response.feed(&part, |_| {}),
            PayloadKind::SqlText => {}
        }
    }

    /// Its response has been read or written to its end.
    pub const fn is_complete(&self) -> bool {
        self.response.is_complete()
    }

    /// What it is can be told, or never will.
    pub const fn is_named(&self) -> bool {
        self.request.head().is_some() || self.request.is_opaque()
    }

    /// It is no request of HTTP/1 at all: it only began like one.
    pub const fn is_foreign(&self) -> bool {
        self.request.is_foreign()
    }

    /// It asks a model.
    pub fn is_model_call(&self) -> bool {
        !self.served && self.request.head().is_some_and(is_model_call)
    }

    /// Who asked, in another process.
    pub fn caller(&self) -> Option<(SpanId, TraceId)> {
        let context = self.request.head().filter(|_| self.served)?.traceparent?;
        Some((SpanId(context.span_id), TraceId(context.trace_id)))
    }

    /// What its task did meanwhile was done for it: it was the only one.
    pub const fn has_children(&self) -> bool {
        self.served && !self.is_barren && !self.request.has_excess()
    }
}

impl Assembler {
    /// The place of what is done for a request that is being served; `None` if `id` is none.
    pub(super) fn served_in(&mut self, id: KernelId) -> Option<Origin> {
        let own = self.ids.trace(id);
        let exchange = self.leaves.get_mut(id)?.exchange.as_mut()?;
        // Another request behind it is served only when this one's response is complete.
        if !exchange.served || exchange.is_barren || !exchange.is_named() {
            return Some(Origin::orphan(OrphanReason::Unlinked));
        }
        let trace = exchange.caller().map_or(own, |(_, trace)| trace);
        Some(Origin { parent: Some((id, trace)), orphan: None })
    }
}

/// As OpenTelemetry has it: a status from 400 on is an error of a client's request, one from 500
/// on of a server's. Without a response a client cannot know, and a server's was given up.
pub(super) fn request_outcome(leaf: &Leaf, responded: bool) -> Outcome {
    let served = leaf.kind == LeafKind::ServedRequest;
    let without = if served { Outcome::Cancelled } else { Outcome::Unknown };
    let Some(exchange) = leaf.exchange.as_ref().filter(|_| responded) else { return without };
    let response = &exchange.response;
    match response.head().map(|head| head.status) {
        Some(500..) => Outcome::Error,
        Some(400..) if !served => Outcome::Error,
        Some(_) if response.is_cut() => without,
        _ => Outcome::Returned,
    }
}
