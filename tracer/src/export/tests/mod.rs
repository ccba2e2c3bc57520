//! Against real receivers: gRPC by tonic, HTTP by a few lines of our own.

mod otlp;
mod outage;
mod receivers;
mod secure;

use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::plan::TargetMeta;
use crate::span::{ClockAnchor, MonoNs, Outcome, Span, SpanId, SpanKind, TraceId, Value};

const ANCHOR: ClockAnchor = ClockAnchor { offset_ns: 1_700_000_000_000_000_000 };
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn span(id: u64, parent: Option<u64>) -> Span {
    Span {
        trace_id: TraceId(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
        span_id: SpanId(id),
        parent_id: parent.map(SpanId),
        name: "tool_call".into(),
        function: "a::ToolExecutor::execute".into(),
        kind: SpanKind::Internal,
        start: MonoNs(1_000_u64.wrapping_add(id)),
        end: Some(MonoNs(5_000_u64.wrapping_add(id))),
        start_is_late: false,
        outcome: Outcome::Returned,
        orphan: None,
        thread_id: 42,
        address: 0x1000,
        polls: Some(3),
        busy_ns: Some(1_000),
        attributes: vec![("tool_name".to_owned(), Value::from("Bash"))],
        events: vec![],
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

fn otlp(endpoint: &str) -> Endpoint {
    Endpoint::otlp(Some(endpoint), None, |_| None).unwrap()
}

fn impatient() -> Limits {
    Limits {
        batch_delay: Duration::from_millis(20),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(50),
        loss_quiet: Duration::from_millis(100),
        ..Limits::default()
    }
}

/// Three spans fill a batch, however slow the machine is.
fn one_batch() -> Limits {
    Limits { batch_spans: 3, batch_delay: PATIENCE, ..impatient() }
}

/// An exporter for one process.
struct One {
    exporter: Exporter,
    sender: Sender,
}

impl One {
    fn start(endpoint: Endpoint, limits: Limits) -> Self {
        Self::start_with(endpoint, ExportOptions { limits, spool: None })
    }

    fn start_with(endpoint: Endpoint, options: ExportOptions) -> Self {
        let exporter = Exporter::start(endpoint, options).unwrap();
        let sender = exporter.sender(&resource(), ANCHOR);
        Self { exporter, sender }
    }

    fn send(&self, span: &Span) {
        self.sender.send(span);
    }

    /// The account of the process and that of the endpoint, which must agree.
    fn stats(&self) -> ExportStats {
        self.sender.stats()
    }

    fn shutdown(self, deadline: Duration) -> ExportStats {
        let Self { exporter, sender } = self;
        let all = exporter.shutdown(deadline);
        let stats = sender.stats();
        assert_eq!(stats, all);
        assert_eq!(stats.waiting(), 0, "{stats:?}");
        stats
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}
