//! Runs the agents and waits until nothing moves any more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinError, JoinSet};

use crate::args::Args;
use crate::bodies::{Mix, agent};
use crate::plan::{Cx, fold};
use crate::record::{self, Fail, Out};

/// Blocking closures and threads that were started, and those that are over.
static STARTED: AtomicU64 = AtomicU64::new(0);
static OVER: AtomicU64 = AtomicU64::new(0);

/// Held by a blocking closure or a thread while it works.
#[derive(Debug)]
pub struct Busy(());

impl Busy {
    /// Made before the closure is handed over, so that there is no gap.
    pub fn new() -> Self {
        STARTED.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        OVER.fetch_add(1, Ordering::SeqCst);
    }
}

/// Runs all agents and returns a number that depends on what they computed, not on when.
pub fn run(args: &Args) -> u64 {
    let runtime = build(args);
    let checksum = runtime.block_on(async {
        let checksum = agents(args).await;
        quiescence().await;
        checksum
    });
    // Parked tasks are to be `running` at the end: dropping the runtime would cancel them.
    std::mem::forget(runtime);
    checksum
}

fn build(args: &Args) -> Runtime {
    let mut builder =
        if args.multi { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.worker_threads(args.workers).enable_time().build().expect("a tokio runtime")
}

async fn agents(args: &Args) -> u64 {
    let panics = cfg!(panic = "unwind") && matches!(args.mix, Mix::Panic | Mix::All);
    let mut waiting = (0..args.agents).map(|agent| Cx::agent(args.seed, agent, panics));
    let mut set = JoinSet::new();
    for cx in waiting.by_ref().take(args.concurrent as usize) {
        set.spawn(agent::run_agent(cx));
    }
    let mut checksum = 0_u64;
    while let Some(done) = set.join_next().await {
        // Agents end in any order.
        checksum = checksum.wrapping_add(fold(args.seed, joined(done)));
        if let Some(cx) = waiting.next() {
            set.spawn(agent::run_agent(cx));
        }
    }
    checksum
}

/// Waits until only parked tasks are left. New work comes from tasks and closures alone: when no
/// closure is at work, none began meanwhile, and every task is parked, nothing can begin.
async fn quiescence() {
    let metrics = Handle::current().metrics();
    loop {
        let started = STARTED.load(Ordering::SeqCst);
        let idle = OVER.load(Ordering::SeqCst) == started;
        let parked = record::all_parked().map(|n| n as usize);
        let quiet = parked == Some(metrics.num_alive_tasks());
        if idle && quiet && STARTED.load(Ordering::SeqCst) == started {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The value of a task that may have failed in any way.
pub fn joined(result: Result<Out, JoinError>) -> u64 {
    match result {
        Ok(out) => value(out),
        Err(error) if error.is_panic() => 7,
        Err(_) => 11,
    }
}

/// The value of a result whose error is handled.
pub fn value(out: Out) -> u64 {
    out.unwrap_or_else(|Fail(code)| code)
}
