//! OTLP: our spans as OpenTelemetry's, and opentelemetry-otlp to encode and carry them.
//!
//! That crate tells its caller of a failure as text, and of refused spans and `Retry-After` not at
//! all. Over HTTP it lets us put in the client, which therefore writes the answer down. Over gRPC
//! there is no such place: refused spans go to the log, and a `RetryInfo` is not seen.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{
    Event, SpanContext, SpanId as OtelSpanId, SpanKind as OtelKind, Status, TraceFlags,
    TraceId as OtelTraceId, TraceState,
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    Protocol as OtlpProtocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
    WithTonicConfig,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use prost::Message as _;

use super::attributes::attributes;
use super::batch::{Batch, Origin, key_value};
use super::config::{OtlpConfig, Protocol};
use super::http;
use super::transport::{Failure, Receipt};
use crate::span::{ClockAnchor, MonoNs, Outcome, Span, SpanKind};

/// The instrumentation scope of everything we send.
pub(super) const SCOPE: &str = "orchestrate-trace";

/// Sends batches to one OTLP endpoint.
pub(super) struct Otlp {
    exporter: SpanExporter,
    /// Whose resource the exporter has.
    origin: Option<Arc<Origin>>,
    scope: InstrumentationScope,
    /// Over HTTP: what the receiver said last.
    answer: Option<Arc<Mutex<Answer>>>,
}

impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Otlp").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Otlp {
    pub(super) fn new(config: &OtlpConfig) -> Result<Self, String> {
        let OtlpConfig { endpoint, protocol, timeout, tls } = config;
        let mut answer = None;
        // The queue retries by itself: it knows the deadline and counts what is lost.
        let built = match protocol {
            Protocol::Grpc => {
                let mut builder = SpanExporter::builder()
                    .with_tonic()
                    .with_retry_policy(RetryPolicy::disabled())
                    .with_endpoint(endpoint.as_str())
                    .with_timeout(*timeout);
                if endpoint.scheme() == "https" {
                    builder = builder.with_tls_config(tls.grpc()?);
                }
                builder.build()
            }
            Protocol::HttpProtobuf => {
                let client = http::client(*timeout, tls)?;
                let shared = answer.insert(Arc::default());
                SpanExporter::builder()
                    .with_http()
                    .with_http_client(Listening { client, answer: Arc::clone(shared) })
                    .with_retry_policy(RetryPolicy::disabled())
                    .with_protocol(OtlpProtocol::HttpBinary)
                    .with_endpoint(endpoint.as_str())
                    .with_timeout(*timeout)
                    .build()
            }
        };
        Ok(Self {
            exporter: built.map_err(|error| error.to_string())?,
            origin: None,
            scope: InstrumentationScope::builder(SCOPE)
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            answer,
        })
    }

    pub(super) async fn send(&mut self, batch: &Batch) -> Result<Receipt, Failure> {
        let Batch { origin, spans, source: _ } = batch;
        if !self.origin.as_ref().is_some_and(|known| Arc::ptr_eq(known, origin)) {
            self.exporter.set_resource(&origin.to_resource());
            self.origin = Some(Arc::clone(origin));
        }
        let data = spans
            .iter()
            .map(|(span, until)| span_data(span, *until, origin.anchor, &self.scope))
            .collect();
        let result = self.exporter.export(data).await;
        let answer = self.answer.as_ref().map(|answer| {
            std::mem::take(&mut *answer.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match (result, answer) {
            (Ok(()), answer) => Ok(answer.unwrap_or_default().receipt),
            (Err(_), Some(Answer { error: Some(error), .. })) => Err(Failure::retry(error)),
            (Err(error), answer) => {
                let failure = classify(&error);
                Err(match (failure, answer.and_then(|answer| answer.retry_after)) {
                    (Failure::Retry { error, .. }, Some(wait)) => {
                        Failure::Retry { error, after: Some(wait) }
                    }
                    (failure, _) => failure,
                })
            }
        }
    }
}

/// What opentelemetry-otlp does not pass on.
#[derive(Debug, Default)]
struct Answer {
    /// There was none, and why.
    error: Option<String>,
    retry_after: Option<Duration>,
    receipt: Receipt,
}

/// A client that writes down what it is answered.
#[derive(Debug)]
struct Listening {
    client: reqwest::Client,
    answer: Arc<Mutex<Answer>>,
}

#[async_trait]
impl HttpClient for Listening {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let result = self.client.send_bytes(request).await;
        let answer = match &result {
            Ok(response) if response.status().is_success() => {
                // Something else than the protocol's own answer comes with a 200 all the same.
                let body = ExportTraceServiceResponse::decode(response.body().as_ref());
                let partial = body.ok().and_then(|body| body.partial_success);
                let receipt = partial.map_or_else(Receipt::default, |partial| Receipt {
                    refused: u64::try_from(partial.rejected_spans).unwrap_or(0),
                    message: partial.error_message,
                });
                Answer { receipt, ..Answer::default() }
            }
            Ok(response) => {
                Answer { retry_after: http::retry_after(response.headers()), ..Answer::default() }
            }
            Err(error) => {
                let text = match error.downcast_ref::<reqwest::Error>() {
                    Some(error) => http::chain(error),
                    None => error.to_string(),
                };
                Answer { error: Some(text), ..Answer::default() }
            }
        };
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
        result
    }
}

/// `span` as OpenTelemetry has it. A span that is still running ends at `until`: OTLP knows no
/// open spans, its `orchestrate.outcome` says so.
fn span_data(
    span: &Span,
    until: MonoNs,
    anchor: ClockAnchor,
    scope: &InstrumentationScope,
) -> SpanData {
    let wall = |at: MonoNs| SystemTime::UNIX_EPOCH + Duration::from_nanos(anchor.unix_ns(at));
    let mut events = SpanEvents::default();
    events.events.extend(span.events.iter().map(|event| {
        let attributes = event.attributes.iter();
        let attributes = attributes.map(|(key, value)| key_value(key, value.clone())).collect();
        Event::new(event.name.to_string(), wall(event.at), attributes, 0)
    }));
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
            .map(|(key, value)| key_value(&key, value))
            .collect(),
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        status: status_description(span.outcome).map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

fn span_id(id: u64) -> OtelSpanId {
    OtelSpanId::from_bytes(id.to_be_bytes())
}

/// What the status of a span says that failed; `None` for one that did not.
pub(super) const fn status_description(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Error => Some("returned an error"),
        Outcome::Panicked => Some("panicked"),
        Outcome::Returned | Outcome::Cancelled | Outcome::Running | Outcome::Unknown => None,
    }
}

/// Sorts a transport's error by the OTLP specification's lists of what may be retried. The
/// exporter gives its status as text only; what is not recognised is retried.
fn classify(error: &OTelSdkError) -> Failure {
    let text = match error {
        OTelSdkError::AlreadyShutdown => return Failure::Rejected(error.to_string()),
        OTelSdkError::Timeout(_) => return Failure::retry(error.to_string()),
        OTelSdkError::InternalFailure(text) => text.clone(),
    };
    if let Some((_, code)) = text.split_once("status code: ") {
        let code = code.trim();
        return match code {
            "408" | "429" | "502" | "503" | "504" => Failure::retry(format!("HTTP status {code}")),
            _ => Failure::Rejected(format!("HTTP status {code}")),
        };
    }
    if let Some((_, code)) = text.split_once("gRPC code: ") {
        let name = code.split(':').next().unwrap_or(code).trim();
        let detail = code.trim().to_owned();
        // With a cause behind it, the status was made up on this side: a broken connection.
        if code.contains(':') {
            return Failure::retry(detail);
        }
        return match name {
            "InvalidArgument" | "NotFound" | "AlreadyExists" | "PermissionDenied"
            | "FailedPrecondition" | "Unimplemented" | "Internal" | "Unauthenticated" => {
                Failure::Rejected(detail)
            }
            _ => Failure::retry(detail),
        };
    }
    if text.contains("request body is") {
        return Failure::Rejected(text);
    }
    Failure::retry(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_sorted_as_the_specification_says() {
        let class = |text: &str| classify(&OTelSdkError::InternalFailure(text.to_owned()));
        let retry = |text: &str| assert!(matches!(class(text), Failure::Retry { .. }), "{text}");
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
