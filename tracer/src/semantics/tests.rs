//! What requests say about themselves, however they are cut.

use std::io::Write as _;
use std::sync::Arc;

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use serde_json::json;

use super::{Options, Semantics};
use crate::events::{
    Event, KernelId, LeafKind, LeafStart, ParentSource, Payload, PayloadKind, Stamp,
};
use crate::plan::{TargetMeta, TraceMeta};
use crate::span::{ClockAnchor, MonoNs, Outcome, Span, SpanId, SpanKind, TraceId};

const ID: u64 = 5;

fn meta() -> TraceMeta {
    TraceMeta {
        seed: "00".into(),
        anchor: ClockAnchor { offset_ns: 0 },
        target: TargetMeta { pid: 1, executable: "/app".into(), build_id: None },
        functions: vec![],
    }
}

/// What a leaf says that has `request` and `response`, which come in pieces of `step` bytes. Of
/// the response the byte at `lost` is not captured.
fn describe(
    kind: LeafKind,
    request: &[u8],
    response: &[u8],
    step: usize,
    lost: Option<usize>,
) -> (serde_json::Map<String, serde_json::Value>, super::Stats) {
    let mut semantics = Semantics::new(Arc::new(meta()), &Options::default());
    let at = Stamp { ts: MonoNs(1), tid: 1 };
    let id = KernelId::new(ID).unwrap();
    let (parent, source, task) = (None, ParentSource::Root, None);
    semantics.observe(&Event::LeafStart(LeafStart { at, id, parent, source, key: 1, kind, task }));
    for (what, bytes) in [(PayloadKind::Request, request), (PayloadKind::Response, response)] {
        for (n, piece) in bytes.chunks(step).enumerate() {
            let from = n * step;
            let mut captured = piece;
            if what == PayloadKind::Response
                && let Some(lost) = lost
                && (from..from + piece.len()).contains(&lost)
            {
                captured = &piece[..lost - from];
            }
            semantics.observe(&Event::Payload(Payload {
                at,
                id,
                key: 1,
                what,
                offset: from as u64,
                len: piece.len() as u32,
                bytes: captured,
                tail: [0; 8],
            }));
        }
    }
    let mut span = Span {
        trace_id: TraceId(1),
        span_id: semantics.ids.span(id),
        parent_id: None::<SpanId>,
        name: "".into(),
        function: "".into(),
        kind: SpanKind::Client,
        start: MonoNs(1),
        end: Some(MonoNs(2)),
        start_is_late: false,
        outcome: Outcome::Returned,
        orphan: None,
        thread_id: 1,
        address: 1,
        polls: None,
        busy_ns: None,
        attributes: vec![],
        events: vec![],
    };
    semantics.ended(&mut span);
    let attributes = span.attributes.into_iter();
    let values = attributes.map(|(key, value)| (key, serde_json::to_value(value).unwrap()));
    (values.collect(), *semantics.stats())
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: api.anthropic.com\r\nx-api-key: sk-secret\r\n\
             Content-Length: {len}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn chunked(body: &[u8], headers: &str, size: usize) -> Vec<u8> {
    let mut all =
        format!("HTTP/1.1 200 OK\r\n{headers}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for chunk in body.chunks(size) {
        all.extend(format!("{:x}\r\n", chunk.len()).bytes());
        all.extend(chunk);
        all.extend(b"\r\n");
    }
    all.extend(b"0\r\n\r\n");
    all
}

fn zip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// An answer in one piece, and the same one as a stream.
fn answers(text: &str, output: i64) -> (String, String) {
    let usage = json!({
        "input_tokens": 12, "output_tokens": output,
        "cache_creation_input_tokens": 3, "cache_read_input_tokens": 4,
    });
    let whole = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x-1",
        "content": [{"type": "text", "text": text}, {"type": "tool_use", "id": "t", "name": "n",
            "input": {"model": "no", "usage": {"output_tokens": 99}}}],
        "stop_reason": "tool_use", "stop_sequence": null, "usage": usage,
    });
    let mut start = whole.clone();
    start["content"] = json!([]);
    start["stop_reason"] = json!(null);
    start["usage"]["output_tokens"] = json!(1);
    let mut stream = String::new();
    let events = [
        json!({"type": "message_start", "message": start}),
        json!({"type": "ping"}),
        json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "text_delta", "text": text, "stop_reason": "no"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"},
            "usage": {"output_tokens": output}}),
        json!({"type": "message_stop"}),
    ];
    for event in events {
        let name = event["type"].as_str().unwrap().to_owned();
        stream += &format!("event: {name}\ndata: {event}\n\n");
    }
    (whole.to_string(), stream)
}

const TYPE: &str = "Content-Type: text/event-stream\r\n";

proptest! {
    #[test]
    fn a_model_call_says_the_same_however_it_comes(
        text in "\\PC{0,300}",
        output in 0i64..100_000,
        streamed in any::<bool>(),
        zipped in any::<bool>(),
        size in 1usize..600,
        step in 1usize..4096,
        lost in any::<prop::sample::Index>(),
    ) {
        let (whole, stream) = answers(&text, output);
        let mut body = if streamed { stream } else { whole }.into_bytes();
        let mut headers = if streamed { TYPE.to_owned() } else { String::new() };
        if zipped {
            body = zip(&body);
            headers += "Content-Encoding: gzip\r\n";
        }
        let question = json!({"messages": [{"role": "user", "content": text, "model": "no"}],
            "max_tokens": 100, "model": "claude-x"});
        let request = post("/v1/messages?beta=true", &question.to_string());
        let response = chunked(&body, &headers, size);
        let (found, stats) = describe(LeafKind::TlsRequest, &request, &response, step, None);
        let expected = json!({
            "model": "claude-x", "input_tokens": 12, "output_tokens": output,
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": "claude-x", "gen_ai.request.max_tokens": 100,
            "gen_ai.response.model": "claude-x-1", "gen_ai.response.id": "msg_1",
            "gen_ai.response.finish_reasons": ["tool_use"],
            "gen_ai.usage.input_tokens": 19, "gen_ai.usage.output_tokens": output,
            "gen_ai.usage.cache_creation.input_tokens": 3,
            "gen_ai.usage.cache_read.input_tokens": 4,
            "http.request.method": "POST", "url.path": "/v1/messages",
            "http.response.status_code": 200,
            "server.address": "api.anthropic.com", "server.port": 443,
        });
        prop_assert_eq!(serde_json::Value::from(found), expected.clone());
        prop_assert_eq!(stats, super::Stats::default());

        // With a byte lost, a value is right or missing.
        let lost = lost.index(response.len());
        let (found, _) = describe(LeafKind::TlsRequest, &request, &response, step, Some(lost));
        for (key, value) in &found {
            prop_assert_eq!(value, &expected[key], "{}", key);
        }
        // Cut off, too.
        let (found, stats) = describe(LeafKind::TlsRequest, &request, &response[..lost], step, None);
        for (key, value) in &found {
            prop_assert_eq!(value, &expected[key], "{}", key);
        }
        let missing = !found.contains_key("output_tokens");
        prop_assert!(!missing || stats.answers_unread + stats.responses_unread == 1);
    }

    #[test]
    fn noise_never_panics(
        kind in prop::sample::select(vec![
            LeafKind::TlsRequest, LeafKind::ClientRequest, LeafKind::ServedRequest,
        ]),
        request in prop::collection::vec(any::<u8>(), 0..300),
        response in prop::collection::vec(any::<u8>(), 0..300),
        body in prop::collection::vec(any::<u8>(), 0..300),
        step in 1usize..100,
    ) {
        describe(kind, &request, &response, step, None);
        let request = post("/v1/messages", "{\"model\":\"m\"}");
        describe(kind, &request, &chunked(&body, TYPE, 9), step, None);
        describe(kind, &request, &chunked(&body, "Content-Encoding: gzip\r\n", 9), step, None);
    }
}

#[test]
fn other_requests_say_what_their_heads_say_and_nothing_else() {
    let (found, stats) = describe(
        LeafKind::ClientRequest,
        b"GET /a/b?key=secret HTTP/1.1\r\nHost: h:81\r\nAuthorization: Bearer secret\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nSet-Cookie: secret\r\nContent-Length: 6\r\n\r\nsecret",
        7,
        None,
    );
    let expected = json!({
        "method": "GET", "path": "/a/b", "status": 404,
        "http.request.method": "GET", "url.path": "/a/b", "http.response.status_code": 404,
        "server.address": "h", "server.port": 81,
    });
    assert_eq!(serde_json::Value::from(found), expected);
    assert_eq!(stats, super::Stats::default());
}

#[test]
fn a_model_that_refuses_has_no_tokens() {
    let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "x"}});
    let body = error.to_string();
    let response =
        format!("HTTP/1.1 529 x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
    let request = post("/v1/messages", "{\"model\":\"m\"}");
    let (found, stats) = describe(LeafKind::TlsRequest, &request, &response, 50, None);
    assert_eq!((&found["model"], &found["http.response.status_code"]), (&json!("m"), &json!(529)));
    assert!(!found.contains_key("output_tokens") && stats == super::Stats::default());
}

#[test]
fn a_stream_that_breaks_off_has_no_output_yet() {
    let (_, stream) = answers("x", 7);
    let cut = &stream[..stream.find("event: message_delta").unwrap()];
    let response = format!("HTTP/1.1 200 OK\r\n{TYPE}\r\n{cut}");
    let request = post("/v1/messages", "{\"model\":\"m\"}");
    let (found, stats) = describe(LeafKind::TlsRequest, &request, response.as_bytes(), 50, None);
    assert_eq!(found["input_tokens"], json!(12));
    assert!(!found.contains_key("output_tokens") && stats.answers_unread == 1);
}

#[test]
fn what_was_not_seen_is_counted() {
    let (found, stats) = describe(LeafKind::ServedRequest, b"", b"", 1, None);
    assert!(found.is_empty() && stats.requests_unread == 1);
}
