//! Children behind pointers: `dyn Future`, async-trait, recursion, generics, methods.

use futures::future::BoxFuture;

use super::{any, bodies, calls, choice, kept::kept, leaves};
use crate::owner;
use crate::plan::{Cx, Plan, fold, scramble};
use crate::record::{Guard, Out};

bodies! { "boxed", "boxed.rs",
    LIST_OF_DYN = 112 "list_of_dyn" Chain,
    CALL_SERVICE = 113 "call_service" Chain,
    CACHE_HANDLE = 114 "<self::Cache as self::Service>::handle" Chain,
    STORE_HANDLE = 115 "<self::Store as self::Service>::handle" Chain,
    EVEN = 116 "even" Chain,
    ODD = 117 "odd" Chain,
    STEP_GENERIC = 118 "step_generic" Chain,
    ENGINE_TURN = 119 "Engine::turn" Chain,
}

/// A body with boxed children, through `dyn Future`.
pub fn boxed(cx: Cx) -> BoxFuture<'static, Out> {
    match choice(&cx, 7) {
        0 => Box::pin(list_of_dyn(cx)),
        1 => Box::pin(call_service(cx)),
        2 => Box::pin(even(cx)),
        3 => Box::pin(odd(cx)),
        4 => Box::pin(step_generic(cx, Light)),
        5 => Box::pin(step_generic(cx, Heavy)),
        _ => Box::pin(owner::drive_engine(cx)),
    }
}

/// Futures made first and awaited later, from a list of `dyn`.
pub async fn list_of_dyn(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, LIST_OF_DYN);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let n = plan.kids(1, 5);
    let mut list: Vec<BoxFuture<'static, Out>> = Vec::with_capacity(n as usize);
    for i in 0..n {
        let child = plan.step(i);
        match plan.pick(3) {
            0 => list.push(Box::pin(calls::fetch_page(child))),
            1 => list.push(Box::pin(leaves::read_page(child))),
            _ => list.push(any(child)),
        }
    }
    let mut sum = cx.seed;
    for future in list {
        sum = fold(sum, future.await.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}

/// What async-trait makes of async methods: a box for every call.
#[async_trait::async_trait]
pub trait Service: Send + Sync {
    /// Handles one request.
    async fn handle(&self, cx: Cx) -> Out;
}

/// Answers from its own memory where it can.
#[derive(Debug)]
pub struct Cache {
    /// What it knows.
    pub known: [u64; 4],
}

/// Works for every answer.
#[derive(Debug)]
pub struct Store {
    /// Changes the answers.
    pub salt: u64,
}

#[async_trait::async_trait]
impl Service for Cache {
    async fn handle(&self, cx: Cx) -> Out {
        let guard = Guard::begin(&cx, CACHE_HANDLE);
        guard.locate();
        let mut plan = Plan::new(&cx, &guard);
        let mut sum = self.known[(cx.seed % 4) as usize];
        let n = plan.kids(1, 2);
        for i in 0..n {
            let part = match plan.pick(2) {
                0 => kept(leaves::hash_block(plan.step(i))).await,
                _ => kept(calls::load_rows(plan.step(i))).await,
            };
            sum = fold(sum, part.map_err(|e| guard.fail(e))?);
        }
        guard.finish(sum).await
    }
}

#[async_trait::async_trait]
impl Service for Store {
    async fn handle(&self, cx: Cx) -> Out {
        let guard = Guard::begin(&cx, STORE_HANDLE);
        guard.locate();
        let mut plan = Plan::new(&cx, &guard);
        let mut rows = vec![self.salt];
        let n = plan.kids(1, 3);
        for i in 0..n {
            let row = any(plan.step(i)).await.map_err(|e| guard.fail(e))?;
            rows.push(scramble(row ^ self.salt));
            rows.sort_unstable();
        }
        let sum = rows.iter().fold(cx.seed, |acc, &row| fold(acc, row));
        guard.finish(sum).await
    }
}

/// Asks services through `dyn Service`.
pub async fn call_service(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, CALL_SERVICE);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let (cache, store) = (Cache { known: [3, 1, 4, cx.seed] }, Store { salt: cx.seed });
    let services: [&dyn Service; 2] = [&cache, &store];
    let n = plan.kids(1, 4);
    let mut sum = cx.seed;
    for i in 0..n {
        let service = services[plan.pick(2) as usize];
        let answer = service.handle(plan.step(i)).await;
        sum = fold(sum, answer.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}

/// Mutual recursion, this half.
pub async fn even(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, EVEN);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let mut sum = cx.seed;
    let n = plan.kids(1, 2);
    for i in 0..n {
        let child = plan.step(i);
        let part = if child.budget > 1 {
            Box::pin(kept(odd(child))).await
        } else {
            kept(leaves::count_words(child)).await
        };
        sum = fold(sum, part.map_err(|e| guard.fail(e))?);
    }
    guard.finish(sum).await
}

fn even_boxed(cx: Cx) -> BoxFuture<'static, Out> {
    Box::pin(even(cx))
}

/// Mutual recursion, the other half.
pub async fn odd(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, ODD);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let mut parts = Vec::new();
    let n = plan.kids(1, 3);
    for i in 0..n {
        let child = plan.step(i);
        let part = if child.budget > 2 {
            even_boxed(child).await
        } else {
            kept(leaves::decode_row(child)).await
        };
        parts.push(part.map_err(|e| guard.fail(e))?);
    }
    let sum = parts.iter().rev().fold(cx.seed, |acc, &part| fold(acc, part));
    guard.finish(sum).await
}

/// What a generic body is generic over.
pub trait Weight: Send + 'static {
    /// How much a part counts.
    fn weigh(&mut self, part: u64) -> u64;
}

/// Counts parts as they are.
#[derive(Debug)]
pub struct Light;

/// Counts parts with their neighbours.
#[derive(Debug, Default)]
pub struct Heavy;

impl Weight for Light {
    fn weigh(&mut self, part: u64) -> u64 {
        part
    }
}

impl Weight for Heavy {
    fn weigh(&mut self, part: u64) -> u64 {
        (0..8).fold(part, |acc, i| scramble(acc ^ (part >> i)))
    }
}

/// Generic: one source, two poll functions of the same name.
pub async fn step_generic<W: Weight>(cx: Cx, mut weight: W) -> Out {
    let guard = Guard::begin(&cx, STEP_GENERIC);
    guard.locate();
    let mut plan = Plan::new(&cx, &guard);
    let mut sum = weight.weigh(cx.seed);
    let n = plan.kids(1, 4);
    for i in 0..n {
        let part = match plan.pick(2) {
            0 => kept(leaves::render_line(plan.step(i))).await,
            _ => kept(calls::merge_tables(plan.step(i))).await,
        };
        sum = fold(sum, weight.weigh(part.map_err(|e| guard.fail(e))?));
    }
    guard.finish(sum).await
}

/// Has a method that borrows it across awaits.
#[derive(Debug)]
pub struct Engine {
    /// Folded from what it did.
    pub heat: u64,
    /// How often it turned.
    pub turns: u32,
}

impl Engine {
    /// An async method.
    pub async fn turn(&mut self, cx: Cx) -> Out {
        let guard = Guard::begin(&cx, ENGINE_TURN);
        guard.locate();
        let mut plan = Plan::new(&cx, &guard);
        let n = plan.kids(1, 4);
        for i in 0..n {
            self.turns += 1;
            let part = match self.turns % 3 {
                0 => kept(leaves::sort_keys(plan.step(i))).await,
                1 => kept(calls::fetch_page(plan.step(i))).await,
                _ => any(plan.step(i)).await,
            };
            self.heat = fold(self.heat, part.map_err(|e| guard.fail(e))?);
        }
        guard.finish(fold(self.heat, u64::from(self.turns))).await
    }
}
