//! Per-thread state: a shadow stack of probed frames, kept exact by healing.
//!
//! The stack grows downwards, so a frame whose entry stack pointer lies below the current one is
//! gone, however it went. After a panic that alone misleads: a cleanup may call functions below a
//! dead frame. A frame that saw a panic begin is therefore verified before it is believed.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, bpf_pidns_info, pt_regs};
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_ns_current_pid_tgid, bpf_ktime_get_ns,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::ProbeContext;
use tracer_ebpf::config::MAX_DEPTH;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::ParentSource;

use crate::drops::count;
use crate::{future, maps, task};

/// What a frame stands for.
pub mod kind {
    /// A coroutine being polled.
    pub const FUTURE: u8 = 1;
    /// A plain function being called.
    pub const CALL: u8 = 2;
    /// A tokio task being polled.
    pub const TASK: u8 = 3;
    /// A library function that must be matched with its exit.
    pub const LIBRARY: u8 = 4;
}

/// Flags of a [`Frame`].
pub mod frame_flags {
    /// The span's start record was lost: children must not name it as their parent.
    pub const LOST: u8 = 1 << 0;
    /// The task was polled only to be cancelled.
    pub const CANCELLED: u8 = 1 << 1;
}

/// One probed function on a thread's stack.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Frame {
    /// Stack pointer at entry: where the return address lies.
    pub rsp: u64,
    /// The return address.
    pub ret: u64,
    /// Coroutine, task header or library handle.
    pub this: u64,
    /// Span id; a library frame's second argument.
    pub id: u64,
    /// When it was entered.
    pub since: u64,
    /// Function id.
    pub fn_id: u16,
    /// [`kind`].
    pub kind: u8,
    /// [`frame_flags`].
    pub flags: u8,
    /// Panics begun on this thread when it was entered.
    pub panics: u32,
}

/// What is known of a thread.
#[repr(C)]
pub struct Thread {
    /// Next id to hand out on this thread.
    pub next: u64,
    /// A request is being handed over: the asking span, 1 for "no span". 0: none.
    pub handover: u64,
    /// Statement executed last on this thread whose asker is not known yet.
    pub statement: u64,
    /// Stack pointer of the first frame that did not fit; 0: all fit.
    pub overflow: u64,
    /// Frames on the stack.
    pub depth: u32,
    /// Panics begun on this thread.
    pub panics: u32,
    /// 1: a task was seen to begin here, so nothing encloses the bottom of the stack.
    pub clean: u32,
    /// Zero.
    pub reserved: u32,
    /// Stack pointer at the entry of `spawn_local`; 0: not in it.
    pub spawning_local: u64,
    /// The frames, outermost first.
    pub frames: [Frame; MAX_DEPTH],
}

/// Frames removed by one hit, to keep the programs short to verify. What is left goes with the
/// next hits, and is not believed meanwhile.
const HEAL_AT_ONCE: usize = 8;

/// Without preallocation: a thread costs 3 kB only once it is seen.
#[map]
static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// A zeroed value to insert: too large for the eBPF stack.
#[map]
static EMPTY_THREAD: Array<Thread> = Array::with_max_entries(1, 0);

/// Threads, by their id in the target's namespace, that may have been inside a probed function
/// when tracing began. Filled and cleared by user space.
#[map]
static SUSPECTS: HashMap<u32, u8> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// A hit that concerns us.
pub struct Hit {
    /// Registers at the probed instruction.
    pub regs: *const pt_regs,
    /// Thread id in the target's pid namespace.
    pub tid: u32,
    /// Thread id as the kernel counts.
    pub key: u32,
    /// `CLOCK_MONOTONIC`, ns.
    pub now: u64,
}

impl Hit {
    /// Lets hits of the target pass while the session is active.
    #[inline(always)]
    pub fn admit(ctx: &ProbeContext) -> Option<Self> {
        let config = maps::config()?;
        if config.active == 0 {
            return None;
        }
        let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
        // SAFETY: `ids` is as large as said.
        let foreign = unsafe {
            bpf_get_ns_current_pid_tgid(
                config.ns_dev,
                config.ns_ino,
                &raw mut ids,
                size_of::<bpf_pidns_info>() as u32,
            )
        } != 0;
        if foreign || ids.tgid != config.tgid {
            count(Counter::ForeignHits);
            return None;
        }
        count(Counter::Hits);
        // SAFETY: both helpers have no preconditions.
        let (key, now) = unsafe { (bpf_get_current_pid_tgid() as u32, bpf_ktime_get_ns()) };
        Some(Self { regs: ctx.as_ptr().cast(), tid: ids.pid, key, now })
    }

    // Volatile, so that two reads are never merged into one through a computed address, which the
    // verifier refuses on a context.

    /// The stack pointer.
    #[inline(always)]
    pub fn rsp(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rsp).read_volatile() }
    }

    /// First integer argument.
    #[inline(always)]
    pub fn rdi(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rdi).read_volatile() }
    }

    /// Second integer argument.
    #[inline(always)]
    pub fn rsi(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rsi).read_volatile() }
    }

    /// Fourth integer argument.
    #[inline(always)]
    pub fn rcx(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rcx).read_volatile() }
    }

    /// Third integer argument.
    #[inline(always)]
    pub fn rdx(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rdx).read_volatile() }
    }

    /// Integer result; meaningful on a `ret` only.
    #[inline(always)]
    pub fn rax(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rax).read_volatile() }
    }
}

/// Reads a value of the target, or counts why not.
#[inline(always)]
pub fn read<T>(at: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a fault is an error.
    let value = unsafe { bpf_probe_read_user(at as *const T) };
    if value.is_err() {
        count(Counter::ReadFaults);
    }
    value.ok()
}

/// The thread's state, if it has any.
#[inline(always)]
pub fn known(hit: &Hit) -> Option<&'static mut Thread> {
    // SAFETY: only this thread's programs use the entry, one at a time; it is never deleted.
    THREADS.get_ptr_mut(hit.key).map(|at| unsafe { &mut *at })
}

/// The thread's state, begun where there is none.
#[inline(always)]
pub fn get(hit: &Hit) -> Option<&'static mut Thread> {
    if let Some(thread) = known(hit) {
        return Some(thread);
    }
    let empty = EMPTY_THREAD.get(0)?;
    if THREADS.insert(hit.key, empty, 0).is_err() {
        count(Counter::ThreadsFull);
        return None;
    }
    let thread = known(hit)?;
    // 22 bits of thread id are all that Linux has; 42 bits of counter last for years.
    thread.next = u64::from(hit.key) << 42 | 1;
    Some(thread)
}

impl Thread {
    /// An id that is never handed out again.
    #[inline(always)]
    pub fn fresh_id(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        id
    }

    /// The innermost frame.
    #[inline(always)]
    pub fn top(&mut self) -> Option<&mut Frame> {
        let depth = self.depth as usize;
        if depth == 0 || depth > MAX_DEPTH {
            return None;
        }
        Some(&mut self.frames[(depth - 1) & (MAX_DEPTH - 1)])
    }

    /// Removes the innermost frame.
    #[inline(always)]
    pub fn pop(&mut self) {
        self.depth = self.depth.wrapping_sub(1);
    }

    /// Adds a frame, or remembers that one is missing.
    #[inline(always)]
    pub fn push(&mut self, frame: &Frame) -> bool {
        let depth = self.depth as usize;
        if depth >= MAX_DEPTH {
            if self.overflow == 0 {
                self.overflow = frame.rsp;
            }
            count(Counter::StackFull);
            return false;
        }
        self.frames[depth & (MAX_DEPTH - 1)] = *frame;
        self.depth = depth as u32 + 1;
        true
    }

    /// Removes every frame that lies below `alive`, the lowest stack pointer at which a frame of
    /// a caller can have been entered.
    #[inline(always)]
    pub fn heal(&mut self, hit: &Hit, alive: u64) {
        self.heal_up_to::<HEAL_AT_ONCE>(hit, alive);
    }

    /// The same, `MOST` frames at once.
    #[inline(always)]
    pub fn heal_up_to<const MOST: usize>(&mut self, hit: &Hit, alive: u64) {
        if self.overflow != 0 && self.overflow < alive {
            self.overflow = 0;
        }
        for _ in 0..MOST {
            let panics = self.panics;
            let Some(top) = self.top() else { return };
            if top.rsp >= alive {
                return;
            }
            let dead = *top;
            self.pop();
            bury(hit, &dead, panics);
        }
    }

    /// Removes dead frames that a panic left above the stack pointer.
    #[inline(always)]
    fn verify(&mut self, hit: &Hit) {
        self.verify_up_to::<4>(hit);
    }

    /// The same, `MOST` frames at once.
    #[inline(always)]
    pub fn verify_up_to<const MOST: usize>(&mut self, hit: &Hit) {
        for _ in 0..MOST {
            let panics = self.panics;
            let Some(top) = self.top() else { return };
            if top.panics == panics {
                return;
            }
            let alive = read::<u64>(top.rsp) == Some(top.ret)
                && !(top.kind == kind::FUTURE && future::is_poisoned(top));
            if alive {
                return;
            }
            let dead = *top;
            self.pop();
            bury(hit, &dead, panics);
        }
    }

    /// The span on whose behalf this thread works right now, and how certain that is.
    #[inline(always)]
    pub fn current(&mut self, hit: &Hit) -> (u64, ParentSource) {
        self.verify(hit);
        let rsp = hit.rsp();
        if self.overflow != 0 || self.top().is_some_and(|top| top.rsp < rsp) {
            return (0, ParentSource::Unknown);
        }
        let depth = self.depth as usize;
        for back in 1..=MAX_DEPTH {
            if back > depth {
                break;
            }
            let frame = &self.frames[(depth - back) & (MAX_DEPTH - 1)];
            match frame.kind {
                kind::FUTURE | kind::CALL if frame.flags & frame_flags::LOST != 0 => {
                    return (0, ParentSource::Lost);
                }
                kind::FUTURE | kind::CALL => return (frame.id, ParentSource::Frame),
                kind::TASK => return task::spawner(frame.this),
                _ => {}
            }
        }
        // SAFETY: only whether there is an entry matters.
        let certain = self.clean != 0 || unsafe { SUSPECTS.get(hit.tid) }.is_none();
        (0, if certain { ParentSource::Root } else { ParentSource::Unknown })
    }

    /// The task being polled on this thread, 0 if none.
    #[inline(always)]
    pub fn task(&self) -> u64 {
        let depth = self.depth as usize;
        for back in 1..=MAX_DEPTH {
            if back > depth {
                break;
            }
            let frame = &self.frames[(depth - back) & (MAX_DEPTH - 1)];
            if frame.kind == kind::TASK {
                return frame.this;
            }
        }
        0
    }
}

/// Does what a dead frame's exit would have done.
#[inline(always)]
fn bury(hit: &Hit, dead: &Frame, panics: u32) {
    count(Counter::FramesHealed);
    let unwound = dead.panics != panics;
    match dead.kind {
        kind::FUTURE => future::vanished(hit, dead, unwound),
        kind::CALL => future::call_vanished(hit, dead, unwound),
        kind::TASK => task::left(hit, dead),
        _ => {}
    }
}
