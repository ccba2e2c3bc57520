//! HTTP requests, made and served: what their heads say, and what a model call's bodies say.

use super::Stats;
use super::model::{self, Question, Reader};
use crate::events::{LeafKind, Payload, PayloadKind};
use crate::protocol::{Encoding, Message, Part, RequestHead, ResponseHead, is_model_call};
use crate::span::{Outcome, Span, Value};

/// A request and its response, as they come.
#[derive(Debug)]
pub(super) struct Exchange {
    kind: LeafKind,
    request: Message<RequestHead>,
    response: Message<ResponseHead>,
    question: Option<Box<Question>>,
    answer: Option<Box<Reader>>,
}

impl Exchange {
    /// For a leaf of this kind; `None` if it is no request.
    pub fn new(kind: LeafKind) -> Option<Self> {
        match kind {
            LeafKind::TlsRequest | LeafKind::ClientRequest | LeafKind::ServedRequest => {
                Some(Self {
                    kind,
                    request: Message::default(),
                    response: Message::default(),
                    question: None,
                    answer: None,
                })
            }
            LeafKind::Statement | LeafKind::Process => None,
        }
    }

    /// Takes in what was captured.
    pub fn feed(&mut self, payload: &Payload<'_>) {
        let &Payload { offset, len, bytes, tail, .. } = payload;
        let part = Part { offset, len: len.into(), bytes, tail };
        let Self { kind, request, response, question, answer } = self;
        match payload.what {
            PayloadKind::Request => {
                // The head comes with the first bytes of the body: it is looked at afterwards.
                let mut body = Body::default();
                request.feed(&part, |bytes| match question {
                    Some(question) => question.feed(bytes),
                    None => body.keep(bytes),
                });
                if question.is_none()
                    && *kind != LeafKind::ServedRequest
                    && let Some(head) = request.head()
                {
                    if is_model_call(head) && head.encoding == Encoding::Identity {
                        question.insert(Box::new(Question::new())).feed(&body.0);
                    }
                    if matches!(head.method, "HEAD" | "CONNECT") {
                        response.without_body();
                    }
                } else if let Some(head) = request.head()
                    && head.method == "HEAD"
                {
                    response.without_body();
                }
            }
            PayloadKind::Response => {
                let is_call =
                    *kind != LeafKind::ServedRequest && request.head().is_some_and(is_model_call);
                let mut body = Body::default();
                response.feed(&part, |bytes| match answer {
                    Some(answer) => answer.feed(bytes),
                    None => body.keep(bytes),
                });
                if is_call
                    && answer.is_none()
                    && let Some(head) = response.head()
                {
                    answer.insert(Box::new(Reader::new(head))).feed(&body.0);
                }
            }
            PayloadKind::SqlText => {}
        }
    }

    /// Fills in what the span says about itself.
    pub fn describe(mut self, span: &mut Span, stats: &mut Stats) {
        let Some(head) = self.request.head() else {
            stats.requests_unread += 1;
            return;
        };
        let is_call = self.kind != LeafKind::ServedRequest && is_model_call(head);
        let out = &mut span.attributes;
        if is_call {
            let answer = self.answer.as_mut().and_then(|answer| answer.finish(&self.response));
            let question = self.question.as_deref();
            stats.models_unread += u64::from(question.and_then(Question::model).is_none());
            let succeeded = self.response.head().is_some_and(|head| head.status / 100 == 2);
            let has_tokens =
                answer.as_ref().is_some_and(|a| a.input.is_some() && a.output.is_some());
            stats.answers_unread += u64::from(succeeded && !has_tokens);
            model::attributes(question, &answer.unwrap_or_default(), out);
        } else {
            http_keys(head, self.response.head(), out);
        }
        conventions(self.kind, head, self.response.head(), out);
        if let Some(response) = self.response.head() {
            if span.outcome == Outcome::Error {
                out.push(("error.type".to_owned(), response.status.to_string().into()));
            }
        } else {
            stats.responses_unread += 1;
        }
    }
}

/// Bytes of a body that came with its head: no more than one record has.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn keep(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

/// The seed's keys.
fn http_keys(
    request: &RequestHead,
    response: Option<&ResponseHead>,
    out: &mut Vec<(String, Value)>,
) {
    out.push(("method".to_owned(), request.method.into()));
    if let Some(path) = &request.path {
        out.push(("path".to_owned(), path.clone().into()));
    }
    if let Some(response) = response {
        out.push(("status".to_owned(), i64::from(response.status).into()));
    }
}

/// OpenTelemetry's.
fn conventions(
    kind: LeafKind,
    request: &RequestHead,
    response: Option<&ResponseHead>,
    out: &mut Vec<(String, Value)>,
) {
    out.push(("http.request.method".to_owned(), request.method.into()));
    if let Some(path) = &request.path {
        out.push(("url.path".to_owned(), path.clone().into()));
    }
    if let Some(response) = response {
        let status = i64::from(response.status);
        out.push(("http.response.status_code".to_owned(), status.into()));
    }
    if let Some(authority) = &request.authority {
        out.push(("server.address".to_owned(), authority.host.clone().into()));
        let port = authority.port.or(match kind {
            LeafKind::TlsRequest => Some(443),
            LeafKind::ClientRequest => Some(80),
            // Behind a proxy it may be any.
            LeafKind::ServedRequest | LeafKind::Statement | LeafKind::Process => None,
        });
        if let Some(port) = port {
            out.push(("server.port".to_owned(), i64::from(port).into()));
        }
    }
}
