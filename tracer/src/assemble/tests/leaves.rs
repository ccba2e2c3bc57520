//! Statements and requests.

use insta::assert_snapshot;

use super::scene::*;
use crate::assemble::Limits;
use crate::events::{LeafKind, ParentSource, PayloadKind};

use LeafKind::{Statement, TlsRequest};

#[test]
fn statements_find_their_asker_before_or_after_their_end() {
    let mut scene = Scene::new();
    scene.start(start(1, VAGUE, 0x1000));
    scene.leaf(2, Statement, ParentSource::Unknown, 0);
    scene.link(2, 1);
    scene.leaf_end(2, 101);
    scene.leaf(3, Statement, ParentSource::Unknown, 0);
    scene.leaf_end(3, 5);
    scene.returned(1);
    scene.link(3, 1);
    scene.leaf(4, Statement, ParentSource::Unknown, 0);
    scene.link(4, 0);
    scene.leaf_end(4, -1);
    scene.leaf(5, Statement, ParentSource::Unknown, 0);
    scene.link(5, 77);
    scene.leaf_end(5, 0);
    scene.start(start(6, VAGUE, 0x1000));
    scene.leaf(7, Statement, ParentSource::Frame, 6);
    scene.leaf_end(7, 100);
    assert_eq!(scene.span(7).attributes, [("db.system.name".into(), "sqlite".into())]);
    assert_snapshot!(scene.draw(), @r"
    vague 1..7 returned polls=2
      database_query 2..4 returned
      database_query 5..6 error
    database_query 9..11 returned
    database_query 12..14 returned orphan=parent_lost
    vague 15..18 running
      database_query 16..17 returned
    ");
}

#[test]
fn an_unlinked_statement_is_given_up_after_a_while() {
    let mut scene = Scene::new();
    scene.leaf(1, Statement, ParentSource::Unknown, 0);
    scene.leaf_end(1, 101);
    scene.ts += 9_000_000_000;
    scene.returned(99);
    assert!(scene.ended.is_empty());
    scene.ts += 2_000_000_000;
    scene.returned(99);
    assert_eq!(scene.ended.len(), 1);
    scene.link(1, 99);
    assert_snapshot!(scene.draw(), @r"
    database_query 1..2 returned orphan=unlinked
    end_without_start=2
    late_link=1
    ");
}

#[test]
fn only_so_many_statements_wait() {
    let mut scene = Scene::with(Limits { waiting_leaves: 2, ..Limits::default() });
    for id in 1..20 {
        scene.leaf(id, Statement, ParentSource::Unknown, 0);
        scene.leaf_end(id, 101);
        if id % 2 == 0 {
            scene.link(id, 0);
        }
    }
    let stats = scene.stats();
    assert_eq!((stats.open, stats.oddities.waiting_leaves_full), (2, 8 + 9 - 9));
    scene.finish();
    assert_eq!(scene.stats().orphans.unlinked, 10);
}

#[test]
fn a_request_ends_when_its_response_is_complete() {
    let mut scene = Scene::new();
    scene.start(start(1, VAGUE, 0x1000));
    scene.leaf(2, TlsRequest, ParentSource::Link, 1);
    scene.payload(2, PayloadKind::Request, b"POST /v1/messages HTTP/1.1\r\n\r\n");
    scene.payload(2, PayloadKind::Response, b"HTTP/1.1 429 Slow\r\nContent-Length: 3\r\n\r\n");
    scene.payload(2, PayloadKind::Response, b"abc");
    assert_eq!(scene.ended.len(), 1);
    scene.payload(2, PayloadKind::Response, b"what is this");
    scene.leaf_end(2, -1);
    scene.leaf(3, TlsRequest, ParentSource::Unknown, 0);
    scene.payload(3, PayloadKind::Request, b"PRI * HTTP/2.0\r\n");
    scene.payload(3, PayloadKind::Response, b"\0\0\0");
    scene.leaf_end(3, -1);
    scene.leaf(4, TlsRequest, ParentSource::Root, 0);
    assert_snapshot!(scene.draw(), @r"
    vague 1..13 running
      api_call 2..5 error
    http_request 12..13 running
    not_http=1
    ");
}

#[test]
fn a_handle_in_use_again_ends_the_leaf_before() {
    let mut scene = Scene::new();
    scene.leaf(1, TlsRequest, ParentSource::Root, 0);
    let mut again = crate::events::LeafStart {
        at: crate::events::Stamp { ts: crate::span::MonoNs(5_000), tid: 1 },
        id: crate::events::KernelId::new(2).unwrap(),
        parent: None,
        source: ParentSource::Root,
        key: 0x5001,
        kind: TlsRequest,
        task: None,
    };
    scene.feed(&crate::events::Event::LeafStart(again));
    again.id = crate::events::KernelId::new(1).unwrap();
    scene.feed(&crate::events::Event::LeafStart(again));
    scene.link(9, 1);
    scene.payload(9, PayloadKind::Response, b"x");
    scene.leaf_end(9, 0);
    assert_snapshot!(scene.draw(), @r"
    http_request 1..5 unknown
    http_request 5..5 running
    duplicate_start=1
    leaf_replaced=1
    leaf_without_start=3
    ");
}
