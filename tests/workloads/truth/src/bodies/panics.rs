//! Panics, and all who catch them.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::{any, bodies, calls, choice, kept::kept, leaves, tasks};
use crate::plan::{Cx, Fate, Plan, fold};
use crate::record::{Guard, Out};
use crate::run::{Busy, joined, value};

bodies! { "panic", "panics.rs",
    EXPLODE = 96 "explode" Leaf,
    DEEP = 97 "deep" Chain,
    CATCH = 98 "catch" Other,
    CATCH_JOIN = 99 "catch_join" Other,
    PANIC_IN_TASK = 100 "panic_in_task" Other,
    PANIC_IN_BLOCKING = 101 "panic_in_blocking" Other,
}

/// A body that catches panics, through `dyn Future`.
pub fn boxed(cx: Cx) -> BoxFuture<'static, Out> {
    match choice(&cx, if cx.limits.nested { 4 } else { 5 }) {
        0 => Box::pin(deep(cx)),
        1 => Box::pin(catch(cx)),
        2 => Box::pin(catch_join(cx)),
        3 => Box::pin(panic_in_task(cx)),
        _ => Box::pin(panic_in_blocking(cx)),
    }
}

/// Panics from its own lines if told to.
pub async fn explode(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, EXPLODE);
    guard.locate();
    let mut fuse: Vec<u64> = (0..8).map(|i| fold(cx.seed, i)).collect();
    for _ in 0..cx.yields() {
        fuse.rotate_right(1);
        guard.pause().await;
    }
    if guard.fate() == Fate::Panic {
        guard.will_panic();
        panic!("{}", guard.panic_message());
    }
    fuse.sort_unstable();
    let sum = fuse.iter().fold(cx.seed, |acc, &part| fold(acc, part));
    guard.finish(sum).await
}

/// Lets a panic pass that started below.
pub async fn deep(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, DEEP);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 4);
    let mut sum = cx.seed;
    for i in 0..n {
        let child = plan.step(i);
        let part = match plan.pick(4) {
            0 if child.budget > 2 => any(child).await,
            1 if child.budget > 2 => kept(calls::fetch_page(child)).await,
            2 => kept(leaves::sort_keys(child)).await,
            _ => kept(explode(child)).await,
        };
        sum = fold(sum, part.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}

/// `catch_unwind` around children that panic, alternating with some that do not.
pub async fn catch(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, CATCH);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 4);
    let mut sum = cx.seed;
    for i in 0..n {
        let panics = i % 2 == 0 && plan.may_panic();
        let child = if panics { plan.panicking() } else { plan.any_fate() }.caught();
        let caught = match plan.pick(3) {
            0 => AssertUnwindSafe(kept(explode(child))).catch_unwind().await,
            1 => AssertUnwindSafe(any(child)).catch_unwind().await,
            _ => AssertUnwindSafe(kept(calls::load_rows(child))).catch_unwind().await,
        };
        sum = fold(sum, caught.map_or(13, value));
    }
    guard.finish(sum).await
}

/// One of three joined children panics: the other two are dropped where they are.
pub async fn catch_join(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, CATCH_JOIN);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(3, 3);
    let mut sum = cx.seed;
    if n > 0 && plan.may_panic() {
        let (bad, stuck) = (plan.panicking().caught(), plan.stuck().caught());
        let harmless = plan.dropped_early().caught();
        let all = async {
            tokio::join!(
                kept(calls::merge_tables(stuck)),
                kept(deep(bad)),
                kept(leaves::render_line(harmless))
            )
        };
        sum = fold(sum, u64::from(AssertUnwindSafe(all).catch_unwind().await.is_err()));
    }
    guard.pause().await;
    guard.finish(sum).await
}

/// tokio catches what a task throws.
pub async fn panic_in_task(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, PANIC_IN_TASK);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 4);
    let mut sum = cx.seed;
    for i in 0..n {
        let panics = i % 2 == 0 && plan.may_panic();
        let child = if panics { plan.panicking() } else { plan.any_fate() }.spawned();
        let task = match plan.pick(3) {
            0 => tokio::spawn(explode(child)),
            1 => tokio::spawn(deep(child)),
            _ => tokio::spawn(any(child)),
        };
        sum = fold(sum, joined(task.await));
    }
    guard.finish(sum).await
}

/// A panic that leaves `block_on` and the blocking closure around it.
pub async fn panic_in_blocking(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, PANIC_IN_BLOCKING);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 2);
    let mut sum = cx.seed;
    for _ in 0..n {
        let child = if plan.may_panic() { plan.panicking() } else { plan.any_fate() }.blocking();
        let Ok(permit) = tasks::BLOCKED.acquire().await else { break };
        let (busy, handle) = (Busy::new(), Handle::current());
        let result = spawn_blocking(move || {
            let _held = (busy, permit);
            handle.block_on(kept(deep(child)))
        });
        sum = fold(sum, joined(result.await));
    }
    guard.finish(sum).await
}
