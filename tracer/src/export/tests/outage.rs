//! Receivers that are gone, hang, throttle, refuse or talk nonsense; with a spool and without.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;

use super::receivers::{Receiver, Reply};
use super::*;

fn ok() -> Reply {
    Reply::Status("200 OK", String::new())
}

/// Both protocols over HTTP, at this address.
fn endpoints(address: std::net::SocketAddr) -> [Endpoint; 2] {
    let thrift = Endpoint::jaeger(Some(&format!("http://{address}")), |_| None).unwrap();
    [otlp(&format!("http://{address}/v1/traces")), thrift]
}

fn with_timeout(mut endpoint: Endpoint, timeout: Duration) -> Endpoint {
    match &mut endpoint {
        Endpoint::Otlp(config) => config.timeout = timeout,
        Endpoint::Jaeger(config) => config.timeout = timeout,
    }
    endpoint
}

fn spooling(dir: &std::path::Path, max_bytes: u64) -> ExportOptions {
    let limits = Limits { batch_spans: 10, ..impatient() };
    ExportOptions { limits, spool: Some(SpoolConfig { dir: dir.join("spool"), max_bytes }) }
}

/// Ids of the spans in what arrived so far.
fn arrived(receiver: &Receiver) -> Vec<u64> {
    let mut ids = vec![];
    while let Ok(request) = receiver.requests.try_recv() {
        let body = ExportTraceServiceRequest::decode(&*request.body).unwrap();
        let scopes = body.resource_spans.iter().flat_map(|r| &r.scope_spans);
        for span in scopes.flat_map(|scope| &scope.spans) {
            ids.push(u64::from_be_bytes(span.span_id.clone().try_into().unwrap()));
        }
    }
    ids
}

#[test]
fn thrift_arrives() {
    let receiver = Receiver::start(None, ok());
    let endpoint = Endpoint::jaeger(Some(&format!("http://u:p@{}", receiver.address)), |_| None);
    let exporter = One::start(endpoint.unwrap(), one_batch());
    for id in 1..=3 {
        exporter.send(&span(id, None));
    }
    let request = receiver.requests.recv_timeout(PATIENCE).unwrap();
    let head = request.head.to_ascii_lowercase();
    assert!(head.starts_with("post /api/traces http/1.1"), "{head}");
    assert!(head.contains("content-type: application/vnd.apache.thrift.binary"), "{head}");
    assert!(head.contains("authorization: basic dtpw"), "{head}");
    let text = String::from_utf8_lossy(&request.body);
    assert_eq!(text.matches("tool_call").count(), 3);
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!((stats.accepted, stats.exported, stats.lost()), (3, 3, 0));
}

#[test]
fn a_receiver_that_is_killed_gets_everything_later() {
    for at in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Receiver::start(None, ok());
        let endpoint = endpoints(receiver.address)[at].clone();
        let exporter = One::start_with(endpoint, spooling(dir.path(), 1 << 20));
        exporter.send(&span(1, None));
        wait_until("the first span", || exporter.stats().exported == 1);
        let address = receiver.kill();
        for id in 2..=200 {
            exporter.send(&span(id, None));
        }
        wait_until("the spool", || exporter.stats().spooled == 199);
        let notices = exporter.exporter.take_notices();
        assert!(matches!(&notices[..], [Notice::Unreachable { .. }]), "{notices:?}");
        let receiver = Receiver::start(Some(address), ok());
        wait_until("the rest", || exporter.stats().exported == 200);
        let notices = exporter.exporter.take_notices();
        assert!(matches!(&notices[..], [Notice::Recovered { .. }]), "{notices:?}");
        if at == 0 {
            assert_eq!(arrived(&receiver), (2..=200).collect::<Vec<_>>());
        }
        let stats = exporter.shutdown(PATIENCE);
        assert_eq!((stats.spooled, stats.lost()), (0, 0), "{stats:?}");
    }
}

#[test]
fn what_is_in_the_spool_outlives_us() {
    let dir = tempfile::tempdir().unwrap();
    let address = receivers::unused_address();
    let endpoint = endpoints(address)[0].clone();
    let exporter = One::start_with(endpoint.clone(), spooling(dir.path(), 1 << 20));
    for id in 1..=95 {
        exporter.send(&span(id, None));
    }
    let stats = exporter.shutdown(Duration::from_millis(50));
    assert_eq!((stats.accepted, stats.spooled, stats.lost()), (95, 95, 0));

    let receiver = Receiver::start(Some(address), ok());
    let exporter = Exporter::start(endpoint, spooling(dir.path(), 1 << 20)).unwrap();
    let other = ResourceInfo { service_name: Some("other".to_owned()), ..resource() };
    let sender = exporter.sender(&other, ANCHOR);
    sender.send(&span(96, None));
    wait_until("all of it", || exporter.stats().exported == 96);
    // Each under its own resource.
    let mut services = std::collections::BTreeMap::new();
    while let Ok(request) = receiver.requests.try_recv() {
        let body = ExportTraceServiceRequest::decode(&*request.body).unwrap();
        for one in body.resource_spans {
            let name = one.resource.unwrap().attributes.into_iter();
            let name =
                name.filter(|kv| kv.key == "service.name").map(|kv| format!("{:?}", kv.value));
            let spans: usize = one.scope_spans.iter().map(|scope| scope.spans.len()).sum();
            *services.entry(name.collect::<String>().contains("other")).or_insert(0) += spans;
        }
    }
    assert_eq!(services, [(false, 95), (true, 1)].into());
    // The other process's account has its own span only.
    assert_eq!((sender.stats().accepted, sender.stats().exported), (1, 1));
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!((stats.accepted, stats.spooled, stats.lost(), stats.waiting()), (96, 0, 0, 0));
}

#[test]
fn a_full_spool_loses_the_oldest_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let address = receivers::unused_address();
    let endpoint = endpoints(address)[0].clone();
    let exporter = One::start_with(endpoint, spooling(dir.path(), 16 << 10));
    let mut sent = 0;
    wait_until("a loss", || {
        for _ in 0..10 {
            sent += 1;
            exporter.send(&span(sent, None));
        }
        exporter.stats().lost_by(DropCause::SpoolFull) > 100
    });
    let mut notices = vec![];
    wait_until("its end", || {
        notices.extend(exporter.exporter.take_notices());
        notices.iter().any(|notice| matches!(notice, Notice::LossEnded { .. }))
    });
    let began = Notice::LossBegan {
        endpoint: format!("http://{address}/v1/traces"),
        cause: "export_spool_full",
    };
    assert!(notices.contains(&began), "{notices:?}");
    let receiver = Receiver::start(Some(address), ok());
    wait_until("the rest", || exporter.stats().spooled == 0 && exporter.stats().waiting() == 0);
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!(stats.accepted, sent);
    assert_eq!(stats.exported + stats.lost(), sent);
    let ids = arrived(&receiver);
    assert_eq!(ids.len() as u64, stats.exported);
    assert!(ids.contains(&sent), "the newest is there");
}

#[test]
fn a_receiver_that_hangs_is_left_alone() {
    for at in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Receiver::start(None, Reply::Hang);
        let endpoint = endpoints(receiver.address)[at].clone();
        let endpoint = with_timeout(endpoint, Duration::from_millis(200));
        let exporter = One::start_with(endpoint, spooling(dir.path(), 1 << 20));
        for id in 1..=30 {
            exporter.send(&span(id, None));
        }
        wait_until("the spool", || exporter.stats().spooled == 30);
        wait_until("a second try", || exporter.stats().retries > 1);
        assert_eq!(exporter.stats().last_error.as_deref(), Some("no answer in time"));
        receiver.reply(ok());
        wait_until("the rest", || exporter.stats().exported == 30);
        assert_eq!(exporter.shutdown(PATIENCE).lost(), 0);
    }
}

#[test]
fn a_slow_receiver_fills_the_disk_not_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(None, Reply::Hang);
    let endpoint = endpoints(receiver.address)[0].clone();
    let options = spooling(dir.path(), 1 << 20);
    let limits = Limits { queue_spans: 40, ..options.limits };
    let exporter = One::start_with(endpoint, ExportOptions { limits, ..options });
    exporter.send(&span(1, None));
    receiver.requests.recv_timeout(PATIENCE).unwrap();
    // The first request is under way and will be for ten seconds: more than the queue holds.
    let mut sent = 1;
    wait_until("room in the queue", || {
        if exporter.stats().waiting() < 20 && sent < 400 {
            sent += 1;
            exporter.send(&span(sent, None));
        }
        sent == 400 || exporter.stats().spooled > 100
    });
    let stats = exporter.shutdown(Duration::ZERO);
    assert_eq!((stats.spooled, stats.lost()), (sent, 0), "{stats:?}");
}

#[test]
fn the_receiver_says_when_to_come_back() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        for at in 0..2 {
            let receiver =
                Receiver::start(None, Reply::Status(status, "retry-after: 1\r\n".into()));
            let endpoint = endpoints(receiver.address)[at].clone();
            let exporter = One::start(endpoint, one_batch());
            for id in 1..=3 {
                exporter.send(&span(id, None));
            }
            receiver.requests.recv_timeout(PATIENCE).unwrap();
            let first = Instant::now();
            receiver.reply(ok());
            receiver.requests.recv_timeout(PATIENCE).unwrap();
            // Its own pause would have been 20 ms.
            let waited = first.elapsed();
            assert!(waited > Duration::from_millis(900), "{status}: {waited:?}");
            let stats = exporter.shutdown(PATIENCE);
            assert_eq!((stats.exported, stats.retries, stats.lost()), (3, 1, 0));
        }
    }
}

#[test]
fn a_wait_that_was_asked_for_is_not_cut_short_at_the_end() {
    let reply = Reply::Status("429 Too Many Requests", "retry-after: 100\r\n".into());
    let receiver = Receiver::start(None, reply);
    let exporter = One::start(endpoints(receiver.address)[0].clone(), one_batch());
    for id in 1..=3 {
        exporter.send(&span(id, None));
    }
    receiver.requests.recv_timeout(PATIENCE).unwrap();
    wait_until("the answer", || exporter.stats().retries == 1);
    let stats = exporter.shutdown(Duration::from_millis(200));
    assert_eq!(stats.lost_by(DropCause::NotFlushed), 3);
    assert!(receiver.requests.try_recv().is_err(), "it was asked again");
}

#[test]
fn refusals_are_final() {
    for (status, at) in [
        ("400 Bad Request", 0),
        ("400 Bad Request", 1),
        ("404 Not Found", 1),
        ("302 Found", 0),
        ("302 Found", 1),
        ("500 Internal Server Error", 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let more = "location: http://127.0.0.1:1/\r\n".to_owned();
        let receiver = Receiver::start(None, Reply::Status(status, more));
        let endpoint = endpoints(receiver.address)[at].clone();
        let exporter = One::start_with(endpoint, spooling(dir.path(), 1 << 20));
        exporter.send(&span(1, None));
        wait_until("the refusal", || exporter.stats().lost() > 0);
        let stats = exporter.stats();
        assert_eq!((stats.lost_by(DropCause::Rejected), stats.retries), (1, 0), "{status} {at}");
        let code = format!("HTTP status {}", &status[..3]);
        assert_eq!(stats.last_error, Some(code));
        // What comes after it gets through.
        receiver.reply(ok());
        exporter.send(&span(2, None));
        wait_until("the second", || exporter.stats().exported == 1);
        let stats = exporter.shutdown(PATIENCE);
        assert_eq!((stats.exported, stats.spooled, stats.lost()), (1, 0, 1));
    }
}

#[test]
fn jaeger_is_asked_again_after_a_500() {
    let receiver = Receiver::start(None, Reply::Status("500 Internal Server Error", String::new()));
    let exporter = One::start(endpoints(receiver.address)[1].clone(), impatient());
    exporter.send(&span(1, None));
    receiver.requests.recv_timeout(PATIENCE).unwrap();
    receiver.reply(ok());
    wait_until("the second try", || exporter.stats().exported == 1);
    assert_eq!(exporter.shutdown(PATIENCE).lost(), 0);
}

#[test]
fn nonsense_is_no_answer() {
    for at in 0..2 {
        for garbage in [&b"SSH-2.0-OpenSSH_9.9\r\n\r\n"[..], b"\0\0\0\0\xff\xff\r\n\r\n"] {
            let receiver = Receiver::start(None, Reply::Garbage(garbage));
            let exporter = One::start(endpoints(receiver.address)[at].clone(), impatient());
            exporter.send(&span(1, None));
            wait_until("a second try", || exporter.stats().retries > 1);
            assert!(exporter.stats().last_error.is_some());
            receiver.reply(ok());
            wait_until("the end of it", || exporter.stats().exported == 1);
            assert_eq!(exporter.shutdown(PATIENCE).lost(), 0);
        }
    }
    // Something else with a 200 is taken for the 200 that it is.
    let receiver = Receiver::start(None, Reply::Body(b"\xff\xff<html>".to_vec()));
    let exporter = One::start(endpoints(receiver.address)[0].clone(), impatient());
    exporter.send(&span(1, None));
    wait_until("the answer", || exporter.stats().exported == 1);
    // And gRPC meets something that is none.
    let address = receiver.address;
    let exporter = One::start(otlp(&format!("http://{address}")), impatient());
    exporter.send(&span(1, None));
    wait_until("a second try", || exporter.stats().retries > 1);
    assert_eq!(exporter.shutdown(Duration::ZERO).lost_by(DropCause::NotFlushed), 1);
}

#[test]
fn spans_that_are_refused_one_by_one_are_counted() {
    let partial = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 2,
            error_message: "too old".to_owned(),
        }),
    };
    let receiver = Receiver::start(None, Reply::Body(partial.encode_to_vec()));
    let exporter = One::start(endpoints(receiver.address)[0].clone(), one_batch());
    for id in 1..=3 {
        exporter.send(&span(id, None));
    }
    wait_until("the answer", || exporter.stats().exported == 1);
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!(stats.lost_by(DropCause::Rejected), 2);
    assert_eq!(stats.last_error.as_deref(), Some("too old"));
}

#[test]
fn damage_in_the_spool_is_counted_and_the_rest_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let address = receivers::unused_address();
    let endpoint = endpoints(address)[0].clone();
    let exporter = One::start_with(endpoint.clone(), spooling(dir.path(), 1 << 20));
    for id in 1..=30 {
        exporter.send(&span(id, None));
    }
    let stats = exporter.shutdown(Duration::from_millis(50));
    assert_eq!(stats.spooled, 30);
    let files = std::fs::read_dir(dir.path().join("spool")).unwrap().map(|entry| entry.unwrap());
    let file = files.map(|entry| entry.path()).find(|p| p.extension().is_some_and(|e| e == "seg"));
    let file = file.unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    // In the first batch.
    bytes[60] ^= 0xff;
    std::fs::write(&file, bytes).unwrap();
    let _receiver = Receiver::start(Some(address), ok());
    let exporter = Exporter::start(endpoint, spooling(dir.path(), 1 << 20)).unwrap();
    wait_until("the rest", || exporter.stats().exported == 20);
    let stats = exporter.shutdown(PATIENCE);
    assert_eq!((stats.accepted, stats.lost_by(DropCause::SpoolCorrupt)), (30, 10), "{stats:?}");
}

#[test]
fn two_cannot_share_a_spool() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = endpoints(receivers::unused_address())[0].clone();
    let first = One::start_with(endpoint.clone(), spooling(dir.path(), 1 << 20));
    let second = Exporter::start(endpoint, spooling(dir.path(), 1 << 20));
    let error = second.err().map(|error| error.to_string()).unwrap();
    assert!(error.contains("spool") && error.contains("another process"), "{error}");
    first.shutdown(Duration::ZERO);
}
