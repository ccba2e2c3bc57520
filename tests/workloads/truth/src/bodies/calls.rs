//! Calls, loops and recursion: one child at a time.

use futures::future::BoxFuture;

use super::{any, bodies, choice, kept::kept, leaves};
use crate::plan::{Cx, Plan, fold, scramble};
use crate::record::{Guard, Out};
use crate::run::value;

bodies! { "calls", "calls.rs",
    FETCH_PAGE = 32 "fetch_page" Chain,
    LOAD_ROWS = 33 "load_rows" Chain,
    MERGE_TABLES = 34 "merge_tables" Chain,
    RETRY = 35 "retry" Chain,
    WALK_TREE = 36 "walk_tree" Chain,
    PIPELINE = 37 "pipeline" Chain,
}

/// A body that calls, through `dyn Future`.
pub fn boxed(cx: Cx) -> BoxFuture<'static, Out> {
    match choice(&cx, 6) {
        0 => Box::pin(fetch_page(cx)),
        1 => Box::pin(load_rows(cx)),
        2 => Box::pin(merge_tables(cx)),
        3 => Box::pin(retry(cx)),
        4 => Box::pin(walk_tree(cx)),
        _ => Box::pin(pipeline(cx)),
    }
}

/// Two different children in turn, and a third if the page asks for it.
pub async fn fetch_page(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, FETCH_PAGE);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 3);
    if n == 0 {
        return guard.finish(scramble(cx.seed)).await;
    }
    let page = kept(leaves::read_page(plan.step(0))).await.map_err(|e| guard.fail(e))?;
    let header = kept(leaves::parse_header(plan.step(1))).await.map_err(|e| guard.fail(e))?;
    let mut sum = fold(page, header);
    if n > 2 {
        let extra = kept(leaves::hash_block(plan.step(2))).await.map_err(|e| guard.fail(e))?;
        sum = fold(sum, extra);
    }
    guard.finish(sum).await
}

/// A loop: every child lives at the same address as the one before.
pub async fn load_rows(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, LOAD_ROWS);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let mut rows = [0_u64; 5];
    let n = plan.kids(1, 5);
    for i in 0..n {
        let row = match plan.pick(4) {
            0 => kept(leaves::decode_row(plan.step(i))).await,
            1 => kept(leaves::hash_block(plan.step(i))).await,
            2 => kept(leaves::encode_row(plan.step(i))).await,
            _ => kept(leaves::sort_keys(plan.step(i))).await,
        };
        rows[i as usize] = row.map_err(|e| guard.fail(e))?;
    }
    let sum = rows.iter().take(n as usize).fold(cx.seed, |acc, &row| fold(acc, row));
    guard.finish(sum).await
}

/// Children with children, awaited directly: the whole subtree is one coroutine.
pub async fn merge_tables(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, MERGE_TABLES);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let mut sum = cx.seed;
    let n = plan.kids(1, 4);
    for i in 0..n {
        let child = plan.step(i);
        let part = if i % 2 == 0 && child.budget > 2 {
            kept(fetch_page(child)).await
        } else if child.budget > 1 {
            kept(load_rows(child)).await
        } else {
            kept(leaves::count_words(child)).await
        };
        sum = fold(sum, part.map_err(|e| guard.fail(e))?);
        if part.is_ok_and(|part| part % 4 == 0) {
            guard.pause().await;
        }
    }
    guard.finish(sum).await
}

/// Tries again after errors, which it handles.
pub async fn retry(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, RETRY);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 4);
    let mut last = cx.seed;
    for i in 0..n.saturating_sub(1) {
        let attempt = plan.failing();
        let failed = match i % 3 {
            0 => kept(fetch_page(attempt)).await,
            1 => kept(leaves::encode_row(attempt)).await,
            _ => any(attempt).await,
        };
        last = fold(last, value(failed));
        guard.pause().await;
    }
    if n > 0 {
        let success = kept(load_rows(plan.step(n - 1))).await.map_err(|e| guard.fail(e))?;
        last = fold(last, success);
    }
    guard.finish(last).await
}

/// Recursion, boxed as the compiler demands.
pub async fn walk_tree(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, WALK_TREE);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let mut sum = scramble(cx.seed);
    let n = plan.kids(1, 3);
    for i in 0..n {
        let child = plan.step(i);
        let branch = if child.budget > 1 {
            Box::pin(kept(walk_tree(child))).await
        } else {
            kept(leaves::render_line(child)).await
        };
        sum = fold(sum, branch.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}

/// Stages of any kind, one after the other.
pub async fn pipeline(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, PIPELINE);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let mut stages = Vec::new();
    let n = plan.kids(2, 4);
    for i in 0..n {
        let stage = match i {
            0 => kept(merge_tables(plan.step(i))).await,
            1 => kept(retry(plan.step(i))).await,
            _ => any(plan.step(i)).await,
        };
        stages.push(stage.map_err(|e| guard.fail(e))?);
        stages.sort_unstable();
    }
    let sum = stages.into_iter().fold(cx.seed, fold);
    guard.finish(sum).await
}
