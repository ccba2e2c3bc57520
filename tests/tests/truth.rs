//! The truth workload, in every mix and by both mechanisms: each traced span is held against what
//! the program itself recorded.

use anyhow::{Result, ensure};
use e2e::harness::{Scene, TruthOptions};
use e2e::truth::{Link, Verdict};

fn right(options: &TruthOptions) -> Result<Verdict> {
    let scene = Scene::new()?;
    let (verdict, ..) = options.run(&scene.programs, scene.dir())?;
    ensure!(verdict.is_right(), "{options:?}: {verdict:#?}");
    ensure!(verdict.spans > 0 && verdict.hits > 0, "{verdict:#?}");
    Ok(verdict)
}

fn mix(mix: &str) -> Result<()> {
    let verdict = right(&TruthOptions { mix: mix.into(), agents: 20, ..TruthOptions::default() })?;
    ensure!(verdict.inlined_unprobed * 20 <= verdict.spans, "more than 5% inlined: {verdict:#?}");
    Ok(())
}

macro_rules! mixes {
    ($($name:ident),*) => {
        $(
            #[test]
            #[ignore = "needs root and eBPF: cargo xtask test"]
            fn $name() -> Result<()> {
                mix(stringify!($name))
            }
        )*
    };
}

mixes!(calls, concurrent, tasks, cancel, panic, boxed, local, all);

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn bodies_of_a_few_lines() -> Result<()> {
    // Most are inlined, which is what this mix is for; what is left must be right.
    let options = TruthOptions { mix: "tiny".into(), agents: 20, ..TruthOptions::default() };
    right(&options).map(drop)
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn many_agents_at_once() -> Result<()> {
    right(&TruthOptions { seed: 2, agents: 300, ..TruthOptions::default() }).map(drop)
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn one_worker() -> Result<()> {
    right(&TruthOptions { seed: 3, agents: 20, workers: 1, ..TruthOptions::default() }).map(drop)
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn by_perf_events() -> Result<()> {
    let mut options = TruthOptions { seed: 4, agents: 20, ..TruthOptions::default() };
    options.attach = options.attach.arg("--mechanism").arg("perf-event");
    right(&options).map(drop)
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn records_do_not_grow_with_polls() -> Result<()> {
    for polls in [1, 10, 100] {
        let scene = Scene::new()?;
        let options = TruthOptions { polls: Some(polls), agents: 10, ..TruthOptions::default() };
        let (verdict, truth, _) = options.run(&scene.programs, scene.dir())?;
        ensure!(verdict.is_right(), "{polls} polls: {verdict:#?}");
        let spawned = |link| matches!(link, Link::Spawn | Link::Blocking);
        let spawns = truth.spans.iter().filter(|span| spawned(span.link)).count() as u64;
        ensure!(
            verdict.records <= 2 * verdict.spans + spawns,
            "{polls} polls: {spawns} spawns, {verdict:#?}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn what_a_small_ring_loses_is_counted() -> Result<()> {
    let scene = Scene::new()?;
    let mut options = TruthOptions { agents: 400, ..TruthOptions::default() };
    options.attach.ring_size = Some("4K".into());
    let (verdict, ..) = options.run(&scene.programs, scene.dir())?;
    ensure!(verdict.lost > 0, "nothing was lost: {verdict:#?}");
    // Under such losses the memory of a coroutine whose end was lost may take a later span of the
    // same task along: docs/benchmarks.md has how rarely. All else holds in every run.
    let rare = |n: u64| n * 10_000 <= verdict.spans;
    ensure!(
        rare(verdict.wrong_parent) && rare(verdict.missing) && rare(verdict.invented),
        "{verdict:#?}"
    );
    ensure!(verdict.outcome_wrong == 0 && verdict.polls_wrong == 0, "{verdict:#?}");
    ensure!(verdict.lost == verdict.drops_total(), "{verdict:#?}");
    Ok(())
}
