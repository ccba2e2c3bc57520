//! Against real receivers: gRPC by tonic, HTTP/protobuf by a few lines of our own.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span as WireSpan;
use prost::Message;
use tonic::{Request, Response, Status};

use super::*;
use crate::plan::TargetMeta;
use crate::span::{
    ClockAnchor, MonoNs, OrphanReason, Outcome, Span, SpanId, SpanKind, TraceId, Value,
};

const ANCHOR: ClockAnchor = ClockAnchor { offset_ns: 1_700_000_000_000_000_000 };
const PATIENCE: Duration = Duration::from_secs(10);

fn span(id: u64, parent: Option<u64>) -> Span {
    Span {
        trace_id: TraceId(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
        span_id: SpanId(id),
        parent_id: parent.map(SpanId),
        name: "tool_call".into(),
        function: "a::ToolExecutor::execute".into(),
        kind: SpanKind::Internal,
        start: MonoNs(1_000 + id),
        end: Some(MonoNs(5_000 + id)),
        start_is_late: false,
        outcome: Outcome::Returned,
        orphan: None,
        thread_id: 42,
        address: 0x1000,
        polls: Some(3),
        busy_ns: Some(1_000),
        attributes: vec![("tool_name".to_owned(), Value::from("Bash"))],
        events: Vec::new(),
    }
}

fn resource() -> ResourceInfo {
    ResourceInfo {
        service_name: Some("svc".to_owned()),
        target: TargetMeta {
            pid: 4242,
            executable: "/usr/bin/orchestrate".into(),
            build_id: Some("abc123".to_owned()),
        },
        host_name: Some("host-1".to_owned()),
    }
}

fn config(endpoint: &str) -> OtlpConfig {
    OtlpConfig::resolve(Some(endpoint), None, |_| None).unwrap()
}

fn impatient() -> Limits {
    Limits {
        batch_delay: Duration::from_millis(20),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(50),
        ..Limits::default()
    }
}

/// Three spans fill a batch, however slow the machine is.
fn one_batch() -> Limits {
    Limits { batch_spans: 3, batch_delay: PATIENCE, ..impatient() }
}

fn start(config: OtlpConfig, limits: Limits) -> Exporter {
    Exporter::start_with(config, resource(), ANCHOR, limits).unwrap()
}

#[derive(Clone)]
struct Grpc(mpsc::Sender<ExportTraceServiceRequest>, Option<tonic::Code>);

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if let Some(code) = self.1 {
            return Err(Status::new(code, "not today"));
        }
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Serves until the end of the test process.
fn serve_grpc(
    address: SocketAddr,
    refuse_with: Option<tonic::Code>,
) -> mpsc::Receiver<ExportTraceServiceRequest> {
    let (send, received) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let service = TraceServiceServer::new(Grpc(send, refuse_with));
        let server = tonic::transport::Server::builder().add_service(service).serve(address);
        runtime.block_on(server).unwrap();
    });
    received
}

struct HttpRequest {
    head: String,
    body: ExportTraceServiceRequest,
}

/// Answers every request with `status`, one connection at a time.
fn serve_http(status: &'static str) -> (SocketAddr, mpsc::Receiver<HttpRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (send, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let send = send.clone();
            thread::spawn(move || {
                let mut data = Vec::new();
                let mut chunk = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut chunk) {
                    data.extend_from_slice(&chunk[..n]);
                    let Some(end) = data.windows(4).position(|w| w == b"\r\n\r\n") else {
                        continue;
                    };
                    let head = String::from_utf8(data[..end].to_vec()).unwrap();
                    let length: usize = head
                        .lines()
                        .find_map(|l| {
                            l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
                        })
                        .unwrap();
                    if data.len() < end + 4 + length {
                        continue;
                    }
                    let body: Vec<u8> = data.drain(..end + 4 + length).skip(end + 4).collect();
                    let body = ExportTraceServiceRequest::decode(&*body).unwrap();
                    let _ = send.send(HttpRequest { head, body });
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, received)
}

fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

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
    // Still running: it ends at the latest instant seen.
    assert_eq!(open.end_time_unix_nano, 1_700_000_000_000_005_002);
    assert_eq!(attributes_of(&open.attributes)["orchestrate.outcome"], "running");
}

fn send_tree(exporter: &Exporter) {
    let mut child = span(2, Some(1));
    child.kind = SpanKind::Client;
    child.outcome = Outcome::Panicked;
    child.orphan = Some(OrphanReason::Unlinked);
    let mut open = span(3, Some(1));
    open.end = None;
    open.outcome = Outcome::Running;
    exporter.send(&span(1, None));
    exporter.send(&child);
    exporter.send(&open);
}

#[test]
fn a_tree_by_grpc() {
    let address = unused_address();
    let received = serve_grpc(address, None);
    let exporter = start(config(&format!("http://{address}")), one_batch());
    assert_eq!(exporter.config().protocol, Protocol::Grpc);
    send_tree(&exporter);
    check_tree(&received.recv_timeout(PATIENCE).unwrap());
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!((stats.accepted, stats.exported, stats.lost()), (3, 3, 0));
}

#[test]
fn a_tree_by_http() {
    let (address, received) = serve_http("200 OK");
    let exporter = start(config(&format!("http://{address}/v1/traces")), one_batch());
    assert_eq!(exporter.config().protocol, Protocol::HttpProtobuf);
    send_tree(&exporter);
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
    let address = unused_address();
    let exporter = start(config(&format!("http://{address}")), impatient());
    exporter.send(&span(1, None));
    let mut notices = vec![];
    wait_until("a notice", || {
        notices.extend(exporter.take_notices());
        !notices.is_empty()
    });
    assert!(matches!(&notices[..], [Notice::Unreachable { .. }]), "{notices:?}");
    wait_until("a retry", || exporter.stats().retries > 1);
    let received = serve_grpc(address, None);
    assert_eq!(spans(&received.recv_timeout(PATIENCE).unwrap()).len(), 1);
    wait_until("recovery", || {
        notices.extend(exporter.take_notices());
        notices.len() == 2
    });
    assert!(matches!(notices[1], Notice::Recovered { .. }), "{notices:?}");
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!((stats.exported, stats.lost()), (1, 0));
}

#[test]
fn nobody_there() {
    let address = unused_address();
    let exporter = start(config(&format!("http://{address}")), impatient());
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
    let address = unused_address();
    let limits = Limits { retry_for: Duration::from_millis(50), ..impatient() };
    let exporter = start(config(&format!("http://{address}/v1/traces")), limits);
    exporter.send(&span(1, None));
    wait_until("giving up", || exporter.stats().lost() > 0);
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!(stats.dropped[1], ("export_unreachable", 1));
}

#[test]
fn refusals_are_not_retried() {
    let address = unused_address();
    let _received = serve_grpc(address, Some(tonic::Code::Unauthenticated));
    let (http, _requests) = serve_http("401 Unauthorized");
    for endpoint in [format!("http://{address}"), format!("http://{http}/v1/traces")] {
        wait_until("the server", || std::net::TcpStream::connect(address).is_ok());
        let exporter = start(config(&endpoint), impatient());
        exporter.send(&span(1, None));
        wait_until("the refusal", || exporter.stats().lost() > 0);
        let notices = exporter.take_notices();
        assert!(matches!(&notices[..], [Notice::Rejected { .. }]), "{endpoint}: {notices:?}");
        let stats = exporter.shutdown(PATIENCE);
        assert_eq!(stats.dropped[2], ("export_rejected", 1), "{endpoint}");
        assert_eq!(stats.retries, 0, "{endpoint}");
    }
}

#[test]
fn throttling_is_retried() {
    let address = unused_address();
    let _received = serve_grpc(address, Some(tonic::Code::Unavailable));
    let (http, _requests) = serve_http("503 Service Unavailable");
    for endpoint in [format!("http://{address}"), format!("http://{http}/v1/traces")] {
        let exporter = start(config(&endpoint), impatient());
        exporter.send(&span(1, None));
        wait_until("retries", || exporter.stats().retries > 2);
        let stats = exporter.shutdown(Duration::from_millis(100));
        assert_eq!(stats.dropped[3], ("export_not_flushed", 1), "{endpoint}");
    }
}

#[test]
fn a_full_queue_never_blocks() {
    let address = unused_address();
    let limits = Limits { queue_spans: 10, batch_spans: 5, ..impatient() };
    let exporter = start(config(&format!("http://{address}")), limits);
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
    let (address, received) = serve_http("200 OK");
    let limits = Limits { batch_bytes: 10_000, ..impatient() };
    let exporter = start(config(&format!("http://{address}/v1/traces")), limits);
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
            .args(["--exact", "export::tests::headers_and_resource_from_the_environment"])
            .env(VARIABLE, "x-token=a%20b")
            .env("OTEL_SERVICE_NAME", "from-env")
            .env("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,team=agents,host.name=h2")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let (address, received) = serve_http("200 OK");
    let config = config(&format!("http://{address}/v1/traces"));
    let info = ResourceInfo { service_name: None, ..resource() };
    assert_eq!(info.effective_service_name(), "from-env");
    let exporter = Exporter::start_with(config, info, ANCHOR, impatient()).unwrap();
    exporter.send(&span(1, None));
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

#[test]
fn encrypted_endpoints_can_be_set_up() {
    for endpoint in ["https://localhost:1", "https://localhost:1/v1/traces"] {
        let exporter = start(config(endpoint), impatient());
        exporter.send(&span(1, None));
        wait_until("a notice", || !exporter.take_notices().is_empty());
        assert_eq!(exporter.shutdown(Duration::ZERO).lost(), 1);
    }
}
