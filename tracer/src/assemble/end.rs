//! A span ends, and with it what cannot live without it.
//!
//! Proof of death: the memory it lay in is gone (the coroutine around it ended, or its task), or
//! the stack frame it was called from. A boxed child may have been moved elsewhere, so its
//! parent's end proves nothing; it is held until it ends, its task ends, or nothing above it is
//! left that could poll it.

use std::cmp::Reverse;

use super::arena::Idx;
use super::tombs::{Past, Tomb};
use super::{Assembler, Output};
use crate::events::{EndHow, KernelId, SpanEnd, TaskEnd};
use crate::span::{MonoNs, Outcome};

/// How a span ended that did not just die with another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub outcome: Outcome,
    /// How often it was polled and for how many nanoseconds, where known.
    pub polled: Option<(u32, u64)>,
    /// A record says so.
    pub recorded: bool,
}

impl Assembler {
    pub(super) fn span_end(&mut self, end: &SpanEnd, out: &mut Vec<Output>) {
        let Some(&idx) = self.open.get(&end.id) else {
            let oddities = &mut self.stats.oddities;
            *match self.tombs.find(end.id) {
                Past::Ended(Tomb { inferred: true, .. }) => &mut oddities.ended_after_inferred,
                Past::Ended(_) => &mut oddities.duplicate_end,
                Past::Forgotten => &mut oddities.end_forgotten,
                Past::Never => &mut oddities.end_without_start,
            } += 1;
            return;
        };
        let outcome = match end.how {
            EndHow::Returned => Outcome::Returned,
            EndHow::Panicked => Outcome::Panicked,
            EndHow::Dropped => Outcome::Cancelled,
            EndHow::Vanished => Outcome::Unknown,
        };
        // Seen too late, an end is no later than the first sign of it.
        let held = self.arena[idx].held.take().filter(|_| end.healed);
        let ts = held.map_or(end.at.ts, |held| held.min(end.at.ts));
        let ending = Ending { outcome, polled: end.polled, recorded: true };
        self.end_span(idx, Some(ending), ts, out);
    }

    pub(super) fn task_end(&mut self, end: &TaskEnd, out: &mut Vec<Output>) {
        let mut dying = std::mem::take(&mut self.dying);
        let mut next = self.tasks.get(&end.task.0.get()).copied();
        while let Some(idx) = next {
            next = self.arena[idx].older_in_task;
            self.arena[idx].dying = true;
            dying.push(idx);
        }
        dying.reverse();
        self.end_all(dying, None, end.at.ts, out);
    }

    /// Ends a span whose place was taken, if it has not ended meanwhile.
    pub(super) fn give_up(&mut self, id: KernelId, out: &mut Vec<Output>) {
        if let Some(&idx) = self.open.get(&id) {
            self.stats.oddities.displaced += 1;
            let ts = self.arena[idx].held.unwrap_or(self.now);
            self.end_span(idx, None, ts, out);
        }
    }

    /// The outcome of a coroutine that was found dead.
    pub(super) fn cancelled(&self, idx: Idx) -> Outcome {
        let node = &self.arena[idx];
        let certain = !self.losing_ends && node.seq > self.ends_lost_below;
        match node.is_async && certain {
            true => Outcome::Cancelled,
            false => Outcome::Unknown,
        }
    }

    /// Ends one span and what dies with it; without an `ending` the outcome is inferred.
    pub(super) fn end_span(
        &mut self,
        idx: Idx,
        ending: Option<Ending>,
        ts: MonoNs,
        out: &mut Vec<Output>,
    ) {
        let mut dying = std::mem::take(&mut self.dying);
        self.arena[idx].dying = true;
        dying.push(idx);
        let seen = ending.map(|ending| (idx, ending));
        self.end_all(dying, seen, ts, out);
    }

    /// Ends all of `dying`, which are marked so, and what dies with them. `seen` is the one whose
    /// end a record or a successor tells.
    fn end_all(
        &mut self,
        mut dying: Vec<Idx>,
        seen: Option<(Idx, Ending)>,
        ts: MonoNs,
        out: &mut Vec<Output>,
    ) {
        let mut next = 0;
        while let Some(&idx) = dying.get(next) {
            next += 1;
            self.condemn(idx, ts, &mut dying);
        }
        // Children before parents: they began later.
        let last = seen.map(|(idx, _)| idx);
        dying.sort_unstable_by_key(|&idx| (Some(idx) == last, Reverse(self.arena[idx].seq)));
        for &idx in &dying {
            let end = self.arena[idx].held.unwrap_or(ts);
            self.release_children(idx, end);
            let ending = match seen {
                Some((this, ending)) if this == idx => ending,
                _ => Ending { outcome: self.cancelled(idx), polled: None, recorded: false },
            };
            self.detach(idx);
            let node = self.arena.remove(idx);
            let tomb =
                Tomb { trace: Some(node.trace), inferred: !ending.recorded, served_by: None };
            self.bury(node.id, tomb);
            self.emit_end(&node, ending.outcome, end, ending.polled, out);
        }
        dying.clear();
        self.dying = dying;
    }

    /// Adds to `dying` what cannot live without `idx`.
    fn condemn(&mut self, idx: Idx, ts: MonoNs, dying: &mut Vec<Idx>) {
        let node = &self.arena[idx];
        let end = node.held.unwrap_or(ts);
        let (is_async, task) = (node.is_async, node.task);
        let lonely = self.is_lonely(idx);
        self.arena[idx].lonely = lonely;

        let node = &self.arena[idx];
        let mut child = node.first_child;
        let from = dying.len();
        if !node.displaced && node.is_async {
            let inside = self.extents.within(node.addr, node.size, node.seq);
            dying.extend(inside.filter(|&idx| !self.arena[idx].dying));
        }
        for &idx in &dying[from..] {
            self.arena[idx].doom(end);
        }
        while let Some(at) = child {
            let node = &mut self.arena[at];
            child = node.next;
            // A call does not outlive its caller's poll. A coroutine of this task that nobody is
            // left to poll was dropped with its parent.
            let dies = !node.is_async || (is_async && lonely && node.task == task);
            if dies && !node.dying {
                node.doom(end);
                dying.push(at);
            }
        }
    }

    /// Whether nothing above `idx` survives.
    fn is_lonely(&self, idx: Idx) -> bool {
        let mut above = self.arena[idx].above;
        while let Some(at) = above {
            let node = &self.arena[at];
            if !node.dying {
                return false;
            }
            if node.lonely {
                return true;
            }
            above = node.above;
        }
        true
    }

    /// Hands the surviving children of `idx`, which ends at `end`, to the span above it.
    fn release_children(&mut self, idx: Idx, end: MonoNs) {
        let (above, is_async) = (self.arena[idx].above, self.arena[idx].is_async);
        while let Some(child) = self.arena[idx].first_child {
            self.arena.unlink(child);
            let Some(above) = above else { continue };
            // A coroutine that a plain function polls goes on when that function returns.
            if is_async {
                self.arena[child].hold(end);
            }
            self.arena.link(child, above);
        }
    }

    /// Takes `idx` out of every index and list.
    pub(super) fn detach(&mut self, idx: Idx) {
        self.forget_place(idx);
        self.arena.unlink(idx);
        let node = &self.arena[idx];
        let (id, task) = (node.id, node.task);
        let (newer, older) = (node.newer_in_task, node.older_in_task);
        self.open.remove(&id);
        if let Some(older) = older {
            self.arena[older].newer_in_task = newer;
        }
        match (newer, older, task) {
            (Some(newer), older, _) => self.arena[newer].older_in_task = older,
            (None, Some(older), Some(task)) => {
                self.tasks.insert(task.0.get(), older);
            }
            (None, None, Some(task)) => {
                self.tasks.remove(&task.0.get());
            }
            (None, _, None) => {}
        }
    }

    /// Its address says nothing about `idx` any more.
    pub(super) fn forget_place(&mut self, idx: Idx) {
        let node = &self.arena[idx];
        let place = (node.addr, node.function);
        self.extents.remove(node.addr, node.seq);
        if self.places.get(&place) == Some(&idx) {
            self.places.remove(&place);
        }
    }

    pub(super) fn bury(&mut self, id: KernelId, tomb: Tomb) {
        if self.tombs.bury(id, tomb) {
            self.stats.oddities.tombstones_evicted += 1;
        }
    }
}
