//! Futures dropped before they finish, in the ways programs do that.

use std::time::Duration;

use futures::future::{AbortHandle, BoxFuture, Either, abortable, select};
use futures::poll;
use tokio::time::timeout;

use super::{any, bodies, calls, choice, concurrent, kept::kept, leaves};
use crate::plan::{Cx, Fate, Plan, fold};
use crate::record::{Guard, Out};
use crate::run::value;

bodies! { "cancel", "cancel.rs",
    TIMED_OUT = 80 "timed_out" Other,
    IN_TIME = 81 "in_time" Other,
    POLLED_ONCE = 82 "polled_once" Other,
    SELECT_EACH = 83 "select_each" Other,
    ABORTABLE_CALL = 84 "abortable_call" Other,
    FIRST_ERROR = 85 "first_error" Other,
}

/// A body that drops futures, through `dyn Future`.
pub fn boxed(cx: Cx) -> BoxFuture<'static, Out> {
    match choice(&cx, 6) {
        0 => Box::pin(timed_out(cx)),
        1 => Box::pin(in_time(cx)),
        2 => Box::pin(polled_once(cx)),
        3 => Box::pin(select_each(cx)),
        4 => Box::pin(abortable_call(cx)),
        _ => Box::pin(first_error(cx)),
    }
}

/// `timeout` around somebody who never finishes.
pub async fn timed_out(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, TIMED_OUT);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 2);
    let mut sum = cx.seed;
    for i in 0..n {
        let limit = Duration::from_millis(1 + u64::from(plan.pick(3)));
        let elapsed = if i == 0 {
            timeout(limit, kept(calls::merge_tables(plan.stuck()))).await.is_err()
        } else {
            timeout(limit, any(plan.stuck())).await.is_err()
        };
        sum = fold(sum, u64::from(elapsed));
    }
    guard.finish(sum).await
}

/// `timeout` around somebody who finishes long before.
pub async fn in_time(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, IN_TIME);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 3);
    let mut sum = cx.seed;
    for i in 0..n {
        let limit = Duration::from_secs(3600);
        let done = match plan.pick(3) {
            0 => timeout(limit, kept(calls::fetch_page(plan.step(i)))).await,
            1 => timeout(limit, kept(leaves::render_line(plan.step(i)))).await,
            _ => timeout(limit, any(plan.step(i))).await,
        };
        if let Ok(result) = done {
            sum = fold(sum, result.map_err(|e| guard.fail(e))?);
        }
    }
    guard.finish(sum).await
}

/// Polls a future a few times by hand and drops it; makes another one and never polls it.
pub async fn polled_once(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, POLLED_ONCE);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 4);
    let mut sum = cx.seed;
    for i in 1..n {
        let mut started = Box::pin(kept(calls::load_rows(plan.stuck())));
        let mut polls = 1 + plan.pick(3);
        while polls > 0 && poll!(started.as_mut()).is_pending() {
            polls -= 1;
        }
        let never_started = kept(leaves::sort_keys(plan.stuck()));
        drop(started);
        drop(never_started);
        if i % 2 == 0 {
            guard.pause().await;
        }
    }
    if n > 0 {
        let last = kept(leaves::encode_row(plan.step(0))).await.map_err(|e| guard.fail(e))?;
        sum = fold(sum, last);
    }
    guard.finish(sum).await
}

/// `futures::select` and `tokio::select!`, with several losers whose trees are deep.
pub async fn select_each(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, SELECT_EACH);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(3, 5);
    if n == 0 {
        return guard.finish(fold(cx.seed, 9)).await;
    }
    let (winner, second, third) = (plan.step(0), plan.stuck(), plan.stuck());
    let won = tokio::select! {
        biased;
        lost = kept(concurrent::join_pair(second)) => lost,
        won = kept(calls::merge_tables(winner)) => won,
        lost = kept(calls::load_rows(third)) => lost,
    };
    let mut sum = fold(cx.seed, won.map_err(|e| guard.fail(e))?);
    for _ in 3..n {
        let (winner, loser) = (leaves::boxed(plan.dropped_early()), any(plan.stuck()));
        sum = match select(loser, winner).await {
            Either::Left((out, _)) | Either::Right((out, _)) => fold(sum, value(out)),
        };
    }
    guard.finish(sum).await
}

/// `abortable`: the future stays where it is and is dropped later, when its owner ends.
pub async fn abortable_call(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, ABORTABLE_CALL);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(2, 4);
    let mut sum = cx.seed;
    for i in 0..n / 2 {
        let (call, handle) = abortable(kept(calls::fetch_page(plan.stuck())));
        let other = plan.step(i);
        let (aborted, rest) = tokio::join!(call, then_abort(other, handle));
        sum = fold(sum, u64::from(aborted.is_err()));
        sum = fold(sum, rest.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}

/// Not a body: a plain future between two of them, as programs have many.
async fn then_abort(cx: Cx, handle: AbortHandle) -> Out {
    let never = matches!(cx.fate, Fate::Never);
    let result = if never {
        handle.abort();
        kept(calls::load_rows(cx)).await
    } else {
        kept(calls::load_rows(cx)).await
    };
    handle.abort();
    result
}

/// `try_join!` where one errs and the others would never finish.
pub async fn first_error(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, FIRST_ERROR);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(3, 4);
    let mut sum = cx.seed;
    if n > 0 {
        let all = tokio::try_join!(
            kept(calls::walk_tree(plan.stuck())),
            kept(leaves::count_words(plan.failing())),
            any(plan.stuck())
        );
        sum = fold(sum, all.map_or_else(|fail| fail.0, |_| 0));
    }
    if n == 4 {
        let last = kept(calls::load_rows(plan.step(0))).await.map_err(|e| guard.fail(e))?;
        sum = fold(sum, last);
    }
    guard.finish(sum).await
}
