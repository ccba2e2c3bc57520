//! Traces that are wrong on purpose, and what the comparison makes of them.

use std::collections::BTreeMap;

use serde_json::json;

use super::file::{Header, Link, Outcome, Span};
use super::{Body, Coverage, Truth, Verdict, compare};
use crate::trace::{self, Summary, Trace};

const AGENT: u32 = 0;
const WORK: u32 = 1;
const LEAF: u32 = 2;

/// The guard's place in the coroutines of each body.
const INSIDE: [u64; 3] = [40, 8, 16];

fn body(id: u32, name: &str) -> Body {
    let function = format!("w::bodies::{name}");
    Body { id, function, file: "w/src/bodies.rs".into(), line: 10 * (id + 1), mix: "m".into() }
}

/// `agents` trees, all at once: an agent that calls work twice and spawns it once; work calls a
/// leaf. The second work is at the place of the first: it was over.
fn truth(agents: u64) -> Truth {
    let mut spans: Vec<Span> = vec![];
    for agent in 0..agents {
        let place = 0x10_0000 * (agent + 1);
        let mut push = |parent: Option<u64>, body: u32, at: u64, from: u64, to: u64, link: Link| {
            let id = spans.len() as u64 + 1;
            spans.push(Span {
                id,
                parent,
                body,
                addr: place + at + INSIDE[body as usize],
                start_ns: from + agent,
                end_ns: Some(to + agent),
                outcome: Outcome::Ok,
                polls: (body == LEAF).then_some(3),
                link,
            });
            id
        };
        let root = push(None, AGENT, 0, 1_000, 9_000, Link::Root);
        let first = push(Some(root), WORK, 0x200, 2_000, 3_000, Link::Await);
        push(Some(first), LEAF, 0x300, 2_100, 2_900, Link::Await);
        let second = push(Some(root), WORK, 0x200, 4_000, 5_000, Link::Await);
        push(Some(second), LEAF, 0x300, 4_100, 4_900, Link::Await);
        let spawned = push(Some(root), WORK, 0x8000, 6_000, 7_000, Link::Spawn);
        push(Some(spawned), LEAF, 0x8100, 6_100, 6_900, Link::Await);
    }
    let bodies = vec![body(AGENT, "agent"), body(WORK, "work"), body(LEAF, "leaf")];
    let header =
        Header { seed: 1, mix: "m".into(), agents, workers: 1, checksum: "c".into(), bodies };
    Truth { header, spans }
}

/// What a perfect tracer would have seen of it.
fn perfect(truth: &Truth) -> Trace {
    let bodies = truth.bodies();
    let span = |span: &Span| trace::Span {
        trace_id: "t".into(),
        span_id: span.id.to_string(),
        parent_id: span.parent.map(|id| id.to_string()),
        name: "x".into(),
        kind: "internal".into(),
        start_mono_ns: span.start_ns - 5,
        end_mono_ns: span.end_ns.map(|end| end + 5),
        start_unix_ns: 0,
        end_unix_ns: None,
        outcome: "returned".into(),
        address: span.addr - INSIDE[span.body as usize],
        attributes: json!({
            "code.function.name": bodies[&span.body].function,
            "async.polls": span.polls.unwrap_or(7),
        })
        .as_object()
        .unwrap()
        .clone(),
    };
    let mut spans: Vec<_> = truth.spans.iter().map(span).collect();
    // As they ended.
    spans.sort_by_key(|span| span.end_mono_ns);
    Trace { spans, events: vec![], summary: Some(Summary { records: 42, ..Summary::default() }) }
}

fn verdict(truth: &Truth, trace: &Trace) -> Verdict {
    let verdict = compare(truth, trace, &Coverage::of_all(truth)).unwrap();
    let Verdict { right, orphaned, wrong_parent, missing, lost_starts, inlined_unprobed, .. } =
        verdict;
    let all = right + orphaned + wrong_parent + missing + lost_starts + inlined_unprobed;
    assert_eq!(all, verdict.spans, "{verdict:?}");
    verdict
}

fn traced(trace: &mut Trace, id: u64) -> &mut trace::Span {
    let id = id.to_string();
    trace.spans.iter_mut().find(|span| span.span_id == id).unwrap()
}

fn remove(trace: &mut Trace, id: u64) {
    let id = id.to_string();
    trace.spans.retain(|span| span.span_id != id);
}

fn drops(trace: &mut Trace, named: &[(&str, u64)]) {
    let drops: BTreeMap<String, u64> = named.iter().map(|&(k, n)| (k.to_owned(), n)).collect();
    trace.summary.as_mut().unwrap().drops = drops;
}

#[test]
fn a_perfect_trace_is_right() {
    let truth = truth(20);
    let verdict = verdict(&truth, &perfect(&truth));
    assert!(verdict.is_right(), "{verdict:?}");
    assert_eq!((verdict.spans, verdict.right, verdict.records), (140, 140, 42));
    assert_eq!((verdict.polls_wrong, verdict.polls_unknown), (0, 0));
}

#[test]
fn one_swapped_parent_is_one_wrong_parent() {
    let truth = truth(20);
    let mut trace = perfect(&truth);
    // The first leaf goes to the second agent's first work.
    traced(&mut trace, 3).parent_id = Some("9".into());
    let verdict = verdict(&truth, &trace);
    assert_eq!((verdict.wrong_parent, verdict.right), (1, 139), "{verdict:?}");
    assert!(!verdict.is_sound());
}

#[test]
fn a_grandparent_is_a_wrong_parent() {
    let truth = truth(1);
    let mut trace = perfect(&truth);
    traced(&mut trace, 3).parent_id = Some("1".into());
    assert_eq!(verdict(&truth, &trace).wrong_parent, 1);
}

#[test]
fn a_parent_for_a_root_is_a_wrong_one() {
    let truth = truth(2);
    let mut trace = perfect(&truth);
    traced(&mut trace, 8).parent_id = Some("1".into());
    assert_eq!(verdict(&truth, &trace).wrong_parent, 1);
}

#[test]
fn a_span_that_is_not_there_is_missing() {
    let truth = truth(20);
    let mut trace = perfect(&truth);
    remove(&mut trace, 3);
    let verdict = verdict(&truth, &trace);
    assert_eq!((verdict.missing, verdict.lost, verdict.right), (1, 0, 139), "{verdict:?}");
}

#[test]
fn a_counted_loss_explains_what_is_missing_and_no_more() {
    let truth = truth(20);
    let mut trace = perfect(&truth);
    remove(&mut trace, 3);
    remove(&mut trace, 5);
    drops(&mut trace, &[("lost_span_start", 1), ("read_faults", 9)]);
    let verdict = verdict(&truth, &trace);
    assert_eq!((verdict.missing, verdict.lost_starts, verdict.lost), (1, 1, 1), "{verdict:?}");
}

#[test]
fn the_child_of_a_lost_span_has_to_be_an_orphan() {
    let truth = truth(1);
    let mut trace = perfect(&truth);
    remove(&mut trace, 2);
    drops(&mut trace, &[("lost_span_start", 1)]);
    traced(&mut trace, 3).parent_id = None;
    let orphan = verdict(&truth, &trace);
    assert_eq!((orphan.lost, orphan.orphaned, orphan.wrong_parent), (1, 1, 0), "{orphan:?}");
    assert!(orphan.is_sound());
    traced(&mut trace, 3).parent_id = Some("1".into());
    assert_eq!(verdict(&truth, &trace).wrong_parent, 1);
}

#[test]
fn an_orphan_is_not_right_and_not_wrong() {
    let truth = truth(1);
    let mut trace = perfect(&truth);
    traced(&mut trace, 2).parent_id = None;
    let verdict = verdict(&truth, &trace);
    assert_eq!((verdict.orphaned, verdict.wrong_parent, verdict.right), (1, 0, 6), "{verdict:?}");
}

#[test]
fn another_outcome_is_wrong() {
    let truth = truth(1);
    let mut trace = perfect(&truth);
    traced(&mut trace, 3).outcome = "cancelled".into();
    let wrong = verdict(&truth, &trace);
    assert_eq!((wrong.outcome_wrong, wrong.right), (1, 7), "{wrong:?}");
    // An error cannot always be told from a value; a value is never an error.
    traced(&mut trace, 3).outcome = "error".into();
    assert_eq!(verdict(&truth, &trace).outcome_wrong, 1);
}

#[test]
fn an_unknown_outcome_is_wrong_unless_an_end_was_lost() {
    let truth = truth(1);
    let mut trace = perfect(&truth);
    traced(&mut trace, 3).outcome = "unknown".into();
    traced(&mut trace, 5).outcome = "running".into();
    assert_eq!(verdict(&truth, &trace).outcome_wrong, 2);
    drops(&mut trace, &[("lost_span_end", 2)]);
    let lost = verdict(&truth, &trace);
    assert_eq!((lost.outcome_wrong, lost.outcome_unknown, lost.lost), (0, 2, 2), "{lost:?}");
    assert_eq!(lost.lost, lost.drops_total());
    // Three were lost and two are unknown: one was made up.
    drops(&mut trace, &[("lost_span_end", 3)]);
    assert_eq!(verdict(&truth, &trace).outcome_wrong, 1);
}

#[test]
fn polls_are_compared_where_both_know_them() {
    let truth = truth(1);
    let mut trace = perfect(&truth);
    traced(&mut trace, 3).attributes["async.polls"] = 4.into();
    traced(&mut trace, 5).attributes.remove("async.polls");
    let verdict = verdict(&truth, &trace);
    assert_eq!((verdict.polls_wrong, verdict.polls_unknown), (1, 1), "{verdict:?}");
}

#[test]
fn an_inlined_body_is_passed_over() {
    let truth = truth(3);
    let mut trace = perfect(&truth);
    for agent in 0..3 {
        for work in [2, 4, 6] {
            remove(&mut trace, agent * 7 + work);
            traced(&mut trace, agent * 7 + work + 1).parent_id = Some((agent * 7 + 1).to_string());
        }
    }
    let coverage = Coverage::of_all(&truth).without("w::bodies::work");
    let verdict = compare(&truth, &trace, &coverage).unwrap();
    assert_eq!((verdict.inlined_unprobed, verdict.right), (9, 12), "{verdict:?}");
    assert!(verdict.is_right());
    assert_eq!(verdict.inlined, [("w::bodies::work".to_owned(), 9)]);
}

#[test]
fn a_copy_that_was_inlined_is_no_missing_span() {
    // Work is a function of its own, and the leaf too, but in work the leaf was inlined.
    let truth = truth(1);
    let mut trace = perfect(&truth);
    remove(&mut trace, 3);
    let inspected = |inside: &str| {
        let names = ["agent", "work", "leaf"].map(|n| json!({"name": format!("w::bodies::{n}")}));
        let inlined = json!([{"file": "src/bodies.rs", "line": 31, "inside": inside}]);
        let entries = json!([{"functions": names, "inlined": inlined}]);
        Coverage::read(&json!({"v": 1, "entries": entries}).to_string()).unwrap()
    };
    let there = compare(&truth, &trace, &inspected("w::bodies::work::{{closure}}")).unwrap();
    assert_eq!((there.inlined_unprobed, there.missing), (1, 0), "{there:?}");
    let elsewhere = compare(&truth, &trace, &inspected("w::bodies::leaf::{{closure}}")).unwrap();
    assert_eq!((elsewhere.inlined_unprobed, elsewhere.missing), (0, 1), "{elsewhere:?}");
}

#[test]
fn a_plain_function_in_between_is_passed_over() {
    let truth = truth(1);
    let mut trace = perfect(&truth);
    let mut plain = trace.spans[0].clone();
    plain.span_id = "plain".into();
    plain.parent_id = Some("2".into());
    plain.attributes["code.function.name"] = "w::bodies::helper".into();
    trace.spans.push(plain);
    traced(&mut trace, 3).parent_id = Some("plain".into());
    assert!(verdict(&truth, &trace).is_right());
}

#[test]
fn a_span_that_nobody_executed_is_invented() {
    let truth = truth(1);
    let mut trace = perfect(&truth);
    let mut more = trace.spans[0].clone();
    more.span_id = "more".into();
    more.start_mono_ns += 50_000;
    more.end_mono_ns = None;
    trace.spans.push(more);
    let verdict = verdict(&truth, &trace);
    assert_eq!(verdict.invented, 1, "{verdict:?}");
    assert!(!verdict.is_sound());
}
