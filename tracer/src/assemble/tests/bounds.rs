//! Nothing grows without bound, nothing recurses, nothing slows down with size.

use super::scene::*;
use crate::assemble::Limits;
use crate::events::EndHow;
use crate::span::OrphanReason;

#[test]
fn deep_nesting_does_not_recurse() {
    const DEPTH: u64 = 10_000;
    for how in [EndHow::Returned, EndHow::Dropped] {
        let mut scene = Scene::new();
        scene.start(start(1, VAGUE, 0x1000).in_task(0x900));
        for id in 2..=DEPTH {
            scene.start(start(id, VAGUE, id << 12).below(id - 1).in_task(0x900));
        }
        scene.end(1, how);
        assert_eq!(scene.ended.len() as u64, DEPTH);
        assert!(scene.stats().outcomes.cancelled >= DEPTH - 1);
    }
}

#[test]
fn deep_calls_and_a_wide_task_end_at_once() {
    let mut scene = Scene::new();
    for id in 1..5_000 {
        let call = start(id, PLAIN, 0x100_0000 - id);
        scene.start(if id == 1 { call } else { call.below(id - 1) });
    }
    scene.returned(1);
    assert_eq!(scene.ended.len(), 4_999);
    scene.start(start(5_000, BIG, 0x9038).in_task(0x9000));
    for id in 5_001..9_000 {
        scene.start(start(id, SMALL, id << 12).below(5_000).in_task(0x9000));
    }
    scene.task_end(0x9000);
    assert_eq!(scene.stats().open, 0);
}

#[test]
fn one_more_than_the_limit_is_dropped_and_its_child_is_an_orphan() {
    let mut scene = Scene::with(Limits { open: 2, ..Limits::default() });
    scene.start(start(1, VAGUE, 0x1000));
    scene.start(start(2, VAGUE, 0x2000).below(1));
    scene.start(start(3, VAGUE, 0x3000).below(2));
    scene.returned(2);
    scene.start(start(4, VAGUE, 0x4000).below(3));
    scene.returned(3);
    scene.finish();
    assert_eq!(scene.span(4).orphan, Some(OrphanReason::ParentLost));
    assert_eq!(scene.stats().drops.open_spans_full, 1);
}

#[test]
fn a_parent_that_is_forgotten_is_not_guessed() {
    let mut scene = Scene::with(Limits { tombstones: 3, ..Limits::default() });
    for id in 1..=5 {
        scene.start(start(id, VAGUE, id << 12));
        scene.returned(id);
    }
    scene.start(start(6, VAGUE, 0xa038).spawned_by(3).in_task(0xa000));
    scene.start(start(7, VAGUE, 0xb038).spawned_by(2).in_task(0xb000));
    scene.start(start(8, VAGUE, 0xc038).spawned_by(99).in_task(0xc000));
    scene.returned(1);
    scene.finish();
    assert_eq!(scene.span(6).trace_id, scene.span(3).trace_id);
    assert_eq!(scene.span(7).orphan, Some(OrphanReason::ParentForgotten));
    assert_eq!(scene.span(8).orphan, Some(OrphanReason::ParentLost));
    let oddities = scene.stats().oddities;
    assert_eq!((oddities.tombstones_evicted >= 2, oddities.end_forgotten), (true, 1));
}

#[test]
fn unknown_functions_and_second_starts_are_dropped_by_name() {
    let mut scene = Scene::new();
    scene.start(start(1, 999, 0x1000));
    scene.start(start(2, VAGUE, 0x1000));
    scene.start(start(2, VAGUE, 0x1000));
    scene.returned(2);
    scene.start(start(2, VAGUE, 0x1000));
    let drops = scene.stats().drops;
    assert_eq!((drops.unknown_function, drops.duplicate_start), (1, 2));
}
