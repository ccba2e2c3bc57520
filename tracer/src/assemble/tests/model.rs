//! A model of a program and of the kernel side: random futures are polled, dropped and spawned in
//! a memory that is used again at once, as allocators do. Out come the records that the kernel
//! would write, and the truth.
//!
//! Chance is a list of bytes, and 0 is the simplest choice everywhere, so that a failing case
//! shrinks to a small program.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::scene::{BIG, OTHER, PLAIN, SMALL, VAGUE, start};
use crate::events::{
    EndHow, Event, FnId, KernelId, LeafEnd, LeafKind, LeafLink, LeafStart, ParentSource, SpanEnd,
    SpanStart, Stamp, TaskAddr, TaskEnd,
};
use crate::span::{MonoNs, Outcome};

/// What is true of one span.
#[derive(Clone, Debug)]
pub struct Truth {
    pub function: u16,
    pub parent: Option<u64>,
    pub outcome: Outcome,
    pub polls: u32,
    /// When it really ended.
    pub end: u64,
    /// It was polled by somebody else after its parent's end.
    pub handed_out: bool,
    pub addr: u64,
}

/// A finished run.
#[derive(Debug, Default)]
pub struct Run {
    pub events: Vec<Event<'static>>,
    pub truth: BTreeMap<u64, Truth>,
}

/// Sizes that coroutines really have.
const SIZES: [(u16, u64); 4] = [(BIG, 1000), (VAGUE, 400), (SMALL, 100), (OTHER, 100)];
/// Memory is handed out in pieces of this size.
const CHUNK: u64 = 0x1000;
/// Offset of a task's future.
const ROOT: u64 = 0x38;

impl Truth {
    /// Whether `addr` is part of this coroutine.
    pub fn contains(&self, addr: u64) -> bool {
        let size = SIZES.iter().find(|(function, _)| *function == self.function);
        size.is_some_and(|(_, size)| (self.addr..self.addr + size).contains(&addr))
    }
}

#[derive(Debug)]
struct Future {
    /// `None`: it is not probed.
    id: Option<u64>,
    function: u16,
    size: u64,
    addr: u64,
    /// The memory that is given back with it.
    boxed: Option<u64>,
    begun: bool,
    /// What it awaits; all of them, or the first that is ready.
    awaited: Vec<Future>,
    is_select: bool,
    /// Polled beside what it awaits, and dropped with it.
    beside: Vec<Future>,
}

#[derive(Debug)]
struct Task {
    header: u64,
    spawner: Option<u64>,
    root: Option<Future>,
}

#[derive(Clone, Copy, PartialEq)]
enum Poll {
    Ready,
    Pending,
    Panic,
}

/// Where a future is polled.
#[derive(Clone, Copy)]
struct At {
    above: Option<u64>,
    spawner: Option<u64>,
    task: u64,
    depth: u64,
    /// A probed future further up will go on polling.
    polled_by_probed: bool,
}

struct Machine {
    dice: Vec<u8>,
    thrown: usize,
    ts: u64,
    last_id: u64,
    free: Vec<u64>,
    fresh: u64,
    run: Run,
    tasks: Vec<Task>,
    /// The kernel's map of live futures, and its open spans of each task.
    kernel: HashMap<(u64, u16), u64>,
    kernel_tasks: HashMap<u64, HashSet<u64>>,
}

/// Runs the program that `dice` describe.
pub fn run(dice: Vec<u8>) -> Run {
    let mut machine = Machine {
        dice,
        thrown: 0,
        ts: 0,
        last_id: 0,
        free: Vec::new(),
        fresh: 0x10_0000,
        run: Run::default(),
        tasks: Vec::new(),
        kernel: HashMap::new(),
        kernel_tasks: HashMap::new(),
    };
    machine.work();
    machine.run
}

impl Machine {
    /// A number below `n`; 0 once the dice are used up.
    fn roll(&mut self, n: u8) -> u8 {
        let thrown = self.dice.get(self.thrown).copied().unwrap_or(0);
        self.thrown += 1;
        thrown % n
    }

    fn stamp(&mut self) -> Stamp {
        self.ts += if self.roll(40) == 39 { 2_000_000_000 } else { 1_000 };
        Stamp { ts: MonoNs(self.ts), tid: 1 }
    }

    fn allocate(&mut self) -> u64 {
        self.free.pop().unwrap_or_else(|| {
            self.fresh += CHUNK;
            self.fresh
        })
    }

    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn work(&mut self) {
        // `block_on`: no task. Its future is probed, or nobody would see the end of the rest.
        let addr = self.allocate();
        let root = self.future(addr, None, true, CHUNK);
        self.tasks.push(Task { header: 0, spawner: None, root: Some(root) });
        while !self.tasks.is_empty() {
            let at = usize::from(self.roll(self.tasks.len().min(200) as u8));
            let mut task = self.tasks.swap_remove(at);
            let Some(mut root) = task.root.take() else { continue };
            let (header, spawner) = (task.header, task.spawner);
            let context =
                At { above: None, spawner, task: header, depth: 0, polled_by_probed: false };
            let ended = if header != 0 && self.roll(12) == 11 {
                self.drop(root);
                true
            } else if self.poll(&mut root, context) != Poll::Pending {
                if let Some(chunk) = root.boxed {
                    self.free.push(chunk);
                }
                true
            } else {
                task.root = Some(root);
                false
            };
            if !ended {
                self.tasks.push(task);
                continue;
            }
            if header != 0 {
                if self.kernel_tasks.remove(&header).is_some_and(|open| !open.is_empty()) {
                    let (at, task) = (self.stamp(), TaskAddr::new(header).unwrap());
                    self.run.events.push(Event::TaskEnd(TaskEnd { at, task }));
                    self.kernel.retain(|_, id| {
                        self.run.truth.get(id).is_none_or(|t| t.outcome == Outcome::Running)
                    });
                }
                self.free.push(header);
            }
        }
    }

    fn future(&mut self, addr: u64, boxed: Option<u64>, probed: bool, room: u64) -> Future {
        let fitting = SIZES.iter().filter(|(_, size)| *size <= room).count();
        let skipped = SIZES.len() - fitting;
        let (function, size) = SIZES[skipped + usize::from(self.roll(fitting as u8))];
        let id = probed.then(|| self.id());
        let (awaited, beside) = (Vec::new(), Vec::new());
        let (begun, is_select) = (false, false);
        Future { id, function, size, addr, boxed, begun, awaited, is_select, beside }
    }

    /// Futures that `parent` creates to await them together: in place one behind another, or
    /// boxed where there is no room.
    fn children(&mut self, parent: &Future, count: u8) -> Vec<Future> {
        let mut offset = u64::from(self.roll(4)) * 24;
        let taken = parent.beside.iter().filter(|child| child.boxed.is_none());
        let taken = taken.map(|child| child.addr + child.size - parent.addr).max();
        offset = offset.max(taken.unwrap_or(0));
        let mut children = Vec::new();
        for _ in 0..count {
            let room = parent.size.saturating_sub(offset + 1);
            let probed = self.roll(5) != 4;
            let child = if self.roll(3) == 2 || room < 100 {
                let chunk = self.allocate();
                self.future(chunk, Some(chunk), probed, CHUNK)
            } else {
                self.future(parent.addr + offset, None, probed, room)
            };
            if child.boxed.is_none() {
                offset += child.size;
            }
            children.push(child);
        }
        children
    }

    fn begin(&mut self, id: u64, function: u16, addr: u64, at: At) {
        let (parent, source) = match (at.above, at.spawner) {
            (Some(above), _) => (Some(above), ParentSource::Frame),
            (None, Some(spawner)) => (Some(spawner), ParentSource::Spawn),
            (None, None) => (None, ParentSource::Root),
        };
        let stamp = self.stamp();
        self.run.events.push(Event::SpanStart(SpanStart {
            at: stamp,
            function: FnId(function),
            parent: parent.and_then(KernelId::new),
            source,
            task: TaskAddr::new(at.task),
            ..start(id, function, addr)
        }));
        let (outcome, polls, end) = (Outcome::Running, 0, 0);
        let truth = Truth { function, parent, outcome, polls, end, handed_out: false, addr };
        self.run.truth.insert(id, truth);
        let open = self.kernel_tasks.entry(at.task).or_default();
        open.insert(id);
        if let Some(old) = self.kernel.insert((addr, function), id) {
            for open in self.kernel_tasks.values_mut() {
                open.remove(&old);
            }
        }
    }

    fn end(&mut self, id: u64, how: EndHow, seen: bool) {
        let stamp = self.stamp();
        let Some(truth) = self.run.truth.get_mut(&id) else { return };
        truth.end = stamp.ts.0;
        truth.outcome = match how {
            EndHow::Returned => Outcome::Returned,
            EndHow::Panicked => Outcome::Panicked,
            EndHow::Dropped => Outcome::Cancelled,
            EndHow::Vanished => Outcome::Unknown,
        };
        if !seen {
            return;
        }
        let polled = Some((truth.polls, 5)).filter(|(polls, _)| *polls != 0);
        let id_on_wire = KernelId::new(id).unwrap();
        let end = SpanEnd { at: stamp, id: id_on_wire, how, polled, healed: false };
        self.run.events.push(Event::SpanEnd(end));
        for open in self.kernel_tasks.values_mut() {
            open.remove(&id);
        }
        self.kernel.retain(|_, open| *open != id);
    }

    fn poll(&mut self, this: &mut Future, at: At) -> Poll {
        if let Some(id) = this.id {
            if !this.begun {
                self.begin(id, this.function, this.addr, at);
            }
            if let Some(truth) = self.run.truth.get_mut(&id) {
                truth.polls += 1;
            }
        }
        this.begun = true;
        let below = At {
            above: this.id.or(at.above),
            depth: at.depth + 1,
            polled_by_probed: at.polled_by_probed || this.id.is_some(),
            ..at
        };
        let result = self.run_body(this, below);
        if result == Poll::Pending {
            return result;
        }
        for child in std::mem::take(&mut this.beside) {
            let may_go = child.boxed.is_some() && child.begun && at.polled_by_probed;
            if result == Poll::Ready && may_go && self.roll(3) != 0 {
                self.note_handed_out(&child);
                this.beside.push(child);
            } else {
                self.drop(child);
            }
        }
        for child in std::mem::take(&mut this.awaited) {
            self.drop(child);
        }
        if let Some(id) = this.id {
            let how = if result == Poll::Ready { EndHow::Returned } else { EndHow::Panicked };
            self.end(id, how, true);
        }
        result
    }

    fn note_handed_out(&mut self, future: &Future) {
        if let Some(truth) = future.id.and_then(|id| self.run.truth.get_mut(&id)) {
            truth.handed_out = true;
        }
        for child in future.awaited.iter().chain(&future.beside) {
            self.note_handed_out(child);
        }
    }

    /// Polls what `this` awaits and lets it go on, until it waits or is done.
    fn run_body(&mut self, this: &mut Future, at: At) -> Poll {
        for _ in 0..4 {
            let mut waits = false;
            let mut rest = std::mem::take(&mut this.awaited).into_iter();
            while let Some(mut child) = rest.next() {
                match self.poll(&mut child, at) {
                    Poll::Pending => {
                        waits = true;
                        this.awaited.push(child);
                        continue;
                    }
                    Poll::Ready => this.beside.append(&mut child.beside),
                    Poll::Panic => {
                        self.free(&child);
                        this.awaited.extend(rest);
                        return Poll::Panic;
                    }
                }
                self.free(&child);
                if this.is_select {
                    this.awaited.extend(rest);
                    waits = false;
                    break;
                }
            }
            if this.is_select && !waits {
                for loser in std::mem::take(&mut this.awaited) {
                    if loser.boxed.is_some() && loser.begun && self.roll(3) == 2 {
                        this.beside.push(loser);
                    } else {
                        self.drop(loser);
                    }
                }
            }
            if !waits {
                match self.act(this, at) {
                    Some(poll) => return poll,
                    None => continue,
                }
            }
            break;
        }
        let mut rest = std::mem::take(&mut this.beside).into_iter();
        while let Some(mut child) = rest.next() {
            match self.poll(&mut child, at) {
                Poll::Pending => this.beside.push(child),
                Poll::Ready => {
                    this.beside.append(&mut child.beside);
                    self.free(&child);
                }
                Poll::Panic => {
                    self.free(&child);
                    this.beside.extend(rest);
                    return Poll::Panic;
                }
            }
        }
        Poll::Pending
    }

    /// The next thing that a body does; `None`: it goes on.
    fn act(&mut self, this: &mut Future, at: At) -> Option<Poll> {
        this.is_select = false;
        if at.depth > 12 {
            return Some(Poll::Ready);
        }
        match self.roll(24) {
            1..=4 => this.awaited = self.children(this, 1),
            5 | 6 => this.awaited = self.children(this, 2),
            7..=9 => {
                this.awaited = self.children(this, 3);
                this.is_select = true;
            }
            10..=12 => {
                let mut new = self.children(this, 1);
                this.beside.append(&mut new);
            }
            13 | 14 => self.spawn(at),
            15 | 16 => {
                if self.call(at) {
                    return Some(Poll::Panic);
                }
            }
            17 => self.statement(at),
            18 if self.roll(4) == 3 => return Some(Poll::Panic),
            18..=22 => return Some(Poll::Pending),
            _ => return Some(Poll::Ready),
        }
        None
    }

    fn spawn(&mut self, at: At) {
        let header = self.allocate();
        let probed = self.roll(4) != 3;
        let root = self.future(header + ROOT, None, probed, CHUNK - ROOT);
        self.tasks.push(Task { header, spawner: at.above.or(at.spawner), root: Some(root) });
    }

    /// Calls a plain function, which may call another; whether it panics.
    fn call(&mut self, at: At) -> bool {
        let id = self.id();
        self.begin(id, PLAIN, 0x7fff_0000 - at.depth * 0x100, at);
        let below = At { above: Some(id), depth: at.depth + 1, ..at };
        let panics = match self.roll(24) {
            1..9 => self.call(below),
            9 => true,
            _ => false,
        };
        self.end(id, if panics { EndHow::Panicked } else { EndHow::Returned }, true);
        panics
    }

    fn statement(&mut self, at: At) {
        let id = self.id();
        let stamp = self.stamp();
        let parent = at.above;
        let kind = LeafKind::Statement;
        let by_worker = self.roll(2) == 1;
        let source = match (by_worker, parent) {
            (true, _) => ParentSource::Unknown,
            (false, Some(_)) => ParentSource::Frame,
            (false, None) => ParentSource::Root,
        };
        let asker = parent.and_then(KernelId::new);
        let leaf = KernelId::new(id).unwrap();
        let known = asker.filter(|_| !by_worker);
        let (key, begin) = (0x5000 + id, stamp);
        let begin = LeafStart { at: begin, id: leaf, parent: known, source, key, kind, task: None };
        let link = Event::LeafLink(LeafLink { at: stamp, id: leaf, parent: asker });
        let end = LeafEnd { at: stamp, id: leaf, end: stamp.ts, count: Some(0), status: Some(101) };
        let events = &mut self.run.events;
        events.extend([Event::LeafStart(begin), Event::LeafEnd(end)]);
        if by_worker {
            let at =
                if self.dice.len().is_multiple_of(2) { events.len() } else { events.len() - 1 };
            events.insert(at, link);
        }
        let (function, outcome, polls, end) = (0, Outcome::Returned, 0, stamp.ts.0);
        let addr = key;
        let truth = Truth { function, parent, outcome, polls, end, handed_out: false, addr };
        self.run.truth.insert(id, truth);
    }

    /// Drops a future that is not ready. Whether anybody sees that is a matter of luck.
    fn drop(&mut self, future: Future) {
        if let Some(id) = future.id.filter(|_| future.begun) {
            let seen = self.roll(3) == 2;
            self.end(id, EndHow::Dropped, seen);
        }
        let chunk = future.boxed;
        for child in future.awaited.into_iter().chain(future.beside) {
            self.drop(child);
        }
        self.free.extend(chunk);
    }

    fn free(&mut self, future: &Future) {
        self.free.extend(future.boxed);
    }
}
