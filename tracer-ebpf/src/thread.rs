//! Per-thread state: a shadow stack of probed frames, kept exact by healing.
//!
//! The stack grows downwards, so a frame whose entry stack pointer lies below the current one is
//! gone, however it went. After a panic that alone misleads: a cleanup may call functions below a
//! dead frame. A frame that saw a panic begin is therefore verified before it is believed.
//!
//! What is rare, burying the dead, is done by functions that the verifier checks once on their
//! own ([`crate::heal`]). They find the thread again by its id, behind the back of whoever calls
//! them: therefore nothing here holds a Rust reference to a [`Thread`].

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use tracer_ebpf::config::MAX_DEPTH;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::ParentSource;

use crate::drops::count;
use crate::hit::{Hit, Moment};
use crate::{heal, task};

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
    /// The coroutine's first poll: only this frame knows of it.
    pub const FIRST_POLL: u8 = 1 << 2;
    /// First seen suspended.
    pub const LATE: u8 = 1 << 3;
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
    /// Header of the task that runs here, 0 outside of any. Set by [`ThreadRef::push`].
    pub task: u64,
    /// Function id.
    pub fn_id: u16,
    /// [`kind`].
    pub kind: u8,
    /// [`frame_flags`].
    pub flags: u8,
    /// Panics begun on this thread when it was entered. Set by [`ThreadRef::push`].
    pub panics: u32,
}

/// What is known of a thread.
#[repr(C)]
pub struct Thread {
    /// Next id to hand out on this thread.
    pub next: u64,
    /// A request is being handed over: the asking span, `u64::MAX` for "no span". 0: none.
    pub handover: u64,
    /// Statement executed last on this thread whose asker is not known yet.
    pub statement: u64,
    /// Statement that SQLite executed as part of that one; 0: none.
    pub inner_statement: u64,
    /// Stack pointer of the first frame that did not fit; 0: all fit.
    pub overflow: u64,
    /// Stack pointer at the entry of `spawn_local`; 0: not in it.
    pub spawning_local: u64,
    /// Frames on the stack.
    pub depth: u32,
    /// Panics begun on this thread.
    pub panics: u32,
    /// 1: a task was seen to begin here, so nothing encloses the bottom of the stack.
    pub clean: u32,
    /// Zero.
    pub reserved: u32,
    /// The frames, outermost first.
    pub frames: [Frame; MAX_DEPTH],
}

/// Without preallocation: a thread costs 4 kB only once it is seen.
#[map]
static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// A zeroed value to insert: too large for the eBPF stack.
#[map]
static EMPTY_THREAD: Array<Thread> = Array::with_max_entries(1, 0);

/// Threads that may have been inside a probed function when tracing began. Filled and cleared by
/// user space. Like all thread ids here in the target's own namespace.
#[map]
static SUSPECTS: HashMap<u32, u8> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// A thread's entry. Only that thread's programs use it, one at a time, and it is never deleted.
#[derive(Clone, Copy)]
pub struct ThreadRef(*mut Thread);

/// The thread's state, if it has any.
#[inline(always)]
pub fn known(tid: u32) -> Option<ThreadRef> {
    THREADS.get_ptr_mut(tid).map(ThreadRef)
}

/// The thread's state, begun where there is none.
#[inline(always)]
pub fn get(tid: u32) -> Option<ThreadRef> {
    if let Some(thread) = known(tid) {
        return Some(thread);
    }
    let empty = EMPTY_THREAD.get(0)?;
    if THREADS.insert(tid, empty, 0).is_err() {
        count(Counter::ThreadsFull);
        return None;
    }
    let thread = known(tid)?;
    // 22 bits of thread id are all that Linux has; 42 bits of counter last for years.
    // SAFETY: as for every access below: see `ThreadRef`.
    unsafe { (*thread.0).next = u64::from(tid) << 42 | 1 };
    Some(thread)
}

macro_rules! fields {
    ($($(#[$doc:meta])* $get:ident $set:ident: $type:ty;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $get(self) -> $type {
            // SAFETY: see `ThreadRef`.
            unsafe { (*self.0).$get }
        }

        /// Sets it.
        #[inline(always)]
        pub fn $set(self, value: $type) {
            // SAFETY: see `ThreadRef`.
            unsafe { (*self.0).$get = value };
        }
    )*};
}

impl ThreadRef {
    fields! {
        /// [`Thread::handover`].
        handover set_handover: u64;
        /// [`Thread::statement`].
        statement set_statement: u64;
        /// [`Thread::inner_statement`].
        inner_statement set_inner_statement: u64;
        /// [`Thread::spawning_local`].
        spawning_local set_spawning_local: u64;
        /// [`Thread::panics`].
        panics set_panics: u32;
        /// [`Thread::clean`].
        clean set_clean: u32;
    }

    /// An id that is never handed out again.
    #[inline(always)]
    pub fn fresh_id(self) -> u64 {
        // SAFETY: see `ThreadRef`.
        unsafe {
            let id = (*self.0).next;
            (*self.0).next = id + 1;
            id
        }
    }

    /// The id that [`Self::fresh_id`] hands out next.
    #[inline(always)]
    pub fn next_id(self) -> u64 {
        // SAFETY: see `ThreadRef`.
        unsafe { (*self.0).next }
    }

    /// The frame `back` steps above the innermost one (0), if there is one.
    #[inline(always)]
    pub fn frame(self, back: u32) -> Option<*mut Frame> {
        // SAFETY: see `ThreadRef`; the index is masked.
        unsafe {
            let depth = (*self.0).depth;
            if depth <= back || depth > MAX_DEPTH as u32 {
                return None;
            }
            let at = (depth - 1 - back) as usize & (MAX_DEPTH - 1);
            Some(&raw mut (*self.0).frames[at])
        }
    }

    /// A copy of the innermost frame.
    #[inline(always)]
    pub fn top(self) -> Option<Frame> {
        // SAFETY: a frame of this thread's stack.
        self.frame(0).map(|frame| unsafe { *frame })
    }

    /// Removes the innermost frame.
    #[inline(always)]
    pub fn pop(self) {
        // SAFETY: see `ThreadRef`.
        unsafe { (*self.0).depth = (*self.0).depth.wrapping_sub(1) };
    }

    /// Adds a frame, or remembers that one is missing.
    #[inline(always)]
    pub fn push(self, frame: &Frame) -> bool {
        let task = if frame.kind == kind::TASK { frame.this } else { self.task() };
        // SAFETY: see `ThreadRef`; the index is masked.
        unsafe {
            let depth = (*self.0).depth as usize;
            if depth >= MAX_DEPTH {
                if (*self.0).overflow == 0 {
                    (*self.0).overflow = frame.rsp;
                }
                count(Counter::StackFull);
                return false;
            }
            let panics = (*self.0).panics;
            (*self.0).frames[depth & (MAX_DEPTH - 1)] = Frame { task, panics, ..*frame };
            (*self.0).depth = depth as u32 + 1;
        }
        true
    }

    /// Removes every frame that lies below `alive`, the lowest stack pointer at which a frame of
    /// a caller can have been entered.
    #[inline(always)]
    pub fn heal(self, at: &Moment, alive: u64) {
        // SAFETY: see `ThreadRef`; a frame of this thread's stack.
        unsafe {
            let overflow = (*self.0).overflow;
            if overflow != 0 && overflow < alive {
                (*self.0).overflow = 0;
            }
            if self.frame(0).is_some_and(|top| (*top).rsp < alive) {
                heal::heal_frames(at.tid.into(), at.now, alive);
            }
        }
    }

    /// Removes dead frames that a panic left above the stack pointer.
    #[inline(always)]
    pub fn verify(self, at: &Moment) {
        // SAFETY: a frame of this thread's stack.
        if self.frame(0).is_some_and(|top| unsafe { (*top).panics } != self.panics()) {
            heal::verify_frames(at.tid.into(), at.now);
        }
    }

    /// The span on whose behalf this thread works right now, and how certain that is.
    #[inline(always)]
    pub fn current(self, hit: &Hit) -> (u64, ParentSource) {
        self.current_at(&hit.at, hit.rsp())
    }

    /// The same where the stack pointer is known otherwise.
    #[inline(always)]
    pub fn current_at(self, at: &Moment, rsp: u64) -> (u64, ParentSource) {
        self.verify(at);
        // SAFETY: see `ThreadRef`; frames of this thread's stack.
        unsafe {
            if (*self.0).overflow != 0 || self.frame(0).is_some_and(|top| (*top).rsp < rsp) {
                return (0, ParentSource::Unknown);
            }
            for back in 0..MOST_LIBRARY_FRAMES {
                let Some(frame) = self.frame(back) else { return self.outside(at.tid) };
                match (*frame).kind {
                    kind::FUTURE | kind::CALL if (*frame).flags & frame_flags::LOST != 0 => {
                        return (0, ParentSource::Lost);
                    }
                    kind::FUTURE | kind::CALL => return ((*frame).id, ParentSource::Frame),
                    kind::TASK => return task::spawner((*frame).this),
                    _ => {}
                }
            }
        }
        (0, ParentSource::Unknown)
    }

    /// The same where no probed frame is on the stack.
    #[inline(always)]
    fn outside(self, tid: u32) -> (u64, ParentSource) {
        // SAFETY: only whether there is an entry matters.
        let certain = self.clean() != 0 || unsafe { SUSPECTS.get(tid) }.is_none();
        (0, if certain { ParentSource::Root } else { ParentSource::Unknown })
    }

    /// The task being polled on this thread, 0 if none.
    #[inline(always)]
    pub fn task(self) -> u64 {
        // SAFETY: a frame of this thread's stack.
        self.frame(0).map_or(0, |top| unsafe { (*top).task })
    }
}

/// Library functions on the stack inside one another: SQLite in a callback of SQLite, and the like.
const MOST_LIBRARY_FRAMES: u32 = 4;
