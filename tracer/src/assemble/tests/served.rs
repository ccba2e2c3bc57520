//! Requests that are served, and what is done for them.

use insta::assert_snapshot;

use super::scene::*;
use crate::events::{LeafKind, ParentSource, PayloadKind};
use crate::span::{SpanId, SpanKind, TraceId};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";

#[test]
fn what_its_task_does_meanwhile_is_done_for_it() {
    let mut scene = Scene::new();
    scene.serve(1, 7, 0x9000);
    scene.payload(1, PayloadKind::Request, GET);
    scene.start(start(2, BIG, 0x1000).spawned_by(1).in_task(0x9000));
    scene.leaf(3, LeafKind::Statement, ParentSource::Frame, 2);
    scene.leaf_end(3, 101);
    scene.returned(2);
    // By a statement without a probed future around it.
    scene.leaf(4, LeafKind::Statement, ParentSource::Unknown, 0);
    scene.leaf_end(4, 101);
    scene.link(4, 1);
    scene.payload(1, PayloadKind::Response, OK);
    scene.payload(1, PayloadKind::Response, b"ok");
    // A task that the handler spawned goes on.
    scene.start(start(5, BIG, 0x2000).spawned_by(1).in_task(0xa000));
    scene.returned(5);
    // Whatever its own task does now, is not done for it.
    scene.start(start(6, SMALL, 0x3000).spawned_by(1).in_task(0x9000));
    scene.returned(6);
    scene.leaf_end(1, -1);
    assert_eq!(scene.span(1).kind, SpanKind::Server);
    assert_snapshot!(scene.draw(), @r"
    http_request 1..11 returned
      big 3..6 returned polls=2
        database_query 4..5 returned
      database_query 7..8 returned
      big 12..13 returned polls=2
    small 14..15 returned polls=2 orphan=unlinked
    ");
}

#[test]
fn the_caller_is_the_parent_where_the_head_names_it() {
    let mut scene = Scene::new();
    scene.serve(1, 7, 0x9000);
    scene.payload(1, PayloadKind::Request, b"GET / HTTP/1.1\r\n");
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let rest = format!("traceparent: {context}\r\n\r\n");
    scene.payload(1, PayloadKind::Request, rest.as_bytes());
    scene.start(start(2, BIG, 0x1000).spawned_by(1).in_task(0x9000));
    scene.returned(2);
    scene.payload(1, PayloadKind::Response, b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n");
    let trace = TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
    let (request, child) = (scene.span(1), scene.span(2));
    assert_eq!((request.trace_id, child.trace_id), (trace, trace));
    assert_eq!(request.parent_id, Some(SpanId(0x00f0_67aa_0ba9_02b7)));
    assert_eq!(child.parent_id, Some(request.span_id));
    assert_eq!((request.outcome.as_str(), request.orphan), ("error", None));
}

#[test]
fn requests_in_a_row_are_served_one_after_the_other_or_not_told_apart() {
    let mut scene = Scene::new();
    // Two in one read: the second one is not seen to begin.
    scene.serve(1, 7, 0x9000);
    scene.payload(1, PayloadKind::Request, &[GET, GET].concat());
    scene.start(start(2, BIG, 0x1000).spawned_by(1).in_task(0x9000));
    scene.returned(2);
    scene.payload(1, PayloadKind::Response, &[OK, b"ok"].concat());
    scene.start(start(3, BIG, 0x1000).spawned_by(1).in_task(0x9000));
    scene.returned(3);
    scene.start(start(4, BIG, 0x1000).spawned_by(1).in_task(0xa000));
    scene.returned(4);
    // The next one comes while the response before is being written.
    scene.serve(5, 8, 0x9100);
    scene.payload(5, PayloadKind::Request, GET);
    scene.payload(5, PayloadKind::Response, OK);
    scene.leaf_end(5, -1);
    scene.ts -= 1_000;
    scene.serve(6, 8, 0x9100);
    scene.payload(6, PayloadKind::Request, GET);
    scene.start(start(7, BIG, 0x1000).spawned_by(6).in_task(0x9100));
    scene.returned(7);
    scene.payload(6, PayloadKind::Response, &[OK, b"ok"].concat());
    assert_snapshot!(scene.draw(), @r"
    http_request 1..5 returned
      big 3..4 returned polls=2
    big 6..7 returned polls=2 orphan=unlinked
    big 8..9 returned polls=2 orphan=parent_lost
    http_request 10..13 cancelled
    http_request 13..17 returned
    big 15..16 returned polls=2 orphan=unlinked
    ");
}

#[test]
fn a_client_that_goes_away_cancels_its_request() {
    let mut scene = Scene::new();
    scene.serve(1, 7, 0x9000);
    scene.payload(1, PayloadKind::Request, GET);
    scene.closed(1);
    scene.serve(2, 7, 0);
    scene.closed(2);
    assert_snapshot!(scene.draw(), @r"
    http_request 1..3 cancelled
    http_request 4..5 cancelled
    ");
}
