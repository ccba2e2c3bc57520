//! Children that are tasks of their own, and children on threads that block for them.

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet, block_in_place, spawn_blocking};

use super::{any, bodies, calls, choice, kept::kept, leaves};
use crate::args::config;
use crate::plan::{Cx, Fate, Plan, fold};
use crate::record::{Guard, Out, expect_park};
use crate::run::{Busy, joined};

bodies! { "tasks", "tasks.rs",
    SPAWN_AWAIT = 64 "spawn_await" Other,
    SPAWN_MANY = 65 "spawn_many" Other,
    SPAWN_DETACHED = 66 "spawn_detached" Other,
    SPAWN_ABORT = 67 "spawn_abort" Other,
    SET_ALL = 68 "set_all" Other,
    SET_DROPPED = 69 "set_dropped" Other,
    BLOCKING_CALL = 70 "blocking_call" Other,
    IN_PLACE = 71 "in_place" Other,
}

/// Threads that may be blocked at once. Far below the size of tokio's blocking pool, which also
/// takes over the workers that `block_in_place` blocks: with none left the program would hang.
pub static BLOCKED: Semaphore = Semaphore::const_new(48);

/// A body with tasks, through `dyn Future`.
pub fn boxed(cx: Cx) -> BoxFuture<'static, Out> {
    match choice(&cx, if cx.limits.nested { 6 } else { 8 }) {
        0 => Box::pin(spawn_await(cx)),
        1 => Box::pin(spawn_many(cx)),
        2 => Box::pin(spawn_detached(cx)),
        3 => Box::pin(spawn_abort(cx)),
        4 => Box::pin(set_all(cx)),
        5 => Box::pin(set_dropped(cx)),
        6 => Box::pin(blocking_call(cx)),
        _ => Box::pin(in_place(cx)),
    }
}

/// One task after the other, each awaited.
pub async fn spawn_await(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, SPAWN_AWAIT);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 3);
    let mut sum = cx.seed;
    for _ in 0..n {
        let child = plan.any_fate().spawned();
        let task = match plan.pick(3) {
            0 => tokio::spawn(any(child)),
            1 => tokio::spawn(calls::load_rows(child)),
            _ => tokio::spawn(calls::merge_tables(child)),
        };
        sum = fold(sum, joined(task.await));
    }
    guard.finish(sum).await
}

/// Tasks at work at the same time, awaited in the order of their spawning.
pub async fn spawn_many(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, SPAWN_MANY);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 4);
    let mut tasks = Vec::with_capacity(n as usize);
    for i in 0..n {
        let child = plan.any_fate().spawned();
        tasks.push(if i == 0 {
            tokio::spawn(leaves::hash_block(child))
        } else {
            tokio::spawn(spawn_or_call(child))
        });
    }
    let mut sum = cx.seed;
    for task in tasks {
        sum = fold(sum, joined(task.await));
    }
    guard.finish(sum).await
}

fn spawn_or_call(cx: Cx) -> BoxFuture<'static, Out> {
    if cx.budget > 4 { any(cx) } else { leaves::boxed(cx) }
}

/// Tasks that nobody awaits: one ends by itself, one may still be there when the program ends.
pub async fn spawn_detached(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, SPAWN_DETACHED);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 4);
    for i in 0..n {
        if i == 1 && !plan.nested() && plan.pick(3) == 0 {
            expect_park();
            drop(tokio::spawn(calls::load_rows(plan.parked().spawned())));
        } else if i == 2 {
            drop(tokio::spawn(leaves::read_page(plan.dropped_early().spawned())));
        } else {
            drop(tokio::spawn(any(plan.dropped_early().spawned())));
        }
        guard.pause().await;
    }
    guard.finish(fold(cx.seed, u64::from(n))).await
}

/// A task that never finishes must not outlive the body that is to abort it, should that body be
/// dropped itself: the program would wait for it for ever.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Aborts tasks at a random point of their lives, also before their first poll.
pub async fn spawn_abort(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, SPAWN_ABORT);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 3);
    let mut sum = cx.seed;
    for _ in 0..n {
        let child = plan.stuck().spawned();
        let task = match plan.pick(3) {
            0 => tokio::spawn(calls::merge_tables(child)),
            1 => tokio::spawn(calls::walk_tree(child)),
            _ => tokio::spawn(any(child)),
        };
        let task_dies = AbortOnDrop(task.abort_handle());
        for _ in 0..plan.pick(4) {
            guard.pause().await;
        }
        drop(task_dies);
        if plan.pick(2) == 0 {
            sum = fold(sum, joined(task.await));
        }
    }
    guard.finish(sum).await
}

/// A `JoinSet` drained to its end.
pub async fn set_all(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, SET_ALL);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 6);
    let mut set = JoinSet::new();
    for i in 0..n {
        let child = plan.any_fate().spawned();
        if i % 2 == 0 {
            set.spawn(calls::fetch_page(child));
        } else {
            set.spawn(any(child));
        }
    }
    let mut sum = 0_u64;
    while let Some(done) = set.join_next().await {
        sum = sum.wrapping_add(fold(cx.seed, joined(done)));
    }
    guard.finish(sum).await
}

/// A `JoinSet` dropped after its first result: the rest is aborted.
pub async fn set_dropped(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, SET_DROPPED);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 5);
    let mut sum = cx.seed;
    if n > 0 {
        let mut set = JoinSet::new();
        set.spawn(leaves::decode_row(plan.any_fate().spawned()));
        for i in 1..n {
            let child = plan.stuck().spawned();
            if i % 2 == 0 {
                set.spawn(any(child));
            } else {
                set.spawn(calls::fetch_page(child));
            }
        }
        if let Some(first) = set.join_next().await {
            sum = fold(sum, joined(first));
        }
        drop(set);
        guard.pause().await;
    }
    guard.finish(sum).await
}

/// A blocking closure that runs a body with `Handle::block_on`.
pub async fn blocking_call(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, BLOCKING_CALL);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 2);
    let mut sum = cx.seed;
    for i in 0..n {
        let child = plan.any_fate().blocking();
        let Ok(permit) = BLOCKED.acquire().await else { break };
        let (busy, handle) = (Busy::new(), Handle::current());
        let result = spawn_blocking(move || {
            let _held = (busy, permit);
            if i == 0 {
                handle.block_on(kept(calls::merge_tables(child)))
            } else {
                handle.block_on(any(child))
            }
        });
        sum = fold(sum, joined(result.await));
    }
    guard.finish(sum).await
}

/// `block_in_place` and `block_on` in the middle of a poll.
pub async fn in_place(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, IN_PLACE);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 2);
    let mut sum = cx.seed;
    for i in 0..n {
        let mut child = plan.step(i).in_place();
        if child.fate == Fate::Never {
            // A blocked thread cannot be cancelled; this body itself will never finish.
            child.fate = Fate::Ok;
        }
        let result = if config().multi {
            let Ok(permit) = BLOCKED.acquire().await else { break };
            block_in_place(move || {
                let _held = permit;
                let handle = Handle::current();
                if i == 0 {
                    handle.block_on(kept(calls::load_rows(child)))
                } else {
                    handle.block_on(any(child))
                }
            })
        } else if i == 0 {
            kept(calls::load_rows(child)).await
        } else {
            any(child).await
        };
        sum = fold(sum, result.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}
