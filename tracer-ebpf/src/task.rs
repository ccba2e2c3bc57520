//! tokio's tasks: who spawned them, when they are polled, when they are gone.
//!
//! A task is known by the address of its `Header`. Spawning and freeing are both seen, so an
//! address that is used again is a new entry, never an old one.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{Header, Kind, ParentSource, TaskEnd};

use crate::atomic;
use crate::drops::{count, emit};
use crate::hit::{Hit, Moment, read};
use crate::thread::{self, Frame, ThreadRef, frame_flags, kind};
use crate::tls;

/// `tokio::runtime::task::state`: the task is being polled.
const RUNNING: u64 = 1 << 0;
/// The task has completed.
const COMPLETE: u64 = 1 << 1;
/// The task is to be cancelled at its next poll.
const CANCELLED: u64 = 1 << 5;

/// What is known of a task.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Task {
    /// Span that was current where it was spawned.
    pub parent: u64,
    /// Spans begun in it and not ended.
    pub live: u64,
    /// [`ParentSource`] as a number.
    pub source: u64,
    /// tokio's own id, which is never used again: an address may be.
    pub task_id: u64,
    /// The request that its connection serves; 0: none, [`SEVERAL`]: not known which.
    pub serving: u64,
    /// Requests begun on its connections and not ended.
    pub requests: u64,
}

/// [`Task::serving`]: requests of several connections are served at once.
const SEVERAL: u64 = u64::MAX;

/// Offset of the vtable pointer in a task's `Header`.
const HEADER_VTABLE: u64 = 0x10;
/// Offset, in the vtable, of the offset of the task's id.
const VTABLE_ID_OFFSET: u64 = 0x48;

/// tokio's id of a task; 0 where it cannot be read.
#[inline(always)]
fn task_id(header: u64) -> u64 {
    let id = || {
        let vtable = read::<u64>(header + HEADER_VTABLE)?;
        let offset = read::<u64>(vtable + VTABLE_ID_OFFSET)?;
        // A task is no larger than that; anything else is not an offset.
        if offset > 1 << 32 { None } else { read::<u64>(header + offset) }
    };
    id().unwrap_or(0)
}

#[map]
static TASKS: HashMap<u64, Task> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// The span that was current where `header`'s task was spawned.
#[inline(always)]
pub fn spawner(header: u64) -> (u64, ParentSource) {
    // SAFETY: entries are replaced whole; a torn read is excluded by the task being polled.
    match unsafe { TASKS.get(header) } {
        // An address used again by a task whose spawning was not seen.
        Some(task) if task.task_id != task_id(header) => (0, ParentSource::Unknown),
        Some(task) if task.serving == SEVERAL => (0, ParentSource::Unknown),
        Some(task) if task.serving != 0 => (task.serving, ParentSource::Spawn),
        Some(task) if task.source == ParentSource::Spawn as u64 => {
            (task.parent, ParentSource::Spawn)
        }
        Some(task) if task.source == ParentSource::Root as u64 => (0, ParentSource::Root),
        Some(task) if task.source == ParentSource::Lost as u64 => (0, ParentSource::Lost),
        _ => (0, ParentSource::Unknown),
    }
}

/// A span begins in a task. Returns what identifies the task for [`span_ended`].
#[inline(always)]
pub fn span_began(header: u64) -> u64 {
    if header == 0 {
        return 0;
    }
    let id = task_id(header);
    if let Some(task) = TASKS.get_ptr_mut(header) {
        // SAFETY: fields are aligned; the entry stays valid while the program runs.
        unsafe {
            if (*task).task_id == id {
                atomic::add(&raw mut (*task).live, 1);
                return id;
            }
        }
    }
    // Spawned before tracing began, or by a copy of `spawn` that was inlined away.
    insert(header, Task { live: 1, ..Task::unknown(id) });
    id
}

impl Task {
    /// One whose spawning was not seen.
    const fn unknown(task_id: u64) -> Self {
        let source = ParentSource::Unknown as u64;
        Self { parent: 0, live: 0, source, task_id, serving: 0, requests: 0 }
    }
}

#[inline(always)]
fn insert(header: u64, task: Task) {
    if TASKS.insert(header, task, 0).is_err() {
        count(Counter::TasksFull);
    }
}

/// A connection of the task has read a request: what the task does from now on is done for it.
/// Returns what identifies the task for [`serve_end`].
#[inline(always)]
pub fn serve_begin(header: u64, request: u64) -> u64 {
    if header == 0 {
        return 0;
    }
    let id = task_id(header);
    if let Some(task) = TASKS.get_ptr_mut(header) {
        // SAFETY: fields are aligned; only the thread that polls the task begins a request.
        unsafe {
            if (*task).task_id == id {
                let others = (&raw const (*task).requests).read_volatile();
                atomic::add(&raw mut (*task).requests, 1);
                (*task).serving = if others == 0 { request } else { SEVERAL };
                return id;
            }
        }
    }
    insert(header, Task { serving: request, requests: 1, ..Task::unknown(id) });
    id
}

/// A request that the task served has ended. By then another task may have its address.
#[inline(always)]
pub fn serve_end(header: u64, id: u64) {
    if header == 0 {
        return;
    }
    if let Some(task) = TASKS.get_ptr_mut(header) {
        // SAFETY: as in `serve_begin`.
        unsafe {
            let open = (&raw const (*task).requests).read_volatile();
            if (*task).task_id == id && open != 0 {
                atomic::add(&raw mut (*task).requests, u64::MAX);
                if open == 1 {
                    (*task).serving = 0;
                }
            }
        }
    }
}

/// A span has ended that began in the task. By then another task may have its address.
#[inline(always)]
pub fn span_ended(header: u64, id: u64) {
    if header == 0 {
        return;
    }
    if let Some(task) = TASKS.get_ptr_mut(header) {
        // SAFETY: as in `span_began`. `live` is 0 where the end of the task was told before.
        unsafe {
            if (*task).task_id == id && (&raw const (*task).live).read_volatile() != 0 {
                atomic::add(&raw mut (*task).live, u64::MAX);
            }
        }
    }
}

/// `OwnedTasks::bind_inner`, `Spawner::spawn_task`: rsi is the new `Header`.
#[inline(always)]
pub fn spawn(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::get(hit.at.tid)?;
    thread.heal(&hit.at, hit.rsp());
    spawned(hit, thread, hit.rsi());
    Some(())
}

#[inline(always)]
fn spawned(hit: &Hit, thread: ThreadRef, header: u64) {
    let (parent, source) = match thread.current(hit) {
        (id, ParentSource::Frame | ParentSource::Spawn) => (id, ParentSource::Spawn),
        other => other,
    };
    // Where an earlier task's end was not seen, the address in use again proves it.
    tell_end(&hit.at, header);
    insert(header, Task { parent, source: source as u64, ..Task::unknown(task_id(header)) });
}

/// `tokio::task::local::spawn_local`: what it schedules before it returns is the new task.
#[inline(always)]
pub fn local_spawn(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::get(hit.at.tid)?;
    thread.heal(&hit.at, hit.rsp());
    thread.set_spawning_local(hit.rsp());
    Some(())
}

/// `tokio::task::local::Shared::schedule`: rsi is the `Header`.
#[inline(always)]
pub fn local_schedule(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit.at.tid)?;
    let within = thread.spawning_local();
    thread.set_spawning_local(0);
    if within == 0 || hit.rsp() >= within {
        return None;
    }
    thread.heal(&hit.at, hit.rsp());
    spawned(hit, thread, hit.rsi());
    Some(())
}

/// `raw::poll`: rdi is the `Header`.
#[inline(always)]
pub fn enter(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::get(hit.at.tid)?;
    let rsp = hit.rsp();
    thread.heal(&hit.at, rsp + 1);
    thread.set_clean(1);
    thread.set_handover(0);
    let header = hit.rdi();
    let cancelled = read::<u64>(header).is_some_and(|state| state & CANCELLED != 0);
    let frame = Frame {
        rsp,
        ret: 0,
        task: 0,
        this: header,
        id: 0,
        since: hit.at.now,
        fn_id: 0,
        kind: kind::TASK,
        flags: if cancelled { frame_flags::CANCELLED } else { 0 },
        panics: 0,
    };
    thread.push(&frame);
    Some(())
}

/// Behind a call of `raw::poll`, or on its `ret`.
#[inline(always)]
pub fn exit(hit: &Hit, cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit.at.tid)?;
    let entered_at = future_entry_rsp(hit, cookie);
    // Everything a panic may have left: this may be the last hit on this thread for long.
    thread.heal(&hit.at, entered_at);
    let top = thread.top()?;
    if top.kind != kind::TASK || top.rsp != entered_at {
        count(Counter::StrayExits);
        return None;
    }
    let frame = top;
    thread.pop();
    thread.set_handover(0);
    left(&hit.at, &frame);
    Some(())
}

/// The stack pointer with which the function that has just returned was entered.
#[inline(always)]
pub fn future_entry_rsp(hit: &Hit, cookie: Cookie) -> u64 {
    if cookie.flags() & Cookie::AT_RET != 0 { hit.rsp() } else { hit.rsp() - 8 }
}

/// A poll of the task is over. It may have been its last: aborted while it was being polled, for
/// one. The `Header` may be gone by now, so what is read there counts only if the task is still
/// known afterwards: it is forgotten before its memory is freed.
#[inline(always)]
pub fn left(at: &Moment, frame: &Frame) {
    let header = frame.this;
    if frame.flags & frame_flags::CANCELLED != 0 {
        tell_end(at, header);
        return;
    }
    // SAFETY: only words of the entry are looked at.
    let open = || unsafe { TASKS.get(header) }.filter(|task| task.live != 0).map(|t| t.task_id);
    let Some(id) = open() else { return };
    let Some(state) = read::<u64>(header) else { return };
    if state & COMPLETE != 0 && open() == Some(id) {
        tell_end(at, header);
    }
}

/// Tells user space that the task's future is gone, if that can matter.
#[inline(always)]
fn end(hit: &Hit, header: u64) {
    if let Some(thread) = thread::known(hit.at.tid) {
        // As for a future that is dropped while a panic unwinds.
        thread.verify(&hit.at);
    }
    tell_end(&hit.at, header);
}

#[inline(always)]
fn tell_end(at: &Moment, header: u64) {
    let Some(task) = TASKS.get_ptr_mut(header) else { return };
    // SAFETY: the field is aligned; the entry stays valid while the program runs.
    if unsafe { atomic::swap(&raw mut (*task).live, 0) } != 0 {
        let header = Header {
            kind: Kind::TaskEnd as u8,
            flags: 0,
            fn_id: 0,
            tid: at.tid,
            ts: at.now,
            id: header,
        };
        emit(TaskEnd { header }, Counter::LostTaskEnd);
    }
}

/// `raw::dealloc` and the drop glue of a task: rdi is the `Header`, or points to a box of it where
/// the compiler kept the box. The last trace of the task.
#[inline(always)]
pub fn free(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let mut header = hit.rdi();
    tls::forget_connection(header);
    if TASKS.get_ptr(header).is_none() {
        header = read::<u64>(header)?;
        TASKS.get_ptr(header)?;
    }
    end(hit, header);
    let _ = TASKS.remove(header);
    Some(())
}

/// `raw::shutdown`: rdi is the `Header`. Drops the future unless another thread is polling it.
#[inline(always)]
pub fn shutdown(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let header = hit.rdi();
    let state = read::<u64>(header)?;
    if state & (RUNNING | COMPLETE) == 0 {
        end(hit, header);
    }
    Some(())
}
