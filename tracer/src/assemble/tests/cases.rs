//! One behaviour a test, as a tree to read.

use insta::assert_snapshot;

use super::scene::*;
use crate::events::{EndHow, ParentSource};

/// Where task 0x9000's future lies.
const CELL: u64 = 0x9038;
const TASK: u64 = 0x9000;

#[test]
fn a_tree_of_calls() {
    let mut scene = Scene::new();
    scene.start(start(1, BIG, CELL).in_task(TASK));
    scene.start(start(2, SMALL, CELL + 50).below(1).in_task(TASK));
    scene.start(start(3, PLAIN, 0x7000).below(2).in_task(TASK));
    scene.returned(3);
    scene.returned(2);
    scene.start(start(4, SMALL, CELL + 50).below(1).in_task(TASK));
    scene.end(4, EndHow::Panicked);
    scene.end(1, EndHow::Vanished);
    assert_snapshot!(scene.draw(), @r"
    big 1..8 unknown polls=2
      small 2..5 returned polls=2
        plain 3..4 returned polls=2
      small 6..7 panicked polls=2
    ");
}

#[test]
fn what_lies_in_a_dead_coroutine_is_cancelled_first() {
    let mut scene = Scene::new();
    scene.start(start(1, BIG, CELL).in_task(TASK));
    scene.start(start(2, SMALL, CELL + 50).below(1).in_task(TASK));
    scene.start(start(3, VAGUE, CELL + 60).below(2).in_task(TASK));
    scene.start(start(4, OTHER, CELL + 200).below(1).in_task(TASK));
    scene.returned(1);
    let order: Vec<_> = scene.ended.iter().map(|span| &*span.name).collect();
    assert_eq!(order, ["other", "vague", "small", "big"]);
    assert_snapshot!(scene.draw(), @r"
    big 1..5 returned polls=2
      small 2..5 cancelled
        vague 3..5 cancelled
      other 4..5 cancelled
    ");
}

#[test]
fn a_boxed_child_is_held_until_nothing_above_it_is_left() {
    let mut scene = Scene::new();
    scene.start(start(1, BIG, CELL).in_task(TASK));
    scene.start(start(2, SMALL, CELL + 50).below(1).in_task(TASK));
    scene.start(start(3, SMALL, 0x4000).below(2).in_task(TASK));
    scene.start(start(4, OTHER, 0x5000).below(2).in_task(TASK));
    scene.returned(2);
    assert_eq!(scene.ended.len(), 1, "3 and 4 may have been handed out");
    scene.returned(4);
    scene.returned(1);
    assert_eq!(scene.ended.len(), 4);
    scene.end(3, EndHow::Dropped);
    assert_snapshot!(scene.draw(), @r"
    big 1..7 returned polls=2
      small 2..5 returned polls=2
        small 3..5 cancelled
        other 4..6 returned polls=2
    ended_after_inferred=1
    ");
}

#[test]
fn the_end_of_a_task_cancels_what_is_left_in_it() {
    let mut scene = Scene::new();
    scene.start(start(1, VAGUE, CELL).in_task(TASK));
    scene.start(start(2, VAGUE, 0x4000).below(1).in_task(TASK));
    scene.start(start(3, VAGUE, 0x5000).below(2).in_task(TASK));
    scene.start(start(4, VAGUE, 0x6000).spawned_by(3).in_task(0xa000));
    scene.returned(2);
    scene.task_end(TASK);
    scene.returned(4);
    assert_snapshot!(scene.draw(), @r"
    vague 1..6 cancelled
      vague 2..5 returned polls=2
        vague 3..5 cancelled
          vague 4..7 returned polls=2
    ");
}

#[test]
fn a_spawned_child_outlives_its_spawner_and_finds_it_after_its_end() {
    let mut scene = Scene::new();
    scene.start(start(1, BIG, CELL).in_task(TASK));
    scene.start(start(2, SMALL, 0xa038).spawned_by(1).in_task(0xa000));
    scene.returned(1);
    scene.start(start(3, SMALL, 0xb038).spawned_by(1).in_task(0xb000));
    scene.start(start(4, OTHER, 0xa040).below(2).in_task(0xa000));
    scene.returned(4);
    scene.returned(2);
    scene.returned(3);
    assert_snapshot!(scene.draw(), @r"
    big 1..3 returned polls=2
      small 2..7 returned polls=2
        other 5..6 returned polls=2
      small 4..8 returned polls=2
    ");
}

#[test]
fn the_same_function_at_the_same_place_ends_the_one_before() {
    let mut scene = Scene::new();
    scene.start(start(1, VAGUE, CELL).in_task(TASK));
    scene.start(start(2, VAGUE, 0x4000).below(1).in_task(TASK));
    scene.start(start(3, VAGUE, 0x4000).below(1).in_task(TASK));
    scene.returned(3);
    scene.returned(1);
    assert_snapshot!(scene.draw(), @r"
    vague 1..5 returned polls=2
      vague 2..3 cancelled
      vague 3..4 returned polls=2
    replaced=1
    ");
}

#[test]
fn another_function_in_its_memory_ends_the_one_before_unless_its_own_end_follows() {
    let mut scene = Scene::new();
    scene.start(start(1, BIG, CELL).in_task(TASK));
    // Both lost a `select!`; their places are used again.
    scene.start(start(2, SMALL, 0x4000).below(1).in_task(TASK));
    scene.start(start(3, SMALL, CELL + 100).below(1).in_task(TASK));
    scene.start(start(4, OTHER, 0x4008).below(1).in_task(TASK));
    scene.start(start(5, OTHER, CELL + 90).below(1).in_task(TASK));
    scene.end(2, EndHow::Panicked);
    scene.ts += 2_000_000_000;
    scene.returned(4);
    assert_eq!(scene.ended.len(), 3, "3 is given up by now");
    scene.returned(5);
    scene.returned(1);
    assert_snapshot!(scene.draw(), @r"
    big 1..2000009 returned polls=2
      small 2..6 panicked polls=2
      small 3..5 cancelled
      other 4..2000007 returned polls=2
      other 5..2000008 returned polls=2
    displaced=1
    ");
}

#[test]
fn a_child_at_its_parents_address_is_no_contradiction() {
    let mut scene = Scene::new();
    scene.start(start(1, BIG, CELL).in_task(TASK));
    scene.start(start(2, SMALL, CELL).below(1).in_task(TASK));
    scene.start(start(3, VAGUE, CELL).below(2).in_task(TASK));
    scene.end(2, EndHow::Panicked);
    scene.start(start(4, OTHER, CELL).below(1).in_task(TASK));
    scene.returned(4);
    scene.returned(1);
    assert_snapshot!(scene.draw(), @r"
    big 1..7 returned polls=2
      small 2..4 panicked polls=2
        vague 3..4 cancelled
      other 5..6 returned polls=2
    ");
}

#[test]
fn a_child_inside_another_living_task_has_no_parent() {
    let mut scene = Scene::new();
    scene.start(start(1, BIG, CELL).in_task(TASK));
    scene.start(start(2, BIG, 0xa038).in_task(0xa000));
    scene.start(start(3, SMALL, 0xa100).in_task(0xa000).below(2));
    scene.start(start(4, SMALL, CELL + 100).in_task(0xa000).below(3));
    scene.returned(4);
    scene.returned(3);
    scene.returned(2);
    scene.returned(1);
    assert_snapshot!(scene.draw(), @r"
    big 1..8 returned polls=2
    big 2..7 returned polls=2
      small 3..6 returned polls=2
    small 4..5 returned polls=2 orphan=witnesses_disagree
    ");
}

#[test]
fn late_spans_have_a_parent_only_where_it_contains_them() {
    let mut scene = Scene::new();
    scene.start(start(1, BIG, CELL).in_task(TASK).from(ParentSource::Unknown).seen_late());
    scene.start(start(2, SMALL, CELL + 50).below(1).in_task(TASK).seen_late());
    scene.start(start(3, SMALL, 0x4000).below(2).in_task(TASK).seen_late());
    scene.start(start(4, SMALL, 0x5000).below(3).in_task(TASK));
    scene.returned(4);
    scene.returned(3);
    scene.returned(2);
    scene.returned(1);
    assert_snapshot!(scene.draw(), @r"
    big 1..8 returned polls=2 late orphan=late_attach
      small 2..7 returned polls=2 late
    small 3..6 returned polls=2 late orphan=late_attach
      small 4..5 returned polls=2
    ");
}

#[test]
fn orphans_say_why() {
    let mut scene = Scene::new();
    scene.start(start(1, VAGUE, 0x1000).below(99));
    scene.start(start(2, VAGUE, 0x2000).from(ParentSource::Lost));
    scene.start(start(3, VAGUE, 0x3000).from(ParentSource::Unknown));
    scene.start(start(4, VAGUE, 0x4000).below(4));
    assert_snapshot!(scene.draw(), @r"
    vague 1..5 running orphan=parent_lost
    vague 2..5 running orphan=parent_lost
    vague 3..5 running orphan=late_attach
    vague 4..5 running orphan=parent_lost
    ");
}

#[test]
fn calls_die_with_their_caller() {
    let mut scene = Scene::new();
    scene.start(start(1, PLAIN, 0x7000));
    scene.start(start(2, PLAIN, 0x6000).below(1));
    scene.start(start(3, VAGUE, 0x4000).below(2));
    scene.returned(1);
    assert_eq!(scene.ended.len(), 2, "the future may be polled again by somebody else");
    scene.returned(3);
    // The frame is used again, so this one has returned, unseen.
    scene.start(start(4, PLAIN, 0x7000));
    scene.start(start(5, PLAIN, 0x7000));
    scene.returned(5);
    assert_snapshot!(scene.draw(), @r"
    plain 1..4 returned polls=2
      plain 2..4 unknown
        vague 3..5 returned polls=2
    plain 6..7 unknown
    plain 7..8 returned polls=2
    replaced=1
    ");
}

#[test]
fn a_future_polled_by_calls_goes_on_after_them() {
    let mut scene = Scene::new();
    scene.start(start(1, BIG, CELL).in_task(TASK));
    scene.start(start(2, PLAIN, 0x7000).below(1).in_task(TASK));
    scene.start(start(3, VAGUE, 0x4000).below(2).in_task(TASK));
    scene.returned(2);
    scene.end(1, EndHow::Dropped);
    assert_snapshot!(scene.draw(), @r"
    big 1..5 cancelled polls=2
      plain 2..4 returned polls=2
        vague 3..5 cancelled
    ");
}

#[test]
fn outcomes_are_not_inferred_where_ends_were_lost() {
    let mut scene = Scene::new();
    scene.start(start(1, BIG, CELL).in_task(TASK));
    scene.start(start(2, SMALL, CELL + 50).below(1).in_task(TASK));
    scene.assembler.losing_ends(true);
    scene.assembler.losing_ends(false);
    scene.start(start(3, SMALL, CELL + 200).below(1).in_task(TASK));
    scene.returned(1);
    assert_snapshot!(scene.draw(), @r"
    big 1..4 returned polls=2
      small 2..4 unknown
      small 3..4 cancelled
    ");
}

#[test]
fn outcomes_are_not_inferred_while_ends_are_lost() {
    let mut scene = Scene::new();
    scene.assembler.losing_ends(true);
    scene.start(start(1, BIG, CELL).in_task(TASK));
    scene.start(start(2, SMALL, CELL + 50).below(1).in_task(TASK));
    scene.returned(1);
    assert_snapshot!(scene.draw(), @r"
    big 1..3 returned polls=2
      small 2..3 unknown
    ");
}

#[test]
fn memory_of_a_dead_task_does_not_take_its_next_owner_along() {
    let mut scene = Scene::new();
    scene.assembler.losing_ends(true);
    // Its end is lost, and its memory becomes another task's, whose first starts are lost too.
    scene.start(start(1, BIG, CELL - 16).in_task(TASK));
    scene.start(start(2, BIG, CELL).in_task(0x5000).from(ParentSource::Lost));
    scene.start(start(3, SMALL, CELL + 50).below(2).in_task(0x5000));
    // Later than anybody's patience with the first.
    scene.ts += 5_000_000_000;
    scene.start(start(4, SMALL, CELL + 300).below(2).in_task(0x5000));
    assert_snapshot!(scene.draw(), @r"
    big 1..2 unknown
    big 2..5000005 running orphan=parent_lost
      small 3..5000005 running
      small 5000004..5000005 running
    displaced=1
    ");
}

#[test]
fn a_span_found_dead_may_prove_alive() {
    let mut scene = Scene::new();
    scene.start(start(1, VAGUE, CELL).in_task(TASK));
    scene.start(start(2, VAGUE, 0x4000).below(1).in_task(TASK));
    scene.returned(1);
    scene.start(start(3, VAGUE, 0x5000).below(2).in_task(TASK));
    scene.returned(3);
    scene.returned(2);
    scene.returned(2);
    scene.returned(77);
    assert_snapshot!(scene.draw(), @r"
    vague 1..3 returned polls=2
      vague 2..3 cancelled
        vague 4..5 returned polls=2
    end_without_start=1
    ended_after_inferred=2
    begun_in_ended=1
    ");
}

#[test]
fn a_place_in_the_tasks_own_memory_may_be_used_again_by_the_task() {
    let mut scene = Scene::new();
    // Below a root that is not probed: 1 lost a `select!` unseen, then 2 took some of its place.
    scene.start(start(1, SMALL, CELL + 100).in_task(TASK));
    scene.start(start(2, VAGUE, CELL + 80).in_task(TASK));
    scene.start(start(3, OTHER, CELL + 120).below(2).in_task(TASK));
    scene.returned(3);
    scene.returned(2);
    scene.task_end(TASK);
    assert_snapshot!(
        scene.draw(),
        @r"
    small 1..3 cancelled
    vague 2..5 returned polls=2
      other 3..4 returned polls=2
    "
    );
}
