//! The target of `cargo xtask bench`: functions that nothing instruments.

mod sink;

use std::future::Future as _;
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use bench_target::bodies::{Yields, drive};
use bench_target::clock;
use bench_target::futures::Boxed;
use bench_target::serve::{Abilities, serve};
use tokio::runtime::{Builder, Runtime};

/// A plain function.
#[inline(never)]
fn plain(seed: u64) -> u64 {
    bench_target::dozen!(seed)
}

/// An async function that is ready after some polls.
async fn step(seed: u64, polls: u64) -> u64 {
    let before = bench_target::dozen!(seed);
    Yields(polls as u32 - 1).await;
    before
}

fn plain_calls(n: u64) -> u64 {
    (0..n).fold(0, |sum, seed| sum ^ plain(seed))
}

#[inline(always)]
fn steps(n: u64, polls: u64) -> u64 {
    (0..n).fold(0, |sum, seed| sum ^ drive(pin!(step(seed, polls))))
}

fn once(n: u64) -> u64 {
    steps(n, 1)
}

fn ten(n: u64) -> u64 {
    steps(n, 10)
}

fn hundred(n: u64) -> u64 {
    steps(n, 100)
}

/// Each operation a tokio task of its own.
fn tasks(n: u64) -> u64 {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    });
    let all = runtime.spawn(async move {
        let mut sum = 0;
        for seed in 0..n {
            sum ^= tokio::spawn(step(seed, 1)).await.unwrap_or_default();
        }
        sum
    });
    runtime.block_on(all).unwrap_or_default()
}

/// A future that will not be ready for as long as anybody measures.
fn begin(seed: u64, context: &mut Context<'_>) -> Boxed {
    let mut future = Box::pin(step(seed, u64::from(u32::MAX)));
    match future.as_mut().poll(context) {
        Poll::Pending => future,
        Poll::Ready(_) => unreachable!("it yields four thousand million times"),
    }
}

fn main() -> std::io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("sink") {
        return sink::serve();
    }
    serve(&Abilities {
        ops: &[
            ("plain", plain_calls),
            ("once", once),
            ("ten", ten),
            ("hundred", hundred),
            ("task", tasks),
        ],
        // Who drains by the clock gets two ticks for what a chunk left.
        settle: || clock::sleep(25_000_000),
        begin: Some(begin),
    })
}
