//! What every sink says about a span beside its name, ids and times.

use std::borrow::Cow;

use crate::span::{Outcome, Span, Value};

/// The attributes of `span` as JSON and OTLP carry them: those that hold for every span, then
/// its own. A key occurs once; what the span says about itself wins.
pub fn attributes(span: &Span) -> Vec<(Cow<'_, str>, Value)> {
    let mut out: Vec<(Cow<'_, str>, Value)> = Vec::with_capacity(span.attributes.len() + 8);
    let mut common = |key: &'static str, value: Value| {
        if !span.attributes.iter().any(|(own, _)| own == key) {
            out.push((Cow::Borrowed(key), value));
        }
    };
    if !span.function.is_empty() {
        common("code.function.name", (*span.function).into());
    }
    common("thread.id", i64::from(span.thread_id).into());
    if let Some(polls) = span.polls {
        common("async.polls", i64::from(polls).into());
    }
    if let Some(busy) = span.busy_ns {
        common("async.busy_ns", saturating(busy).into());
        if let Some(duration) = span.duration_ns() {
            common("async.idle_ns", saturating(duration.saturating_sub(busy)).into());
        }
    }
    common("orchestrate.outcome", span.outcome.as_str().into());
    match span.outcome {
        Outcome::Panicked => common("error.type", "panic".into()),
        // The conventions' word for an error of a kind that is not known.
        Outcome::Error => common("error.type", "_OTHER".into()),
        Outcome::Returned | Outcome::Cancelled | Outcome::Running | Outcome::Unknown => {}
    }
    if let Some(reason) = span.orphan {
        common("orchestrate.orphan", true.into());
        common("orchestrate.orphan_reason", reason.as_str().into());
    }
    if span.start_is_late {
        common("orchestrate.start_is_late", true.into());
    }
    out.extend(span.attributes.iter().map(|(key, value)| (Cow::from(key.as_str()), value.clone())));
    out
}

fn saturating(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::{MonoNs, OrphanReason, SpanId, SpanKind, TraceId};

    #[test]
    fn its_own_attributes_win() {
        let span = Span {
            trace_id: TraceId(1),
            span_id: SpanId(2),
            parent_id: None,
            name: "tool_call".into(),
            function: "a::b".into(),
            kind: SpanKind::Internal,
            start: MonoNs(100),
            end: Some(MonoNs(400)),
            start_is_late: true,
            outcome: Outcome::Error,
            orphan: Some(OrphanReason::LateAttach),
            thread_id: 7,
            address: 0,
            polls: Some(2),
            busy_ns: Some(100),
            attributes: vec![("error.type".to_owned(), "timeout".into())],
            events: Vec::new(),
        };
        let found = attributes(&span);
        let text: Vec<String> = found.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
        assert_eq!(
            text,
            [
                "code.function.name=Str(\"a::b\")",
                "thread.id=Int(7)",
                "async.polls=Int(2)",
                "async.busy_ns=Int(100)",
                "async.idle_ns=Int(200)",
                "orchestrate.outcome=Str(\"error\")",
                "orchestrate.orphan=Bool(true)",
                "orchestrate.orphan_reason=Str(\"late_attach\")",
                "orchestrate.start_is_late=Bool(true)",
                "error.type=Str(\"timeout\")",
            ]
        );
    }
}
