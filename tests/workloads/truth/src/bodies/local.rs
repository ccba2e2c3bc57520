//! Threads with runtimes of their own: nothing links what runs there to who started it.

use std::cell::RefCell;
use std::rc::Rc;

use futures::future::BoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

use super::{any, bodies, calls, choice, kept::kept, leaves, tasks};
use crate::plan::{Cx, Fate, Plan, fold};
use crate::record::{Guard, Out};
use crate::run::{Busy, joined, value};

bodies! { "local", "local.rs",
    HOST_LOCAL_SET = 128 "host_local_set" Other,
    HOST_THREAD = 129 "host_thread" Other,
    LOCAL_ROOT = 130 "local_root" Other,
    LOCAL_TASK = 131 "local_task" Chain,
    LOCAL_PAIR = 132 "local_pair" Other,
    THREAD_ROOT = 133 "thread_root" Other,
}

/// A body that starts a thread, or where it must not, one that calls; through `dyn Future`.
pub fn boxed(cx: Cx) -> BoxFuture<'static, Out> {
    match choice(&cx, 2) {
        _ if cx.limits.nested => calls::boxed(cx),
        0 => Box::pin(host_local_set(cx)),
        _ => Box::pin(host_thread(cx)),
    }
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a current-thread runtime")
}

/// A thread with a `LocalSet`.
pub async fn host_local_set(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, HOST_LOCAL_SET);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 3);
    let mut sum = cx.seed;
    for i in 0..n {
        if i % 2 == 1 {
            let part = kept(calls::merge_tables(plan.step(i))).await.map_err(|e| guard.fail(e))?;
            sum = fold(sum, part);
            continue;
        }
        let child = plan.any_fate().island();
        let Ok(permit) = tasks::BLOCKED.acquire().await else { break };
        let (sender, receiver) = oneshot::channel();
        let busy = Busy::new();
        let work = move || {
            let _held = (busy, permit);
            let (runtime, set) = (current_thread(), LocalSet::new());
            // The receiver is gone if the body that waits was cancelled.
            let _ = sender.send(set.block_on(&runtime, kept(local_root(child))));
        };
        let thread = std::thread::Builder::new().name("local-set".into()).spawn(work);
        sum = fold(sum, if thread.is_ok() { receiver.await.map_or(13, value) } else { 0 });
    }
    guard.finish(sum).await
}

/// A plain thread that blocks on one future.
pub async fn host_thread(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, HOST_THREAD);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 3);
    let mut sum = cx.seed;
    for i in 0..n {
        if i % 2 == 1 {
            let part = any(plan.step(i)).await.map_err(|e| guard.fail(e))?;
            sum = fold(sum, part);
            continue;
        }
        let child = plan.any_fate().island();
        let Ok(permit) = tasks::BLOCKED.acquire().await else { break };
        let (sender, receiver) = oneshot::channel();
        let busy = Busy::new();
        let work = move || {
            let _held = (busy, permit);
            let _ = sender.send(current_thread().block_on(kept(thread_root(child))));
        };
        let thread = std::thread::Builder::new().name("own-thread".into()).spawn(work);
        sum = fold(sum, if thread.is_ok() { receiver.await.map_or(13, value) } else { 0 });
    }
    guard.finish(sum).await
}

/// Root of a `LocalSet`: spawns tasks on it, one of which is still there when the set is dropped.
pub async fn local_root(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, LOCAL_ROOT);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 5);
    let shared = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = Vec::new();
    for i in 0..n {
        if i == 1 {
            drop(spawn_local(local_task(plan.stuck().spawned(), Rc::clone(&shared))));
        } else {
            let child = plan.any_fate().spawned();
            tasks.push(spawn_local(local_task(child, Rc::clone(&shared))));
        }
    }
    let mut sum = cx.seed;
    for task in tasks {
        sum = fold(sum, joined(task.await));
    }
    if plan.pick(2) == 0 {
        let pair = kept(local_pair(plan.dropped_early(), Rc::clone(&shared))).await;
        sum = fold(sum, value(pair));
    }
    guard.finish(sum).await
}

/// A task that is not `Send`.
pub async fn local_task(cx: Cx, shared: Rc<RefCell<Vec<u64>>>) -> Out {
    let guard = Guard::begin(&cx, LOCAL_TASK);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 4);
    let mut sum = cx.seed;
    for i in 0..n {
        let part = match plan.pick(3) {
            0 => kept(leaves::encode_row(plan.step(i))).await,
            1 => kept(calls::load_rows(plan.step(i))).await,
            _ => calls::boxed(plan.step(i)).await,
        };
        sum = fold(sum, part.map_err(|e| guard.fail(e))?);
        shared.borrow_mut().push(sum);
    }
    guard.finish(sum).await
}

/// Two children that are not `Send`, side by side.
pub async fn local_pair(cx: Cx, shared: Rc<RefCell<Vec<u64>>>) -> Out {
    let guard = Guard::begin(&cx, LOCAL_PAIR);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 2);
    let mut sum = cx.seed;
    if n > 0 {
        let (first, second) = (plan.step(0), plan.step(1));
        let (left, right) = tokio::join!(
            kept(local_task(first, Rc::clone(&shared))),
            kept(local_task(second, Rc::clone(&shared)))
        );
        sum = fold(sum, left.map_err(|e| guard.fail(e))?);
        sum = fold(sum, right.map_err(|e| guard.fail(e))?);
    }
    shared.borrow_mut().clear();
    guard.finish(sum).await
}

/// Root of a thread that blocks on it.
pub async fn thread_root(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, THREAD_ROOT);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 3);
    let mut parts = Vec::with_capacity(3);
    for i in 0..n {
        let child = plan.step(i);
        if i == 1 && child.fate == Fate::Ok {
            parts.push(joined(tokio::spawn(calls::walk_tree(child.spawned())).await));
        } else {
            parts.push(any(child).await.map_err(|e| guard.fail(e))?);
        }
    }
    let sum = parts.into_iter().fold(cx.seed, fold);
    guard.finish(sum).await
}
