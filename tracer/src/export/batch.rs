//! What goes out in one request: spans of one process.

use std::sync::Arc;

use opentelemetry::{Array, KeyValue, StringValue};
use opentelemetry_sdk::Resource;
use serde::{Deserialize, Serialize};

use super::resource::DEFAULT_SERVICE_NAME;
use super::stats::Counters;
use crate::span::{ClockAnchor, MonoNs, Span, Value};

/// Who spans come from, and when their clock began. All that a span needs to be sent later, even
/// by another run of this program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// The resource, `service.name` included.
    pub(super) attributes: Vec<(String, Value)>,
    /// Monotonic to wall clock.
    pub(super) anchor: ClockAnchor,
}

impl Origin {
    pub(super) fn service_name(&self) -> &str {
        let name = self.attributes.iter().find(|(key, _)| key == "service.name");
        match name {
            Some((_, Value::Str(name))) => name,
            _ => DEFAULT_SERVICE_NAME,
        }
    }

    pub(super) fn to_resource(&self) -> Resource {
        let attributes = self.attributes.iter().map(|(key, value)| key_value(key, value.clone()));
        Resource::builder_empty().with_attributes(attributes).build()
    }
}

/// An attribute as OpenTelemetry has it.
pub(super) fn key_value(key: &str, value: Value) -> KeyValue {
    let key = key.to_owned();
    match value {
        Value::Bool(yes) => KeyValue::new(key, yes),
        Value::Int(number) => KeyValue::new(key, number),
        Value::Str(text) => KeyValue::new(key, text),
        Value::Texts(all) => {
            let all = all.into_iter().map(StringValue::from).collect();
            KeyValue::new(key, opentelemetry::Value::Array(Array::String(all)))
        }
    }
}

/// One traced process, as the export thread knows it.
#[derive(Debug)]
pub(super) struct Source {
    /// Unique over all runs, as good as: it is what a spooled batch remembers of it.
    pub(super) tag: u64,
    pub(super) origin: Arc<Origin>,
    pub(super) counters: Counters,
}

/// Spans of one process, with the end of those that are still running.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) origin: Arc<Origin>,
    pub(super) spans: Vec<(Span, MonoNs)>,
    /// `None` for what an earlier run left in the spool, or a process whose account is closed.
    pub(super) source: Option<Arc<Source>>,
}

impl Batch {
    pub(super) fn len(&self) -> u64 {
        self.spans.len() as u64
    }
}

/// About how many bytes a span takes in a request.
pub(super) fn estimate(span: &Span) -> usize {
    let text = |value: &Value| match value {
        Value::Bool(_) | Value::Int(_) => 8,
        Value::Str(s) => s.len(),
        Value::Texts(all) => all.iter().map(|text| text.len() + 4).sum(),
    };
    let own: usize = span.attributes.iter().map(|(key, value)| key.len() + text(value) + 8).sum();
    256 + span.name.len() + span.function.len() + own
}
