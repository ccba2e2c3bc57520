//! Children polled side by side inside the poll of one parent.

use std::pin::pin;

use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::{self, FuturesUnordered};

use super::{any, bodies, calls, choice, kept::kept, leaves};
use crate::plan::{Cx, Plan, fold};
use crate::record::{Guard, Out};

bodies! { "concurrent", "concurrent.rs",
    JOIN_PAIR = 48 "join_pair" Other,
    TRY_JOIN_THREE = 49 "try_join_three" Other,
    FAN_OUT = 50 "fan_out" Other,
    GATHER = 51 "gather" Other,
    RACE = 52 "race" Other,
    SELECT_LOOP = 53 "select_loop" Other,
    BUFFERED = 54 "buffered" Other,
}

/// A body with children side by side, through `dyn Future`.
pub fn boxed(cx: Cx) -> BoxFuture<'static, Out> {
    match choice(&cx, 7) {
        0 => Box::pin(join_pair(cx)),
        1 => Box::pin(try_join_three(cx)),
        2 => Box::pin(fan_out(cx)),
        3 => Box::pin(gather(cx)),
        4 => Box::pin(race(cx)),
        5 => Box::pin(select_loop(cx)),
        _ => Box::pin(buffered(cx)),
    }
}

/// `join!` of two different children, one of them boxed.
pub async fn join_pair(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, JOIN_PAIR);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 3);
    let mut sum = cx.seed;
    if n >= 2 {
        let (first, second) = (plan.step(0), plan.step(1));
        let (left, right) = tokio::join!(kept(calls::fetch_page(first)), any(second));
        sum = fold(sum, left.map_err(|e| guard.fail(e))?);
        sum = fold(sum, right.map_err(|e| guard.fail(e))?);
    }
    if n == 3 {
        let last = kept(leaves::sort_keys(plan.step(2))).await;
        sum = fold(sum, last.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}

/// `try_join!`: the first error drops the others.
pub async fn try_join_three(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, TRY_JOIN_THREE);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    if plan.kids(3, 3) == 0 {
        return guard.finish(fold(cx.seed, 3)).await;
    }
    let (first, second, third) = (plan.step(0), plan.step(1), plan.step(2));
    let all = tokio::try_join!(
        kept(calls::load_rows(first)),
        kept(leaves::parse_header(second)),
        kept(calls::merge_tables(third))
    );
    let (rows, header, tables) = all.map_err(|e| guard.fail(e))?;
    guard.finish(fold(fold(rows, header), tables)).await
}

/// `FuturesUnordered`: whoever is woken is polled.
pub async fn fan_out(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, FAN_OUT);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 6);
    let mut running = FuturesUnordered::new();
    for i in 0..n {
        running.push(kept(calls::load_rows(plan.step(i))));
    }
    let mut sum = cx.seed;
    while let Some(done) = running.next().await {
        // They end in any order.
        sum = sum.wrapping_add(done.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}

/// `join_all` over a list, waiting for all before any error counts.
pub async fn gather(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, GATHER);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 5);
    let mut parts = Vec::with_capacity(n as usize);
    for i in 0..n {
        let child = plan.step(i);
        parts.push(if i % 2 == 0 { leaves::boxed(child) } else { any(child) });
    }
    let mut sum = cx.seed;
    for part in join_all(parts).await {
        sum = fold(sum, part.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}

/// `select!` between one who finishes and one who never does, and is dropped.
pub async fn race(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, RACE);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 4);
    let mut sum = cx.seed;
    for i in 0..n / 2 {
        let (winner, loser) = (plan.step(i), plan.stuck());
        let won = if plan.pick(2) == 0 {
            tokio::select! {
                won = kept(calls::fetch_page(winner)) => won,
                lost = kept(calls::load_rows(loser)) => lost,
            }
        } else {
            tokio::select! {
                lost = any(loser) => lost,
                won = kept(leaves::hash_block(winner)) => won,
            }
        };
        sum = fold(sum, won.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}

/// A pinned child lives on while `select!` loops over short ones beside it.
pub async fn select_loop(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, SELECT_LOOP);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 5);
    if n == 0 {
        return guard.finish(fold(cx.seed, 5)).await;
    }
    let mut main = pin!(kept(calls::merge_tables(plan.step(0))));
    let mut ticks = 1;
    let done = loop {
        let tick = plan.dropped_early();
        tokio::select! {
            done = &mut main => break done,
            _ = kept(leaves::count_words(tick)), if ticks < n => ticks += 1,
        }
    };
    // How often it ticked depends on the scheduler, and must not show.
    let sum = done.map_err(|e| guard.fail(e))?;
    guard.finish(fold(cx.seed, sum)).await
}

/// A stream that keeps up to three children going.
pub async fn buffered(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, BUFFERED);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 6);
    let children: Vec<Cx> = (0..n).map(|i| plan.step(i)).collect();
    let mut stream =
        stream::iter(children).map(|child| kept(calls::fetch_page(child))).buffer_unordered(3);
    let (mut sum, mut largest) = (0_u64, 0);
    while let Some(page) = stream.next().await {
        let page = page.map_err(|e| guard.fail(e))?;
        sum = sum.wrapping_add(page);
        largest = largest.max(page);
    }
    guard.finish(fold(sum, largest)).await
}
