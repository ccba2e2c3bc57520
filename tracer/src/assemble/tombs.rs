//! Ended spans, remembered for a while: what they spawned may begin later.

use std::collections::VecDeque;

use super::Map;
use crate::events::{KernelId, TaskAddr};
use crate::span::TraceId;

/// What is left of an ended span or leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tomb {
    /// Its trace; `None` for what can have no children, such as a statement.
    pub trace: Option<TraceId>,
    /// Its end was inferred or, for a leaf, judged from what was read: the kernel's own record
    /// of it may follow.
    pub inferred: bool,
    /// A served request's task: once the request has ended, what begins there is not done for it.
    pub served_by: Option<TaskAddr>,
}

/// What is known of an id that is not open.
#[derive(Clone, Copy, Debug)]
pub(super) enum Past {
    /// It ended.
    Ended(Tomb),
    /// It may have ended too long ago.
    Forgotten,
    /// It never began, as far as anybody saw.
    Never,
}

/// First in, first out.
#[derive(Debug)]
pub(super) struct Tombs {
    capacity: usize,
    by_id: Map<KernelId, Tomb>,
    order: VecDeque<KernelId>,
    /// The greatest id evicted.
    forgotten: Option<KernelId>,
}

impl Tombs {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, by_id: Map::default(), order: VecDeque::new(), forgotten: None }
    }

    /// Buries `id`; whether another was evicted for it.
    pub fn bury(&mut self, id: KernelId, tomb: Tomb) -> bool {
        if self.by_id.insert(id, tomb).is_none() {
            self.order.push_back(id);
        }
        let mut evicted = false;
        while self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
            self.forgotten = self.forgotten.max(Some(oldest));
            evicted = true;
        }
        evicted
    }

    pub fn find(&self, id: KernelId) -> Past {
        match self.by_id.get(&id) {
            Some(&tomb) => Past::Ended(tomb),
            // Ids grow with time on each CPU, so an id up to the greatest evicted one may have
            // been evicted. The distinction only serves the reason given for an orphan.
            None if self.forgotten.is_some_and(|greatest| id <= greatest) => Past::Forgotten,
            None => Past::Never,
        }
    }
}
