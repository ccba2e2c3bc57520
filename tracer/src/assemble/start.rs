//! A span begins: which trace it belongs to, and who must be dead if it lives here.

use std::cmp::Reverse;

use super::arena::{Idx, Node};
use super::end::Ending;
use super::tombs::Past;
use super::{Assembler, GRACE_NS, Output};
use crate::events::{KernelId, ParentSource, SpanStart, TaskAddr};
use crate::span::{MonoNs, OrphanReason, Outcome, TraceId};

/// A span's place in the world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// `None`: a trace of its own.
    pub parent: Option<(KernelId, TraceId)>,
    pub orphan: Option<OrphanReason>,
}

impl Origin {
    pub const ROOT: Self = Self { parent: None, orphan: None };

    pub const fn orphan(why: OrphanReason) -> Self {
        Self { parent: None, orphan: Some(why) }
    }
}

/// A look for an ancestor goes up so many levels. Further up, a span counts as one.
const MAX_CLIMB: usize = 256;

impl Assembler {
    pub(super) fn span_start(&mut self, start: &SpanStart, out: &mut Vec<Output>) {
        self.stats.begun += 1;
        let known = self.open.contains_key(&start.id)
            || self.leaves.contains(start.id)
            || matches!(self.tombs.find(start.id), Past::Ended(_));
        if known {
            self.stats.drops.duplicate_start += 1;
            return;
        }
        let Some(function) = self.function(start.function) else {
            self.stats.drops.unknown_function += 1;
            return;
        };
        let is_async = function.is_async;
        // Whatever its size is, its state is part of it.
        let size = if is_async { function.size_at_least.max(1) } else { 0 };

        let old = self.places.get(&(start.addr, start.function)).copied();
        let mut origin = self.origin(start);
        if is_async && !start.late && !self.place_is_free(start, size, origin) {
            origin = Origin::orphan(OrphanReason::WitnessesDisagree);
        }
        // The same function's coroutine begins where an earlier one was: that one is gone, and
        // the kernel does not follow it any more. (A plain call whose frame is used again has
        // returned without a record of it.)
        if let Some(old) = old {
            self.stats.oddities.replaced += 1;
            let outcome = match start.late {
                true => Outcome::Unknown,
                false => self.cancelled(old),
            };
            let ending = Ending { outcome, polled: None, recorded: false };
            self.end_span(old, Some(ending), start.at.ts, out);
        }
        if self.is_full() {
            self.stats.drops.open_spans_full += 1;
            return;
        }
        self.admit(start, size, is_async, origin, out);
    }

    fn origin(&mut self, start: &SpanStart) -> Origin {
        match (start.source, start.parent) {
            (ParentSource::Root, _) => Origin::ROOT,
            (ParentSource::Frame, Some(parent)) if start.late => {
                // Somebody else may have begun it, before tracing did. But whoever lies inside
                // another was begun by it.
                let inside = self.open.get(&parent).map(|&idx| &self.arena[idx]);
                match inside.filter(|node| node.contains(start.addr)) {
                    Some(node) => Origin { parent: Some((parent, node.trace)), orphan: None },
                    None => Origin::orphan(OrphanReason::LateAttach),
                }
            }
            (ParentSource::Frame | ParentSource::Spawn, Some(parent)) if parent != start.id => {
                self.child_of(parent, start.task)
            }
            (ParentSource::Unknown, _) => Origin::orphan(OrphanReason::LateAttach),
            _ => Origin::orphan(OrphanReason::ParentLost),
        }
    }

    /// The place of a child of `parent`, which may have ended. The child begins in `task`.
    pub(super) fn child_of(&mut self, parent: KernelId, task: Option<TaskAddr>) -> Origin {
        if let Some(&idx) = self.open.get(&parent) {
            return Origin { parent: Some((parent, self.arena[idx].trace)), orphan: None };
        }
        if let Some(origin) = self.served_in(parent) {
            return origin;
        }
        match self.tombs.find(parent) {
            Past::Ended(tomb) if task.is_some() && tomb.served_by == task => {
                Origin::orphan(OrphanReason::Unlinked)
            }
            Past::Ended(tomb) => match tomb.trace {
                Some(trace) => Origin { parent: Some((parent, trace)), orphan: None },
                None => Origin::orphan(OrphanReason::ParentLost),
            },
            Past::Forgotten => Origin::orphan(OrphanReason::ParentForgotten),
            Past::Never => Origin::orphan(OrphanReason::ParentLost),
        }
    }

    /// The second witness. A coroutine that begins inside another's memory is polled by it, so
    /// that one is on the stack. Where the stack does not show it, either it is dead and its
    /// memory was used again, or the stack is wrong. The first is common (a cancelled future's
    /// end is often not seen), so it is assumed unless the other is certainly alive. `false`
    /// where that is so and the stack named a parent.
    fn place_is_free(&mut self, start: &SpanStart, size: u32, origin: Origin) -> bool {
        if !matches!(start.source, ParentSource::Frame | ParentSource::Root | ParentSource::Spawn) {
            // The tracer was there from the beginning, so the task is known.
            if start.source == ParentSource::Lost && start.task.is_some() {
                self.displace_other_tasks(start);
            }
            return true;
        }
        let stack = match (start.source, origin.parent) {
            (ParentSource::Frame, Some((parent, _))) => match self.open.get(&parent) {
                Some(&idx) => Some(idx),
                None => {
                    self.stats.oddities.begun_in_ended += 1;
                    return true;
                }
            },
            (ParentSource::Frame, None) => return true,
            _ => None,
        };
        let mut dead = std::mem::take(&mut self.dying);
        let mut contradicted = false;
        for idx in self.extents.around(&self.arena, start.addr) {
            if self.is_above(idx, stack) {
                break;
            }
            let node = &self.arena[idx];
            contradicted |= start.source == ParentSource::Frame
                && node.task != start.task
                && node.is_in_task_cell();
            dead.push(idx);
        }
        if contradicted {
            dead.clear();
        } else {
            // Nothing that lies in a coroutine which begins now can have been polled.
            let inside = self.extents.within(start.addr, size, 0);
            dead.extend(inside.filter(|&idx| !self.is_above(idx, stack)));
        }
        // The outer ones take along what lies in them.
        dead.sort_unstable_by_key(|&idx| self.arena[idx].seq);
        for &idx in &dead {
            self.displace(idx, stack, start.at.ts);
        }
        dead.clear();
        self.dying = dead;
        !contradicted
    }

    /// The same where nobody knows what is on the stack: a coroutine is polled by the task that
    /// polls the one it lies in, so what lies around in another task is dead.
    fn displace_other_tasks(&mut self, start: &SpanStart) {
        let mut dead = std::mem::take(&mut self.dying);
        let around = self.extents.around(&self.arena, start.addr);
        dead.extend(around.filter(|&idx| self.arena[idx].task != start.task));
        dead.sort_unstable_by_key(|&idx| self.arena[idx].seq);
        for &idx in &dead {
            self.displace(idx, None, start.at.ts);
        }
        dead.clear();
        self.dying = dead;
    }

    /// Whether `idx` is `stack` or one of the frames below which it was begun.
    fn is_above(&self, idx: Idx, stack: Option<Idx>) -> bool {
        let seq = self.arena[idx].seq;
        let mut at = stack;
        for _ in 0..MAX_CLIMB {
            match at {
                None => return false,
                Some(at) if at == idx => return true,
                // Whoever is above began earlier.
                Some(here) if self.arena[here].seq < seq => return false,
                Some(here) => at = self.arena[here].above,
            }
        }
        true
    }

    /// `idx` and what lies in it are dead, but a record that says how they ended may follow. What
    /// is on the `stack` lives, wherever it lies.
    fn displace(&mut self, idx: Idx, stack: Option<Idx>, ts: MonoNs) {
        let node = &self.arena[idx];
        if node.displaced {
            return;
        }
        let (addr, size, seq) = (node.addr, node.size, node.seq);
        let end = node.held.unwrap_or(ts);
        let inside = self.extents.within(addr, size, seq);
        let mut all: Vec<Idx> = inside.filter(|&idx| !self.is_above(idx, stack)).collect();
        all.push(idx);
        // Given up in this order: children first.
        all.sort_unstable_by_key(|&idx| Reverse(self.arena[idx].seq));
        if self.displaced.len() > 2 * self.limits.open {
            let open = &self.open;
            self.displaced.retain(|(_, id)| open.contains_key(id));
        }
        for idx in all {
            self.forget_place(idx);
            let node = &mut self.arena[idx];
            node.displaced = true;
            node.hold(end);
            let until = MonoNs(self.now.0.saturating_add(GRACE_NS));
            self.displaced.push_back((until, node.id));
        }
    }

    fn admit(
        &mut self,
        start: &SpanStart,
        size: u32,
        is_async: bool,
        origin: Origin,
        out: &mut Vec<Output>,
    ) {
        self.seq += 1;
        let trace = match origin.parent {
            Some((_, trace)) => trace,
            None => self.ids.trace(start.id),
        };
        if let Some(why) = origin.orphan {
            self.stats.orphaned(why);
        }
        let container = match is_async {
            true => self.extents.around(&self.arena, start.addr).next(),
            false => None,
        };
        let node = Node {
            parent: origin.parent.map(|(parent, _)| parent),
            orphan: origin.orphan,
            is_async,
            late: start.late,
            tid: start.at.tid,
            addr: start.addr,
            size,
            task: start.task,
            container: container.map(|idx| (idx, self.arena[idx].seq)),
            ..Node::new(start.id, self.seq, trace, start.function, start.at.ts)
        };
        out.push(Output::Started(self.span_of(&node)));
        let idx = self.arena.insert(node);
        self.open.insert(start.id, idx);
        self.places.insert((start.addr, start.function), idx);
        if is_async {
            self.extents.insert(start.addr, self.seq, idx);
        }
        if let Some(task) = start.task
            && let Some(older) = self.tasks.insert(task.0.get(), idx)
        {
            self.arena[idx].older_in_task = Some(older);
            self.arena[older].newer_in_task = Some(idx);
        }
        if start.source == ParentSource::Frame
            && let Some((parent, _)) = origin.parent
            && let Some(&above) = self.open.get(&parent)
        {
            self.arena.link(idx, above);
        }
    }
}
