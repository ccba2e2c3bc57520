//! The root of every agent.

use super::{any, bodies};
use crate::plan::{Cx, Plan, fold};
use crate::record::{Guard, Out};

bodies! { "agent", "agent.rs",
    RUN_AGENT = 0 "run_agent" Chain,
}

/// Takes a few turns, each a tree of its own.
pub async fn run_agent(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, RUN_AGENT);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let mut transcript = Vec::with_capacity(8);
    let turns = plan.kids(3, 8);
    for turn in 0..turns {
        let answer = any(plan.step(turn)).await.map_err(|e| guard.fail(e))?;
        transcript.push(answer);
        // What a real agent keeps between its turns is more than a sum.
        if transcript.len() > 4 && answer % 3 == 0 {
            let first = transcript.remove(0);
            transcript[0] = fold(first, transcript[0]);
        }
    }
    let result = transcript.iter().fold(cx.seed, |acc, &answer| fold(acc, answer));
    guard.finish(result).await
}
