//! The bounded queue between the tracing loops and the export thread.
//!
//! It wakes the thread when its first span arrives and whenever there is a batch more, not for
//! every span.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::batch::{Batch, Source, estimate};
use crate::span::{MonoNs, Span};

/// Bounds of the queue and of patience.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Spans waiting in memory; more are dropped and counted.
    pub queue_spans: usize,
    /// Spans in one request.
    pub batch_spans: usize,
    /// Estimated bytes in one request: receivers refuse messages of more than 4 MiB.
    pub batch_bytes: usize,
    /// How long a span waits for others to join its request.
    pub batch_delay: Duration,
    /// How long one batch is tried before it is dropped, where there is no spool to keep it.
    pub retry_for: Duration,
    /// The first pause between two tries; it doubles, with jitter.
    pub backoff_min: Duration,
    /// The longest pause between two tries, but for what a receiver asks for by `Retry-After`.
    pub backoff_max: Duration,
    /// How long nothing must be lost before a loss is said to be over.
    pub loss_quiet: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_spans: 32_768,
            // Bounded by its bytes rather: each request wakes the exporter a few times.
            batch_spans: 4096,
            batch_bytes: 1 << 20,
            batch_delay: Duration::from_secs(1),
            retry_for: Duration::from_secs(60),
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(5),
            loss_quiet: Duration::from_secs(10),
        }
    }
}

struct Item {
    source: Arc<Source>,
    span: Span,
    until: MonoNs,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    closed: bool,
}

/// Shared by those who fill it and the one who empties it.
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Notify,
    capacity: usize,
    batch: usize,
}

impl Queue {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            capacity: limits.queue_spans.max(1),
            batch: limits.batch_spans.max(1),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `accepted` is called before anybody can see the span.
    pub(super) fn push(
        &self,
        source: &Arc<Source>,
        span: &Span,
        until: MonoNs,
        accepted: impl FnOnce(),
    ) -> Result<(), Refused> {
        let item = Item { source: Arc::clone(source), span: span.clone(), until };
        let mut state = self.state();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.items.len() >= self.capacity {
            return Err(Refused::Full);
        }
        accepted();
        state.items.push_back(item);
        let length = state.items.len();
        drop(state);
        if length == 1 || length.is_multiple_of(self.batch) {
            self.wake.notify_one();
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }
}

/// Why a span was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

/// The export thread's end: makes batches, each of one process.
pub(super) struct Intake {
    queue: Arc<Queue>,
    limits: Limits,
    ready: VecDeque<Batch>,
    /// When what is in the queue has waited long enough.
    due: Option<Instant>,
}

impl Intake {
    pub(super) fn new(queue: Arc<Queue>, limits: Limits) -> Self {
        Self { queue, limits, ready: VecDeque::new(), due: None }
    }

    /// The next batch; `None` when the queue is closed and empty. Nothing is lost when the future
    /// is dropped.
    pub(super) async fn next(&mut self) -> Option<Batch> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Some(batch);
            }
            let (waiting, closed) = {
                let state = self.queue.state();
                (state.items.len(), state.closed)
            };
            let due = match (waiting, self.due) {
                (0, _) => {
                    self.due = None;
                    if closed {
                        return None;
                    }
                    self.queue.wake.notified().await;
                    continue;
                }
                (_, Some(due)) => due,
                (_, None) => *self.due.insert(Instant::now() + self.limits.batch_delay),
            };
            if closed || waiting >= self.queue.batch || Instant::now() >= due {
                self.due = None;
                self.take();
                continue;
            }
            tokio::select! {
                () = self.queue.wake.notified() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    /// A batch that could not be dealt with now: the next one again.
    pub(super) fn put_back(&mut self, batch: Batch) {
        self.ready.push_front(batch);
    }

    /// Takes what a few batches hold, and sorts it by process.
    fn take(&mut self) {
        let most = self.queue.batch.saturating_mul(8);
        let items: Vec<Item> = {
            let mut state = self.queue.state();
            let count = state.items.len().min(most);
            state.items.drain(..count).collect()
        };
        let mut bytes: Vec<usize> = vec![];
        let first = self.ready.len();
        for Item { source, span, until } in items {
            let size = estimate(&span);
            let room = (first..self.ready.len()).rev().find(|at| {
                let batch = &self.ready[*at];
                batch.source.as_ref().is_some_and(|known| Arc::ptr_eq(known, &source))
            });
            let room = room.filter(|at| {
                self.ready[*at].spans.len() < self.queue.batch
                    && bytes[at - first] + size <= self.limits.batch_bytes
            });
            match room {
                Some(at) => {
                    bytes[at - first] += size;
                    self.ready[at].spans.push((span, until));
                }
                None => {
                    bytes.push(size);
                    self.ready.push_back(Batch {
                        origin: Arc::clone(&source.origin),
                        spans: vec![(span, until)],
                        source: Some(source),
                    });
                }
            }
        }
    }
}
