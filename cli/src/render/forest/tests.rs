//! When traces are shown, and what is forgotten.

use super::*;
use crate::render::fixture::{agent, ending, span};
use tracer::span::Outcome;

fn ms(n: u64) -> MonoNs {
    MonoNs(n * MS)
}

fn begun(span: &Span) -> Span {
    ending(span.clone(), Outcome::Running)
}

fn names(block: &Block) -> Vec<String> {
    let name = |row: &Row| {
        let mark = if row.context {
            "^"
        } else if row.open {
            "+"
        } else {
            ""
        };
        format!("{}{}{mark}", " ".repeat(row.more_follow.len()), row.span.span_id.0 & 0xff)
    };
    block.rows.iter().map(name).collect()
}

#[test]
fn a_trace_is_shown_once_its_root_has_ended() {
    let mut forest = Forest::default();
    let spans = agent(1, 0);
    for span in &spans {
        forest.started(0, begun(span));
    }
    for span in spans.iter().skip(1) {
        forest.ended(0, span.clone());
    }
    assert!(forest.ready(ms(1_239)).is_empty());
    assert_eq!(forest.current(8).0, 1);
    forest.ended(0, spans[0].clone());
    assert!(forest.ready(ms(1_240)).is_empty(), "others may still be on their way");
    let blocks = forest.ready(ms(1_240 + 150));
    assert_eq!(blocks.len(), 1);
    assert_eq!(names(&blocks[0]), ["1", " 2", "  3", " 4", "  5", " 6"]);
    assert!(!blocks[0].continued);
    assert!(forest.traces.is_empty());
    assert_eq!(forest.held, 0);
}

#[test]
fn traces_do_not_mix() {
    let mut forest = Forest::default();
    let (one, two) = (agent(1, 0), agent(2, 5));
    for (a, b) in one.iter().zip(&two) {
        forest.started(0, begun(a));
        forest.started(0, begun(b));
    }
    for (a, b) in one.into_iter().zip(two) {
        forest.ended(0, b);
        forest.ended(0, a);
    }
    let blocks = forest.ready(ms(60_000));
    assert_eq!(blocks.len(), 2);
    for block in &blocks {
        assert_eq!(block.rows.len(), 6);
        assert!(block.rows.iter().all(|row| row.span.trace_id == block.trace_id));
    }
    assert!(blocks[0].rows[0].span.start < blocks[1].rows[0].span.start);
}

#[test]
fn a_long_trace_is_shown_in_parts() {
    let mut forest = Forest::default();
    forest.started(0, begun(&span(1, 1, None, "agent_execution", 0, 0)));
    forest.ended(0, span(1, 2, Some(1), "tool_call", 10, 5));
    assert!(forest.ready(ms(29_000)).is_empty());
    let first = forest.ready(ms(30_001));
    assert_eq!(names(&first[0]), ["1+", " 2"]);
    assert!(forest.ready(ms(90_000)).is_empty(), "nothing new");
    forest.ended(0, span(1, 3, Some(1), "tool_call", 90_000, 5));
    let second = forest.ready(ms(91_000));
    assert_eq!(names(&second[0]), ["1+", " 3"]);
    assert!(second[0].continued);
    forest.ended(0, span(1, 1, None, "agent_execution", 0, 92_000));
    let last = forest.ready(ms(93_000));
    assert_eq!(names(&last[0]), ["1"]);
    assert_eq!(forest.held, 0);
}

#[test]
fn what_outlives_its_root_comes_later_under_it() {
    let mut forest = Forest::default();
    let root = span(1, 1, None, "agent_execution", 0, 100);
    let child = span(1, 2, Some(1), "tool_call", 10, 5_000);
    forest.started(0, begun(&root));
    forest.started(0, begun(&child));
    forest.ended(0, root);
    assert!(forest.ready(ms(1_000)).is_empty());
    assert_eq!(names(&forest.ready(ms(2_200))[0]), ["1", " 2+"]);
    forest.ended(0, child);
    let later = forest.ready(ms(6_000));
    assert_eq!(names(&later[0]), ["1^", " 2"]);
    assert!(later[0].continued);
}

#[test]
fn the_end_shows_everything_that_is_open() {
    let mut forest = Forest::default();
    let root = begun(&span(1, 1, None, "agent_execution", 0, 0));
    forest.started(0, root.clone());
    forest.ended(0, span(1, 2, Some(1), "tool_call", 10, 5));
    forest.ended(0, root);
    let blocks = forest.drain(ms(50));
    assert_eq!(names(&blocks[0]), ["1+", " 2"]);
    assert!(forest.drain(ms(60)).is_empty());
}

#[test]
fn memory_is_bounded_and_what_is_left_out_is_counted() {
    let bounds = Bounds { trace_spans: 3, total_spans: 5, ..Bounds::default() };
    let mut forest = Forest::new(bounds);
    forest.started(0, begun(&span(1, 1, None, "agent_execution", 0, 0)));
    for id in 2..10 {
        let child = span(1, id, Some(1), "tool_call", id, 1);
        forest.started(0, begun(&child));
        forest.ended(0, child);
    }
    for trace in 2..6 {
        forest.ended(0, span(trace, 1, None, "api_call", 20, 1));
    }
    assert_eq!(forest.held, 5);
    assert_eq!(forest.left_out(), 2);
    forest.ended(0, span(1, 1, None, "agent_execution", 0, 30));
    let blocks = forest.ready(ms(1_000));
    assert_eq!(
        blocks.iter().map(|b| (b.rows.len(), b.left_out)).collect::<Vec<_>>(),
        [(1, 0), (1, 0), (3, 6)]
    );
    assert_eq!(forest.held, 0);
}

#[test]
fn a_chain_of_any_depth() {
    let mut forest = Forest::default();
    for id in 1..5_000 {
        forest.ended(0, span(1, id, id.checked_sub(1).filter(|p| *p > 0), "f", id, 1));
    }
    let blocks = forest.drain(ms(1));
    assert_eq!(blocks[0].rows.len(), 4_999);
    assert_eq!(blocks[0].rows.last().unwrap().more_follow.len(), MAX_DEPTH);
}
