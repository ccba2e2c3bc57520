//! Bodies of a few lines: the compiler inlines nearly all of them into their callers, which is
//! what they are for.

use super::bodies;
use crate::plan::{Cx, Plan, fold};
use crate::record::{Guard, Out};
use crate::run::value;

bodies! { "tiny", "tiny.rs",
    ENTER = 144 "enter" Chain,
    LINE = 145 "line" Chain,
    PAIR = 146 "pair" Other,
    TWICE = 147 "twice" Chain,
    ONCE = 148 "once" Chain,
    WAIT = 149 "wait" Leaf,
    READY = 150 "ready" Leaf,
    LOOKUP = 151 "lookup" Leaf,
    STORE = 152 "store" Leaf,
}

/// Calls the others one after the other.
pub async fn enter(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, ENTER);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 4);
    let mut sum = cx.seed;
    for i in 0..n {
        let part = match plan.pick(3) {
            0 => line(plan.step(i)).await,
            1 => pair(plan.step(i)).await,
            _ => store(plan.step(i)).await,
        };
        sum = fold(sum, part.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}

async fn line(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, LINE);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 6);
    for i in 0..n {
        twice(plan.step(i)).await.map_err(|e| guard.fail(e))?;
    }
    guard.finish(cx.seed).await
}

async fn pair(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, PAIR);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    if plan.kids(2, 2) == 0 {
        return guard.finish(1).await;
    }
    let (left, right) = tokio::join!(once(plan.step(0)), wait(plan.step(1)));
    let sum = fold(value(left), value(right));
    left.and(right).map_err(|e| guard.fail(e))?;
    guard.finish(sum).await
}

async fn twice(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, TWICE);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    if plan.kids(2, 2) == 0 {
        return guard.finish(2).await;
    }
    let first = once(plan.step(0)).await.map_err(|e| guard.fail(e))?;
    let second = lookup(plan.step(1)).await.map_err(|e| guard.fail(e))?;
    guard.finish(fold(first, second)).await
}

async fn once(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, ONCE);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    if plan.kids(1, 1) == 0 {
        return guard.finish(3).await;
    }
    let only = ready(plan.step(0)).await.map_err(|e| guard.fail(e))?;
    guard.finish(only).await
}

async fn wait(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, WAIT);
    guard.locate();
    for _ in 0..cx.yields() {
        guard.pause().await;
    }
    guard.finish(cx.seed).await
}

async fn ready(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, READY);
    guard.locate();
    guard.finish(cx.seed ^ 1).await
}

async fn lookup(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, LOOKUP);
    guard.locate();
    if cx.yields() > 1 {
        guard.pause().await;
    }
    guard.finish(cx.seed >> 1).await
}

async fn store(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, STORE);
    guard.locate();
    if cx.seed & 1 == 0 {
        guard.pause().await;
    }
    guard.finish(!cx.seed).await
}
