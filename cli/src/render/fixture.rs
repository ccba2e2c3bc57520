//! Spans as a small `orchestrate` would make them.

use tracer::span::{MonoNs, Outcome, Span, SpanId, SpanKind, TraceId, Value};

const MS: u64 = 1_000_000;

/// A span of `trace` from `start` for `length` milliseconds.
pub fn span(
    trace: u128,
    id: u64,
    parent: Option<u64>,
    name: &str,
    start: u64,
    length: u64,
) -> Span {
    Span {
        trace_id: TraceId(trace << 64 | 0xfeed),
        span_id: SpanId((trace as u64) << 32 | id),
        parent_id: parent.map(|id| SpanId((trace as u64) << 32 | id)),
        name: name.into(),
        function: format!("orchestrate::{name}").into(),
        kind: SpanKind::Internal,
        start: MonoNs(start * MS),
        end: Some(MonoNs((start + length) * MS)),
        start_is_late: false,
        outcome: Outcome::Returned,
        orphan: None,
        thread_id: 11,
        address: 0x7f00_0000_1000,
        polls: Some(3),
        busy_ns: Some(length * MS / 4),
        attributes: vec![],
        events: vec![],
    }
}

/// With attributes.
pub fn with(mut span: Span, attributes: &[(&str, &str)]) -> Span {
    span.attributes.extend(attributes.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))));
    span
}

/// With an outcome.
pub fn ending(mut span: Span, outcome: Outcome) -> Span {
    span.outcome = outcome;
    if outcome == Outcome::Running {
        span.end = None;
    }
    span
}

/// One agent's trace, in the order of its starts, beginning at `at` milliseconds.
pub fn agent(trace: u128, at: u64) -> Vec<Span> {
    let id = trace.to_string();
    let agent = [("agent_id", &*id), ("agent_type", "coder"), ("gen_ai.agent.id", &*id)];
    vec![
        with(span(trace, 1, None, "agent_execution", at, 1240), &agent),
        with(span(trace, 2, Some(1), "tool_call", at + 10, 310), &[("tool_name", "Bash")]),
        with(span(trace, 3, Some(2), "database_query", at + 12, 2), &[("query_type", "SELECT")]),
        ending(
            with(span(trace, 4, Some(1), "tool_call", at + 330, 81), &[("tool_name", "读取文件")]),
            Outcome::Panicked,
        ),
        with(
            span(trace, 5, Some(4), "http_request", at + 340, 60),
            &[("method", "POST"), ("path", "/v1/files/a-rather-long-path/that/goes/on/and/on")],
        ),
        ending(
            with(span(trace, 6, Some(1), "api_call", at + 450, 780), &[("model", "claude")]),
            Outcome::Cancelled,
        ),
    ]
}
