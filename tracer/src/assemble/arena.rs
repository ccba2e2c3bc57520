//! Open spans in a slab, linked by indices: no allocation per span once it has grown.

use std::ops::{Index, IndexMut};

use crate::events::{FnId, KernelId, TaskAddr};
use crate::span::{MonoNs, OrphanReason, TraceId};

/// A tokio task holds its future a few words behind its `Header`.
const TASK_CELL: std::ops::Range<u64> = 0x20..0x100;

/// A slot of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Idx(u32);

/// An open span.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub id: KernelId,
    /// Start order.
    pub seq: u64,
    pub trace: TraceId,
    pub parent: Option<KernelId>,
    pub orphan: Option<OrphanReason>,
    pub function: FnId,
    pub is_async: bool,
    pub late: bool,
    pub tid: u32,
    pub start: MonoNs,
    pub addr: u64,
    /// Bytes from `addr` that are certainly its own; 0: not a coroutine.
    pub size: u32,
    pub task: Option<TaskAddr>,

    /// Its parent ended at this time without proving that it ended too; or its place was taken.
    pub held: Option<MonoNs>,
    /// Its memory belongs to somebody else by now.
    pub displaced: bool,
    /// Chosen to end with the event at hand.
    pub dying: bool,
    /// Dying, and nothing survives that could still poll its children.
    pub lonely: bool,

    /// The nearest span that is open and on the stack whenever this one runs.
    pub above: Option<Idx>,
    pub first_child: Option<Idx>,
    pub prev: Option<Idx>,
    pub next: Option<Idx>,
    /// The open span in whose memory this one lies, and that span's `seq` to know it again.
    pub container: Option<(Idx, u64)>,
    pub newer_in_task: Option<Idx>,
    pub older_in_task: Option<Idx>,
}

impl Node {
    /// A span without relations.
    pub fn new(id: KernelId, seq: u64, trace: TraceId, function: FnId, start: MonoNs) -> Self {
        Self {
            id,
            seq,
            trace,
            parent: None,
            orphan: None,
            function,
            is_async: false,
            late: false,
            tid: 0,
            start,
            addr: 0,
            size: 0,
            task: None,
            held: None,
            displaced: false,
            dying: false,
            lonely: false,
            above: None,
            first_child: None,
            prev: None,
            next: None,
            container: None,
            newer_in_task: None,
            older_in_task: None,
        }
    }

    /// Whether it lies in its task's own memory: nobody else's coroutine can lie there before
    /// the end of the task, which is always noticed.
    pub fn is_in_task_cell(&self) -> bool {
        let offset = self.task.and_then(|task| self.addr.checked_sub(task.0.get()));
        offset.is_some_and(|offset| TASK_CELL.contains(&offset))
    }

    /// It did not end later than `end`, if it turns out to have ended.
    pub fn hold(&mut self, end: MonoNs) {
        self.held = Some(self.held.map_or(end, |held| held.min(end)));
    }

    /// It ends with the event at hand, as of `end` unless there were signs of it before.
    pub fn doom(&mut self, end: MonoNs) {
        self.dying = true;
        self.hold(end);
    }

    /// Whether `addr` is certainly part of it.
    pub const fn contains(&self, addr: u64) -> bool {
        match addr.checked_sub(self.addr) {
            Some(offset) => offset < self.size as u64,
            None => false,
        }
    }
}

/// The slab. An index stays valid until its node is removed; the maps of the assembler hold no
/// other ones.
#[derive(Debug, Default)]
pub(super) struct Arena {
    slots: Vec<Option<Node>>,
    free: Vec<Idx>,
}

impl Arena {
    pub const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn insert(&mut self, node: Node) -> Idx {
        match self.free.pop() {
            Some(idx) => {
                self.slots[idx.0 as usize] = Some(node);
                idx
            }
            None => {
                self.slots.push(Some(node));
                Idx((self.slots.len() - 1) as u32)
            }
        }
    }

    pub fn remove(&mut self, idx: Idx) -> Node {
        self.free.push(idx);
        self.slots[idx.0 as usize].take().expect(VALID)
    }

    /// The node that was at `idx` when its `seq` was read, if it is still there.
    pub fn same(&self, (idx, seq): (Idx, u64)) -> Option<&Node> {
        self.slots[idx.0 as usize].as_ref().filter(|node| node.seq == seq)
    }

    /// Makes `child`, which is linked to nobody, the first child of `above`.
    pub fn link(&mut self, child: Idx, above: Idx) {
        let next = self[above].first_child.replace(child);
        if let Some(next) = next {
            self[next].prev = Some(child);
        }
        let child = &mut self[child];
        (child.above, child.prev, child.next) = (Some(above), None, next);
    }

    /// Takes `child` from the span above it.
    pub fn unlink(&mut self, child: Idx) {
        let node = &mut self[child];
        let (above, prev, next) = (node.above.take(), node.prev.take(), node.next.take());
        if let Some(next) = next {
            self[next].prev = prev;
        }
        match (prev, above) {
            (Some(prev), _) => self[prev].next = next,
            (None, Some(above)) => self[above].first_child = next,
            (None, None) => {}
        }
    }
}

const VALID: &str = "an index outlived its node";

impl Index<Idx> for Arena {
    type Output = Node;
    fn index(&self, idx: Idx) -> &Node {
        self.slots[idx.0 as usize].as_ref().expect(VALID)
    }
}

impl IndexMut<Idx> for Arena {
    fn index_mut(&mut self, idx: Idx) -> &mut Node {
        self.slots[idx.0 as usize].as_mut().expect(VALID)
    }
}
