//! Random programs: the tree must be the true one; whatever is lost, never a wrong parent.

use std::sync::Arc;

use proptest::prelude::*;

use super::model::{Run, run};
use super::scene::{Scene, meta_with};
use crate::assemble::Limits;
use crate::events::{EndHow, Event, KernelId, SpanEnd, TaskAddr, TaskEnd};
use crate::span::{Outcome, Span};

const EXACT: [u32; 5] = [1000, 100, 400, 0, 100];

/// What inspection may know of the coroutines' sizes.
fn sizes() -> impl Strategy<Value = [u32; 5]> {
    prop::sample::select(vec![EXACT, [0, 0, 0, 0, 0], [500, 50, 200, 0, 50], [1000, 0, 0, 0, 100]])
}

fn dice() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..1500).prop_map(|mut dice| {
        // What is used up is 0 anyway.
        dice.truncate(dice.iter().rposition(|&thrown| thrown != 0).map_or(0, |at| at + 1));
        dice
    })
}

fn scene(sizes: [u32; 5], limits: Limits) -> Scene {
    Scene::of(Arc::new(meta_with(sizes)), limits)
}

fn id(n: u64) -> KernelId {
    KernelId::new(n).unwrap()
}

/// Every span that came out has its true parent or none, and is in its parent's trace.
fn no_wrong_parent(scene: &Scene, run: &Run) -> Result<usize, TestCaseError> {
    let ids = |n| scene.assembler.ids.span(id(n));
    let by_id: std::collections::HashMap<_, &Span> =
        scene.ended.iter().map(|span| (span.span_id, span)).collect();
    let mut orphans = 0;
    for (&n, truth) in &run.truth {
        let Some(span) = by_id.get(&ids(n)) else { continue };
        orphans += usize::from(span.orphan.is_some());
        if span.orphan.is_none() {
            prop_assert_eq!(span.parent_id, truth.parent.map(ids), "of #{}", n);
        }
        if let Some(parent) = span.parent_id {
            prop_assert_eq!(span.trace_id, by_id[&parent].trace_id);
        } else {
            prop_assert_eq!(span.trace_id, scene.assembler.ids.trace(id(n)));
        }
    }
    Ok(orphans)
}

fn all_right(scene: &Scene, run: &Run, exact: bool) -> Result<(), TestCaseError> {
    prop_assert_eq!(no_wrong_parent(scene, run)?, 0);
    prop_assert_eq!(scene.ended.len(), run.truth.len());
    let meta = meta_with([0; 5]);
    for (&n, truth) in &run.truth {
        let span = scene.span(n);
        prop_assert_eq!(span.outcome, truth.outcome, "of #{}", n);
        let name = match truth.function {
            0 => "database_query",
            function => &meta.functions[usize::from(function) - 1].span,
        };
        prop_assert_eq!(&*span.name, name);
        let end = span.end.map_or(0, |end| end.0);
        if truth.outcome != Outcome::Cancelled {
            prop_assert_eq!(end, truth.end, "end of #{}", n);
            prop_assert_eq!(span.polls, Some(truth.polls).filter(|&polls| polls != 0));
        } else {
            prop_assert!(span.polls.is_none_or(|polls| polls == truth.polls));
            prop_assert!(end <= scene.ts);
            // Whoever lies in another dies with it. (What it spawned may be in the same place later.
            // One whose drop was seen may be dropped just
            // after; and where neither end was seen, both are only upper bounds.)
            let Some(parent) = truth.parent else { continue };
            let above = scene.span(parent);
            let inside = run.truth[&parent].contains(truth.addr) && Some(span.start) < above.end;
            if exact && inside && span.polls.is_none() && above.polls.is_some() {
                prop_assert!(span.end <= above.end, "#{} outlives #{}", n, parent);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_is_the_true_one(dice in dice(), sizes in sizes(), twice in any::<u8>()) {
        let run = run(dice);
        let mut scene = scene(sizes, Limits::default());
        for (at, event) in run.events.iter().enumerate() {
            scene.ts = event.at().ts.0;
            scene.feed(event);
            if at % 7 == usize::from(twice) {
                scene.feed(event);
            }
        }
        scene.finish();
        let drops = scene.stats().drops;
        prop_assert_eq!(drops.sum(), drops.duplicate_start);
        // A second record of one start counts as begun and as dropped.
        all_right(&scene, &run, sizes == EXACT)?;
    }

    #[test]
    fn loss_and_noise_never_give_a_wrong_parent(
        dice in dice(),
        sizes in sizes(),
        limits in prop::sample::select(vec![
            Limits::default(),
            Limits { open: 12, tombstones: 5, waiting_leaves: 1 },
        ]),
        luck in prop::collection::vec(any::<u8>(), 1..300),
        harm in 1u8..120,
    ) {
        let run = run(dice);
        let mut scene = scene(sizes, limits);
        for (event, luck) in run.events.iter().zip(luck.iter().cycle()) {
            let at = event.at();
            scene.ts = at.ts.0;
            if *luck >= harm {
                scene.feed(event);
            }
            match luck {
                3 => scene.feed(event),
                7 => {
                    let garbage = id(u64::from(*luck) << 40);
                    let (how, polled) = (EndHow::Dropped, None);
                    let end = SpanEnd { at, id: garbage, how, polled, healed: true };
                    scene.feed(&Event::SpanEnd(end));
                }
                11 => {
                    let task = TaskAddr::new(0x10_1000).unwrap();
                    scene.feed(&Event::TaskEnd(TaskEnd { at, task }));
                }
                _ => {}
            }
            if let (5, Event::SpanStart(start)) = (luck, event) {
                // Somebody who never was begins in the same place.
                let parent = start.parent.map(|parent| id(parent.get() | 1 << 50));
                let noise = crate::events::SpanStart {
                    id: id(start.id.get() | 1 << 50),
                    parent,
                    ..*start
                };
                scene.feed(&Event::SpanStart(noise));
            }
            if *luck == 13 {
                scene.assembler.losing_ends(true);
                scene.assembler.losing_ends(false);
            }
        }
        scene.finish();
        no_wrong_parent(&scene, &run)?;
    }
}
