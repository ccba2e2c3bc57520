//! Our spans as OpenTelemetry's, and the transport that carries them.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId as OtelSpanId, SpanKind as OtelKind, Status, TraceFlags,
    TraceId as OtelTraceId, TraceState,
};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue};
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{
    ExporterBuildError, Protocol as OtlpProtocol, RetryPolicy, SpanExporter, WithExportConfig,
    WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};

use super::attributes::attributes;
use super::config::{OtlpConfig, Protocol};
use super::resource::ResourceInfo;
use crate::span::{ClockAnchor, MonoNs, Outcome, Span, SpanKind, Value};

/// Builds the transport. Must be called inside a tokio runtime: gRPC's channel wants one.
pub(super) fn transport(
    config: &OtlpConfig,
    resource: &ResourceInfo,
) -> Result<SpanExporter, ExporterBuildError> {
    // The queue retries by itself: it knows the deadline and counts what is lost.
    let mut exporter = match config.protocol {
        Protocol::Grpc => {
            let mut builder = SpanExporter::builder()
                .with_tonic()
                .with_retry_policy(RetryPolicy::disabled())
                .with_endpoint(config.endpoint.as_str())
                .with_timeout(config.timeout);
            if config.endpoint.scheme() == "https" {
                builder = builder.with_tls_config(ClientTlsConfig::new().with_native_roots());
            }
            builder.build()?
        }
        Protocol::HttpProtobuf => SpanExporter::builder()
            .with_http()
            .with_retry_policy(RetryPolicy::disabled())
            .with_protocol(OtlpProtocol::HttpBinary)
            .with_endpoint(config.endpoint.as_str())
            .with_timeout(config.timeout)
            .build()?,
    };
    exporter.set_resource(&resource.to_resource());
    Ok(exporter)
}

/// The instrumentation scope of everything we send.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("orchestrate-trace")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

/// `span` as OpenTelemetry has it. A span that is still running ends at `until`: OTLP knows no
/// open spans, its `orchestrate.outcome` says so.
pub(super) fn span_data(
    span: &Span,
    until: MonoNs,
    anchor: ClockAnchor,
    scope: &InstrumentationScope,
) -> SpanData {
    let wall = |at: MonoNs| SystemTime::UNIX_EPOCH + Duration::from_nanos(anchor.unix_ns(at));
    SpanData {
        span_context: SpanContext::new(
            OtelTraceId::from_bytes(span.trace_id.0.to_be_bytes()),
            span_id(span.span_id.0),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: span.parent_id.map_or(OtelSpanId::INVALID, |id| span_id(id.0)),
        parent_span_is_remote: false,
        span_kind: match span.kind {
            SpanKind::Internal => OtelKind::Internal,
            SpanKind::Client => OtelKind::Client,
            SpanKind::Server => OtelKind::Server,
        },
        name: span.name.to_string().into(),
        start_time: wall(span.start),
        end_time: wall(span.end.unwrap_or(until).max(span.start)),
        attributes: attributes(span)
            .into_iter()
            .map(|(key, value)| {
                let key = key.into_owned();
                match value {
                    Value::Bool(b) => KeyValue::new(key, b),
                    Value::Int(n) => KeyValue::new(key, n),
                    Value::Str(s) => KeyValue::new(key, s),
                    Value::Texts(all) => {
                        let all = all.into_iter().map(StringValue::from).collect();
                        KeyValue::new(key, opentelemetry::Value::Array(Array::String(all)))
                    }
                }
            })
            .collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match span.outcome {
            Outcome::Error => Status::error("returned an error"),
            Outcome::Panicked => Status::error("panicked"),
            Outcome::Returned | Outcome::Cancelled | Outcome::Running | Outcome::Unknown => {
                Status::Unset
            }
        },
        instrumentation_scope: scope.clone(),
    }
}

fn span_id(id: u64) -> OtelSpanId {
    OtelSpanId::from_bytes(id.to_be_bytes())
}

/// All that the HTTP transport says of a connection that failed.
pub(super) const NO_DETAIL: &str = "no answer";

/// What to do about a batch that did not get through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may get through later.
    Retry(String),
    /// The receiver will not have it.
    Rejected(String),
}

/// Sorts a transport's error by the OTLP specification's lists of what may be retried. The
/// exporter gives its status as text only; what is not recognised is retried.
pub(super) fn classify(error: &OTelSdkError) -> Failure {
    let text = match error {
        OTelSdkError::AlreadyShutdown => return Failure::Rejected(error.to_string()),
        OTelSdkError::Timeout(_) => return Failure::Retry(error.to_string()),
        OTelSdkError::InternalFailure(text) => text.clone(),
    };
    if let Some((_, code)) = text.split_once("status code: ") {
        let code = code.trim();
        return match code {
            "408" | "429" | "502" | "503" | "504" => Failure::Retry(format!("HTTP status {code}")),
            _ => Failure::Rejected(format!("HTTP status {code}")),
        };
    }
    if let Some((_, code)) = text.split_once("gRPC code: ") {
        let name = code.split(':').next().unwrap_or(code).trim();
        let detail = code.trim().to_owned();
        // With a cause behind it, the status was made up on this side: a broken connection.
        if code.contains(':') {
            return Failure::Retry(detail);
        }
        return match name {
            "InvalidArgument" | "NotFound" | "AlreadyExists" | "PermissionDenied"
            | "FailedPrecondition" | "Unimplemented" | "Internal" | "Unauthenticated" => {
                Failure::Rejected(detail)
            }
            _ => Failure::Retry(detail),
        };
    }
    if text.ends_with("network error") {
        return Failure::Retry(NO_DETAIL.to_owned());
    }
    if text.contains("request body is") {
        return Failure::Rejected(text);
    }
    Failure::Retry(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_sorted_as_the_specification_says() {
        let class = |text: &str| classify(&OTelSdkError::InternalFailure(text.to_owned()));
        let retry = |text: &str| assert!(matches!(class(text), Failure::Retry(_)), "{text}");
        let rejected = |text: &str| assert!(matches!(class(text), Failure::Rejected(_)), "{text}");
        retry("HTTP export failed: network error");
        retry("HTTP export failed with status code: 503");
        rejected("HTTP export failed with status code: 404");
        retry("TonicTracesClient export failed with gRPC code: Unavailable: tcp connect error");
        rejected("TonicTracesClient export failed with gRPC code: Unimplemented");
        retry("TonicTracesClient export failed with gRPC code: Internal: h2 protocol error");
        retry("something new");
    }
}
