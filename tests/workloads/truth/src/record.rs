//! The workload's own record of what its bodies did.
//!
//! # Truth file
//! JSON lines. The first line describes the run:
//! ```json
//! {"v":1,"pid":7,"seed":1,"mix":"all","agents":10,"workers":8,"checksum":"…","bodies":[
//!   {"id":0,"function":"truth_workload::bodies::leaves::read_page",
//!    "file":"truth/src/bodies/leaves.rs","line":40,"mix":"leaf"}]}
//! ```
//! `function` is the demangled path of the async fn, without hash and without the trailing
//! `::{{closure}}` of its poll function. A body that the compiler inlined everywhere has no such
//! symbol; `file` and `line` (of its `async fn`) find it through panic locations.
//!
//! Each further line is one span: one call of a body, from its first poll to its end. A future
//! that was dropped before it was ever polled is no span.
//! ```json
//! {"id":5,"parent":2,"body":0,"agent":3,"addr":94321,"start_ns":1,"end_ns":2,
//!  "outcome":"ok","polls":3,"tid":17,"link":"await"}
//! ```
//! - `id` counts from 1 in the order in which bodies began; a parent's is smaller.
//! - `parent` is null exactly for `link` = `root`.
//! - `addr` is the address of the span's guard, which lies *inside* the coroutine.
//! - `start_ns`, `end_ns` are CLOCK_MONOTONIC, taken inside the first poll and inside the last
//!   poll or the drop. `end_ns` is null while `running`.
//! - `outcome`: `ok`, `err`, `panicked` (a panic unwound through the body's own poll),
//!   `cancelled` (dropped while suspended, also when a panic elsewhere dropped it), `running`.
//! - `polls`: polls of the body's own poll function, null where not known exactly. Known for
//!   leaves, which suspend only in futures that count, and for bodies that only ever await
//!   such bodies one after the other.
//! - `tid` is the thread of the first poll, `agent` the agent that the work belongs to.
//! - `link`: `await` (first polled inside the parent's poll, be it awaited, joined, selected or
//!   under `block_in_place` + `block_on`), `spawn` (`tokio::spawn`, `spawn_local`, `JoinSet`; the
//!   parent called it), `blocking` (under `block_on` in a `spawn_blocking` closure; the parent
//!   called `spawn_blocking`), `root` (an agent, or `block_on` on a thread of its own).

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};

use crate::bodies::{self, BodyId};
use crate::plan::{Cx, Fate, scramble};

/// How a span is connected with its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Link {
    /// Polled inside the parent's poll.
    Await,
    /// The same, but a panic of the child does not reach the parent.
    AwaitCaught,
    /// A task that the parent spawned.
    Spawn,
    /// Under `block_on` in a blocking task that the parent spawned.
    Blocking,
    /// No parent.
    Root,
}

/// What a body returns.
pub type Out = Result<u64, Fail>;

/// A planned error, with a code that goes into the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fail(pub u64);

/// How a span ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Not ended.
    Running,
    /// Returned `Ok`.
    Ok,
    /// Returned `Err`.
    Err,
    /// Dropped while suspended.
    Cancelled,
    /// Unwound.
    Panicked,
}

/// One span. Written by the thread that runs the body, read when all is over.
#[derive(Debug)]
#[repr(align(64))]
pub struct Slot {
    /// First poll, CLOCK_MONOTONIC.
    pub start: AtomicU64,
    /// End, 0 while running.
    pub end: AtomicU64,
    /// Address of the guard in the coroutine.
    pub addr: AtomicU64,
    /// Span id of the parent, or 0.
    pub parent: AtomicU32,
    /// Agent.
    pub agent: AtomicU32,
    /// How often one of the body's own futures returned `Pending`.
    pub pending: AtomicU32,
    /// Thread of the first poll.
    pub tid: AtomicU32,
    /// Body.
    pub body: AtomicU16,
    /// A [`Link`].
    pub link: AtomicU8,
    /// An [`Outcome`].
    pub outcome: AtomicU8,
    /// A panic is about to unwind through this body's poll.
    unwinding: AtomicBool,
}

/// All spans of the run; the place of a span is its id less one.
struct Slab {
    slots: Box<[Slot]>,
    used: AtomicU32,
}

static SLAB: OnceLock<Slab> = OnceLock::new();
/// Bodies that were told to park, and those that have.
static PARKS: AtomicU32 = AtomicU32::new(0);
static PARKED: AtomicU32 = AtomicU32::new(0);

const ORDER: Ordering = Ordering::Relaxed;

/// Makes room for `capacity` spans and starts to record; without it guards record nothing.
pub fn start_recording(capacity: usize) {
    // Slots are written here for the first time, so that recording never meets a page fault.
    let slots = (0..capacity)
        .map(|_| Slot {
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            addr: AtomicU64::new(0),
            parent: AtomicU32::new(0),
            agent: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            tid: AtomicU32::new(0),
            body: AtomicU16::new(0),
            link: AtomicU8::new(0),
            outcome: AtomicU8::new(Outcome::Running as u8),
            unwinding: AtomicBool::new(false),
        })
        .collect();
    SLAB.get_or_init(|| Slab { slots, used: AtomicU32::new(0) });
}

/// Every span begun so far, in the order of ids; and how many did not fit.
pub fn spans() -> (&'static [Slot], usize) {
    let Some(slab) = SLAB.get() else { return (&[], 0) };
    let used = slab.used.load(Ordering::Acquire) as usize;
    let kept = used.min(slab.slots.len());
    (&slab.slots[..kept], used - kept)
}

/// Announces a body that will park, before it is spawned.
pub fn expect_park() {
    PARKS.fetch_add(1, Ordering::SeqCst);
}

/// How many bodies were told to park, if all of them have.
pub fn all_parked() -> Option<u32> {
    let parked = PARKED.load(Ordering::SeqCst);
    (PARKS.load(Ordering::SeqCst) == parked).then_some(parked)
}

/// Records one span. Lives in the body's coroutine from its first poll to its end.
#[derive(Debug)]
pub struct Guard {
    slot: Option<&'static Slot>,
    id: u32,
    agent: u32,
    code: u32,
    body: BodyId,
    fate: Fate,
}

impl Guard {
    /// The first thing a body does. [`Guard::locate`] is the second.
    #[inline(never)]
    pub fn begin(cx: &Cx, body: BodyId) -> Self {
        let &Cx { seed, parent, agent, budget: _, fate, link, limits: _ } = cx;
        let mut guard = Self { slot: None, id: 0, agent, code: scramble(seed) as u32, body, fate };
        let Some(slab) = SLAB.get() else { return guard };
        let place = slab.used.fetch_add(1, ORDER);
        let Some(slot) = slab.slots.get(place as usize) else { return guard };
        slot.parent.store(parent, ORDER);
        slot.agent.store(agent, ORDER);
        slot.tid.store(thread_id(), ORDER);
        slot.body.store(body.0, ORDER);
        slot.link.store(link as u8, ORDER);
        slot.start.store(now(), ORDER);
        guard.slot = Some(slot);
        guard.id = place + 1;
        guard
    }

    /// A guard that records nothing.
    #[cfg(test)]
    pub fn unrecorded(cx: &Cx) -> Self {
        let &Cx { agent, fate, .. } = cx;
        Self { slot: None, id: 0, agent, code: 0, body: BodyId(0), fate }
    }

    /// Notes where the guard lives. It is a local that lives across awaits, so it has its place
    /// in the coroutine from the start and stays there.
    #[inline(never)]
    pub fn locate(&self) {
        if let Some(slot) = self.slot {
            slot.addr.store(std::ptr::from_ref(self) as u64, ORDER);
        }
    }

    /// The span's id, 0 if nothing is recorded.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How the body has to end.
    pub fn fate(&self) -> Fate {
        self.fate
    }

    /// Suspends once.
    pub fn pause(&self) -> Pause<'_> {
        Pause { guard: self, done: false }
    }

    /// Ends the body as its fate says.
    pub fn finish(&self, value: u64) -> Finish<'_> {
        Finish { guard: self, value, parked: false }
    }

    /// Passes on a child's error: `child.await.map_err(|e| guard.fail(e))?`.
    pub fn fail(&self, fail: Fail) -> Fail {
        self.end(Outcome::Err);
        fail
    }

    /// A panic is about to start in this body. It unwinds through every body on the way to the
    /// next one who catches it, and through no other: what is merely dropped is cancelled.
    pub fn will_panic(&self) {
        let Some(slab) = SLAB.get() else { return };
        let mut next = self.slot;
        while let Some(slot) = next {
            slot.unwinding.store(true, ORDER);
            let passes_on = slot.link.load(ORDER) == Link::Await as u8;
            let parent = slot.parent.load(ORDER) as usize;
            next = if passes_on { slab.slots.get(parent.wrapping_sub(1)) } else { None };
        }
    }

    /// The message of a planned panic.
    pub fn panic_message(&self) -> String {
        format!("planned: {} of agent {}", bodies::function(self.body), self.agent)
    }

    fn end(&self, outcome: Outcome) {
        if let Some(slot) = self.slot {
            slot.outcome.store(outcome as u8, ORDER);
        }
    }

    fn count_pending(&self) {
        if let Some(slot) = self.slot {
            slot.pending.store(slot.pending.load(ORDER) + 1, ORDER);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        if slot.outcome.load(ORDER) == Outcome::Running as u8 {
            let unwinding = slot.unwinding.load(ORDER);
            self.end(if unwinding { Outcome::Panicked } else { Outcome::Cancelled });
        }
        slot.end.store(now(), ORDER);
    }
}

/// See [`Guard::pause`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Pause<'a> {
    guard: &'a Guard,
    done: bool,
}

impl Future for Pause<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.done {
            return Poll::Ready(());
        }
        self.done = true;
        self.guard.count_pending();
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// See [`Guard::finish`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Finish<'a> {
    guard: &'a Guard,
    value: u64,
    parked: bool,
}

impl Future for Finish<'_> {
    type Output = Out;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Out> {
        match self.guard.fate {
            Fate::Ok => {
                self.guard.end(Outcome::Ok);
                Poll::Ready(Ok(self.value))
            }
            Fate::Err => {
                self.guard.end(Outcome::Err);
                Poll::Ready(Err(Fail(u64::from(self.guard.code))))
            }
            Fate::Panic => {
                self.guard.will_panic();
                panic!("{}", self.guard.panic_message());
            }
            fate @ (Fate::Never | Fate::Park) => {
                self.guard.count_pending();
                if fate == Fate::Park && !self.parked {
                    self.parked = true;
                    PARKED.fetch_add(1, Ordering::SeqCst);
                }
                Poll::Pending
            }
        }
    }
}

fn thread_id() -> u32 {
    thread_local!(static ID: Cell<u32> = const { Cell::new(0) });
    ID.with(|id| {
        if id.get() == 0 {
            // SAFETY: gettid takes nothing and always succeeds.
            id.set(unsafe { libc::gettid() } as u32);
        }
        id.get()
    })
}

fn now() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is a valid timespec to write to; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut at) };
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}
