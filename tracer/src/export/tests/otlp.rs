//! OTLP by gRPC and HTTP: what arrives, and what happens when nothing does.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span as WireSpan;

use super::*;
use crate::span::{OrphanReason, SpanEvent};

const OK: &str = "200 OK";

fn spans(request: &ExportTraceServiceRequest) -> Vec<&WireSpan> {
    let scopes = request.resource_spans.iter().flat_map(|r| &r.scope_spans);
    scopes.flat_map(|scope| &scope.spans).collect()
}

fn attributes_of(attributes: &[KeyValue]) -> HashMap<&str, String> {
    let text = |kv: &KeyValue| match kv.value.as_ref().and_then(|v| v.value.as_ref()) {
        Some(any_value::Value::StringValue(s)) => s.clone(),
        Some(any_value::Value::IntValue(n)) => n.to_string(),
        Some(any_value::Value::BoolValue(b)) => b.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|kv| (kv.key.as_str(), text(kv))).collect()
}

fn check_tree(request: &ExportTraceServiceRequest) {
    assert_eq!(request.resource_spans.len(), 1);
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    let resource = attributes_of(&resource.attributes);
    for (key, value) in [
        ("service.name", "svc"),
        ("process.pid", "4242"),
        ("process.executable.path", "/usr/bin/orchestrate"),
        ("process.executable.name", "orchestrate"),
        ("process.executable.build_id.gnu", "abc123"),
        ("host.name", "host-1"),
        ("telemetry.sdk.name", "opentelemetry"),
        ("telemetry.sdk.language", "rust"),
    ] {
        assert_eq!(resource.get(key).map(String::as_str), Some(value), "{key}");
    }
    let scope = request.resource_spans[0].scope_spans[0].scope.as_ref().unwrap();
    assert_eq!(scope.name, "orchestrate-trace");

    let spans = spans(request);
    let [root, child, open] = spans[..] else { panic!("{} spans", spans.len()) };
    let trace_id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    assert!(spans.iter().all(|span| span.trace_id == trace_id));
    assert_eq!(root.span_id, 1u64.to_be_bytes());
    assert!(root.parent_span_id.is_empty() || root.parent_span_id == [0; 8]);
    assert_eq!(child.span_id, 2u64.to_be_bytes());
    assert_eq!(child.parent_span_id, root.span_id);
    assert_eq!(child.name, "tool_call");
    assert_eq!(child.start_time_unix_nano, 1_700_000_000_000_001_002);
    assert_eq!(child.end_time_unix_nano, 1_700_000_000_000_005_002);
    assert_eq!(child.kind, 3, "client");
    assert_eq!(root.kind, 1, "internal");
    assert_eq!(child.status.as_ref().map(|s| (s.code, s.message.as_str())), Some((2, "panicked")));
    assert_eq!(root.status.as_ref().map_or(0, |s| s.code), 0);
    let attributes = attributes_of(&child.attributes);
    for (key, value) in [
        ("tool_name", "Bash"),
        ("thread.id", "42"),
        ("code.function.name", "a::ToolExecutor::execute"),
        ("async.polls", "3"),
        ("async.busy_ns", "1000"),
        ("async.idle_ns", "3000"),
        ("orchestrate.outcome", "panicked"),
        ("error.type", "panic"),
        ("orchestrate.orphan", "true"),
        ("orchestrate.orphan_reason", "unlinked"),
    ] {
        assert_eq!(attributes.get(key).map(String::as_str), Some(value), "{key}");
    }
    let [event] = &child.events[..] else { panic!("{:?}", child.events) };
    assert_eq!((&*event.name, event.time_unix_nano), ("agent.state", 1_700_000_000_000_001_500));
    assert_eq!(attributes_of(&event.attributes)["to"], "running");
    // Still running: it ends at the latest instant seen.
    assert_eq!(open.end_time_unix_nano, 1_700_000_000_000_005_002);
    assert_eq!(attributes_of(&open.attributes)["orchestrate.outcome"], "running");
}

fn send_tree(exporter: &Sender) {
    let mut child = span(2, Some(1));
    child.kind = SpanKind::Client;
    child.outcome = Outcome::Panicked;
    child.orphan = Some(OrphanReason::Unlinked);
    child.events = vec![SpanEvent {
        at: MonoNs(1_500),
        name: "agent.state".into(),
        attributes: vec![("to".to_owned(), Value::from("running"))],
    }];
    let mut open = span(3, Some(1));
    open.end = None;
    open.outcome = Outcome::Running;
    exporter.send(&span(1, None));
    exporter.send(&child);
    exporter.send(&open);
}

#[test]
fn a_tree_by_grpc() {
    let address = receivers::unused_address();
    let received = receivers::grpc(address, None);
    let exporter = One::start(otlp(&format!("http://{address}")), one_batch());
    assert_eq!(exporter.exporter.endpoint().protocol(), "grpc");
    send_tree(&exporter.sender);
    check_tree(&received.recv_timeout(PATIENCE).unwrap());
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!((stats.accepted, stats.exported, stats.lost()), (3, 3, 0));
}

#[test]
fn a_tree_by_http() {
    let (address, received) = receivers::http(OK);
    let exporter = One::start(otlp(&format!("http://{address}/v1/traces")), one_batch());
    assert_eq!(exporter.exporter.endpoint().protocol(), "http/protobuf");
    send_tree(&exporter.sender);
    let request = received.recv_timeout(PATIENCE).unwrap();
    assert!(request.head.starts_with("POST /v1/traces HTTP/1.1"), "{}", request.head);
    assert!(request.head.contains("application/x-protobuf"), "{}", request.head);
    check_tree(&request.body);
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!((stats.accepted, stats.exported, stats.lost()), (3, 3, 0));
    assert_eq!(stats.last_error, None);
}

#[test]
fn down_at_first_then_up() {
    let address = receivers::unused_address();
    let exporter = One::start(otlp(&format!("http://{address}")), impatient());
    exporter.send(&span(1, None));
    let mut notices = vec![];
    wait_until("a notice", || {
        notices.extend(exporter.exporter.take_notices());
        !notices.is_empty()
    });
    assert!(matches!(&notices[..], [Notice::Unreachable { .. }]), "{notices:?}");
    wait_until("a retry", || exporter.stats().retries > 1);
    let received = receivers::grpc(address, None);
    assert_eq!(spans(&received.recv_timeout(PATIENCE).unwrap()).len(), 1);
    wait_until("recovery", || {
        notices.extend(exporter.exporter.take_notices());
        notices.len() == 2
    });
    assert!(matches!(notices[1], Notice::Recovered { .. }), "{notices:?}");
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!((stats.exported, stats.lost()), (1, 0));
}

#[test]
fn nobody_there() {
    let address = receivers::unused_address();
    let exporter = One::start(otlp(&format!("http://{address}")), impatient());
    for id in 1..=1000 {
        exporter.send(&span(id, None));
    }
    let begin = Instant::now();
    let stats = exporter.shutdown(Duration::from_millis(300));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!((stats.accepted, stats.exported), (1000, 0));
    assert_eq!(stats.dropped[3], ("export_not_flushed", 1000));
    assert!(stats.last_error.is_some());
}

#[test]
fn patience_has_an_end() {
    let address = receivers::unused_address();
    let limits = Limits { retry_for: Duration::from_millis(50), ..impatient() };
    let exporter = One::start(otlp(&format!("http://{address}/v1/traces")), limits);
    exporter.send(&span(1, None));
    wait_until("giving up", || exporter.stats().lost() > 0);
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!(stats.dropped[1], ("export_unreachable", 1));
}

#[test]
fn refusals_are_not_retried() {
    let address = receivers::unused_address();
    let _received = receivers::grpc(address, Some(tonic::Code::Unauthenticated));
    let (http, _requests) = receivers::http("401 Unauthorized");
    for endpoint in [format!("http://{address}"), format!("http://{http}/v1/traces")] {
        wait_until("the server", || std::net::TcpStream::connect(address).is_ok());
        let exporter = One::start(otlp(&endpoint), impatient());
        exporter.send(&span(1, None));
        wait_until("the refusal", || exporter.stats().lost() > 0);
        let notices = exporter.exporter.take_notices();
        assert!(
            matches!(&notices[..], [Notice::Rejected { .. }, Notice::LossBegan { .. }]),
            "{endpoint}: {notices:?}"
        );
        let stats = exporter.shutdown(PATIENCE);
        assert_eq!(stats.dropped[2], ("export_rejected", 1), "{endpoint}");
        assert_eq!(stats.retries, 0, "{endpoint}");
    }
}

#[test]
fn throttling_is_retried() {
    let address = receivers::unused_address();
    let _received = receivers::grpc(address, Some(tonic::Code::Unavailable));
    let (http, _requests) = receivers::http("503 Service Unavailable");
    for endpoint in [format!("http://{address}"), format!("http://{http}/v1/traces")] {
        let exporter = One::start(otlp(&endpoint), impatient());
        exporter.send(&span(1, None));
        wait_until("retries", || exporter.stats().retries > 2);
        let stats = exporter.shutdown(Duration::from_millis(100));
        assert_eq!(stats.dropped[3], ("export_not_flushed", 1), "{endpoint}");
    }
}

#[test]
fn a_full_queue_never_blocks() {
    let address = receivers::unused_address();
    let limits = Limits { queue_spans: 10, batch_spans: 5, ..impatient() };
    let exporter = One::start(otlp(&format!("http://{address}")), limits);
    let begin = Instant::now();
    for id in 1..=1000 {
        exporter.send(&span(id, None));
    }
    assert!(begin.elapsed() < Duration::from_secs(1));
    let stats = exporter.shutdown(Duration::from_millis(100));
    assert_eq!(stats.exported, 0);
    assert_eq!(stats.lost(), 1000, "{stats:?}");
    assert!(stats.dropped[0].1 >= 980, "{stats:?}");
}

#[test]
fn large_spans_make_small_batches() {
    let (address, received) = receivers::http(OK);
    let limits = Limits { batch_bytes: 10_000, ..impatient() };
    let exporter = One::start(otlp(&format!("http://{address}/v1/traces")), limits);
    let mut sizes = vec![];
    for id in 1..=20 {
        let mut span = span(id, None);
        span.attributes.push(("text".to_owned(), Value::from("x".repeat(4_000))));
        exporter.send(&span);
    }
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!((stats.exported, stats.lost()), (20, 0));
    let mut total = 0;
    while total < 20 {
        let count = spans(&received.recv_timeout(PATIENCE).unwrap().body).len();
        sizes.push(count);
        total += count;
    }
    assert!(sizes.iter().all(|count| *count <= 3), "{sizes:?}");
}

/// The environment belongs to the whole process: this test runs itself again in one of its own.
#[test]
fn headers_and_resource_from_the_environment() {
    const VARIABLE: &str = "OTEL_EXPORTER_OTLP_HEADERS";
    if std::env::var_os(VARIABLE).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "export::tests::otlp::headers_and_resource_from_the_environment"])
            .env(VARIABLE, "x-token=a%20b")
            .env("OTEL_SERVICE_NAME", "from-env")
            .env("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,team=agents,host.name=h2")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let (address, received) = receivers::http(OK);
    let endpoint = otlp(&format!("http://{address}/v1/traces"));
    let info = ResourceInfo { service_name: None, ..resource() };
    assert_eq!(info.effective_service_name(), "from-env");
    let options = ExportOptions { limits: impatient(), spool: None };
    let exporter = Exporter::start(endpoint, options).unwrap();
    let sender = exporter.sender(&info, ANCHOR);
    sender.send(&span(1, None));
    let request = received.recv_timeout(PATIENCE).unwrap();
    assert!(request.head.contains("x-token: a b"), "{}", request.head);
    let resource = request.body.resource_spans[0].resource.as_ref().unwrap();
    let resource = attributes_of(&resource.attributes);
    assert_eq!(resource["service.name"], "from-env");
    assert_eq!(resource["team"], "agents");
    assert_eq!(resource["host.name"], "h2");
    assert_eq!(resource["process.pid"], "4242");
    assert_eq!(exporter.shutdown(PATIENCE).lost(), 0);
}

/// As above, since opentelemetry-otlp reads the variable itself.
#[test]
fn compression_from_the_environment() {
    const VARIABLE: &str = "OTEL_EXPORTER_OTLP_COMPRESSION";
    if std::env::var_os(VARIABLE).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "export::tests::otlp::compression_from_the_environment"])
            .env(VARIABLE, "gzip")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let receiver = receivers::Receiver::start(None, receivers::Reply::Status(OK, String::new()));
    let exporter = One::start(otlp(&format!("http://{}/v1/traces", receiver.address)), impatient());
    exporter.send(&span(1, None));
    let request = receiver.requests.recv_timeout(PATIENCE).unwrap();
    assert!(
        request.head.to_ascii_lowercase().contains("content-encoding: gzip"),
        "{}",
        request.head
    );
    let body = std::io::read_to_string(Latin1(flate2::read::GzDecoder::new(&*request.body)));
    assert!(body.unwrap().contains("tool_call"));
    assert_eq!(exporter.shutdown(PATIENCE).lost(), 0);

    let address = receivers::unused_address();
    let received = receivers::grpc(address, None);
    let exporter = One::start(otlp(&format!("http://{address}")), impatient());
    exporter.send(&span(1, None));
    assert_eq!(spans(&received.recv_timeout(PATIENCE).unwrap()).len(), 1);
    assert_eq!(exporter.shutdown(PATIENCE).lost(), 0);
}

/// Bytes as text, whatever they are.
struct Latin1<R>(R);

impl<R: std::io::Read> std::io::Read for Latin1<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(buf)?;
        buf[..n].iter_mut().for_each(|byte| *byte &= 0x7f);
        Ok(n)
    }
}

#[test]
fn encrypted_endpoints_can_be_set_up() {
    for endpoint in ["https://localhost:1", "https://localhost:1/v1/traces"] {
        let exporter = One::start(otlp(endpoint), impatient());
        exporter.send(&span(1, None));
        wait_until("a notice", || !exporter.exporter.take_notices().is_empty());
        assert_eq!(exporter.shutdown(Duration::ZERO).lost(), 1);
    }
}
