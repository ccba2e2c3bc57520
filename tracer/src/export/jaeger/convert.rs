//! Our spans as Jaeger's, by OpenTelemetry's rules for Jaeger
//! (specification/trace/sdk_exporters/jaeger.md).

use super::model::{Batch, Log, Process, Span, Tag, TagValue};
use crate::export::attributes::attributes;
use crate::export::batch::{self, Origin};
use crate::export::otlp::{SCOPE, status_description};
use crate::span::{ClockAnchor, MonoNs, SpanEvent, SpanKind, Value};

/// Everything in `batch`, under its process.
pub(super) fn batch(batch: &batch::Batch) -> Batch {
    let Origin { attributes, anchor } = &*batch.origin;
    let tags = attributes.iter().filter(|(key, _)| key != "service.name");
    Batch {
        process: Process {
            service_name: batch.origin.service_name().to_owned(),
            tags: tags.map(|(key, value)| tag(key, value.clone())).collect(),
        },
        spans: batch.spans.iter().map(|(one, until)| span(one, *until, *anchor)).collect(),
    }
}

/// A span that is still running ends at `until`: Jaeger knows no open spans.
fn span(span: &crate::span::Span, until: MonoNs, anchor: ClockAnchor) -> Span {
    let start = anchor.unix_ns(span.start) / 1_000;
    let end = anchor.unix_ns(span.end.unwrap_or(until).max(span.start)) / 1_000;
    let mut tags: Vec<Tag> =
        attributes(span).into_iter().map(|(key, value)| tag(&key, value)).collect();
    tags.push(tag("otel.scope.name", SCOPE.into()));
    tags.push(tag("otel.scope.version", env!("CARGO_PKG_VERSION").into()));
    match span.kind {
        SpanKind::Internal => {}
        SpanKind::Client => tags.push(tag("span.kind", "client".into())),
        SpanKind::Server => tags.push(tag("span.kind", "server".into())),
    }
    if let Some(description) = status_description(span.outcome) {
        tags.push(tag("error", true.into()));
        tags.push(tag("otel.status_code", "ERROR".into()));
        tags.push(tag("otel.status_description", description.into()));
    }
    Span {
        trace_id_low: signed(span.trace_id.0 as u64),
        trace_id_high: signed((span.trace_id.0 >> 64) as u64),
        span_id: signed(span.span_id.0),
        parent_span_id: signed(span.parent_id.map_or(0, |id| id.0)),
        operation_name: span.name.to_string(),
        flags: 1,
        start_time: i64::try_from(start).unwrap_or(i64::MAX),
        duration: i64::try_from(end.saturating_sub(start)).unwrap_or(i64::MAX),
        tags,
        logs: span.events.iter().map(|event| log(event, anchor)).collect(),
    }
}

/// An event's name is a field beside its attributes.
fn log(event: &SpanEvent, anchor: ClockAnchor) -> Log {
    let own = event.attributes.iter().map(|(key, value)| tag(key, value.clone()));
    Log {
        timestamp: i64::try_from(anchor.unix_ns(event.at) / 1_000).unwrap_or(i64::MAX),
        fields: std::iter::once(tag("event", (*event.name).into())).chain(own).collect(),
    }
}

fn tag(key: &str, value: Value) -> Tag {
    let value = match value {
        Value::Bool(yes) => TagValue::Bool(yes),
        Value::Int(number) => TagValue::Long(number),
        Value::Str(text) => TagValue::Str(text),
        // Jaeger's tags have no lists; its own OTLP receiver writes them as JSON too.
        Value::Texts(all) => TagValue::Str(serde_json::json!(all).to_string()),
    };
    Tag { key: key.to_owned(), value }
}

/// The same bits: Thrift has no unsigned numbers.
const fn signed(id: u64) -> i64 {
    id.cast_signed()
}
