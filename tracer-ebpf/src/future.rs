//! Coroutines and plain functions: where spans begin and end.
//!
//! A span costs two records however often it is polled: polls in between only touch the live
//! future's entry here.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use tracer_ebpf::access::Origin;
use tracer_ebpf::config::{FnConfig, SelfReg, state};
use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{EndHow, Header, Kind, ParentSource, SpanEnd, SpanStart, flags};

use crate::drops::{count, emit};
use crate::hit::{Hit, Moment, read};
use crate::thread::{self, Frame, ThreadRef, frame_flags, kind};
use crate::{fetch, heal, maps, task};

/// What an insertion with `BPF_NOEXIST` says of a key that is taken.
const EEXIST: i32 = -17;

/// A coroutine that has been polled and has not ended.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Future {
    /// Span id.
    id: u64,
    /// Nanoseconds being polled.
    busy_ns: u64,
    /// Task it began in, 0 if none.
    task: u64,
    /// tokio's id of that task.
    task_id: u64,
    /// Times polled; 0 when not known.
    polls: u32,
    /// [`frame_flags::LOST`].
    lost: u32,
}

/// Live futures by address and function: a child may share its parent's address.
#[map]
static FUTURES: HashMap<u64, Future> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// User-space addresses have 47 bits, function ids 12.
#[inline(always)]
fn key(this: u64, fn_id: u16) -> u64 {
    this << 16 | u64::from(fn_id)
}

#[inline(always)]
fn read_state(this: u64, function: &FnConfig) -> Option<u32> {
    let at = this + u64::from(function.state_offset);
    match function.state_width {
        1 => read::<u8>(at).map(u32::from),
        2 => read::<u16>(at).map(u32::from),
        _ => read::<u32>(at),
    }
}

/// A panic has left the coroutine of this frame.
///
/// # Safety
/// `frame` is a frame of this thread's stack.
#[inline(always)]
pub unsafe fn is_poisoned(frame: *const Frame) -> bool {
    // SAFETY: as the caller promises.
    let (fn_id, this) = unsafe { ((*frame).fn_id, (*frame).this) };
    maps::function(fn_id).and_then(|function| read_state(this, function)) == Some(state::PANICKED)
}

/// Tells that a span begins. Returns its id and whether that could be told.
#[inline(always)]
fn emit_start(hit: &Hit, thread: ThreadRef, fn_id: u16, this: u64, late: bool) -> (u64, bool) {
    let id = thread.fresh_id();
    let (parent, source) = thread.current(hit);
    let record = SpanStart {
        header: Header {
            kind: Kind::SpanStart as u8,
            flags: if late { flags::LATE } else { 0 },
            fn_id,
            tid: hit.at.tid,
            ts: hit.at.now,
            id,
        },
        parent,
        addr: this,
        task_and_source: SpanStart::pack(thread.task(), source),
    };
    (id, emit(record, Counter::LostSpanStart))
}

/// What a span's end record says beside how it ended.
struct Life {
    fn_id: u16,
    id: u64,
    busy_ns: u64,
    polls: u32,
}

#[inline(always)]
fn emit_end(at: &Moment, life: &Life, how: EndHow, healed: bool) {
    let record = SpanEnd {
        header: Header {
            kind: Kind::SpanEnd as u8,
            flags: if healed { flags::HEALED } else { 0 },
            fn_id: life.fn_id,
            tid: at.tid,
            ts: at.now,
            id: life.id,
        },
        busy_ns: life.busy_ns,
        polls: life.polls,
        how: how as u8,
        reserved: [0; 3],
    };
    emit(record, Counter::LostSpanEnd);
}

/// Entry of a poll function.
#[inline(always)]
pub fn enter(hit: &Hit, cookie: Cookie) -> Option<()> {
    let fn_id = cookie.fn_id();
    let function = maps::function(fn_id)?;
    let thread = thread::get(hit.at.tid)?;
    let rsp = hit.rsp();
    thread.heal(&hit.at, rsp + 1);
    // Both are read before one is chosen: the verifier refuses a computed context address.
    let (rdi, rsi) = (hit.rdi(), hit.rsi());
    let this = if function.self_reg == SelfReg::Rsi as u8 { rsi } else { rdi };
    let now_in = read_state(this, function)?;
    let key = key(this, fn_id);
    let known = FUTURES.get_ptr_mut(key);

    let fresh = now_in == state::UNRESUMED;
    let (id, flags) = match known {
        Some(future) if !fresh => {
            // SAFETY: the entry stays valid while the program runs, and a future is polled by
            // one thread at a time.
            let future = unsafe { &mut *future };
            if future.polls != 0 {
                future.polls += 1;
            }
            (future.id, if future.lost != 0 { frame_flags::LOST } else { 0 })
        }
        _ if fresh || now_in >= state::SUSPENDED => {
            if let Some(old) = known {
                replaced(old, key);
            }
            let mut flags = frame_flags::FIRST_POLL;
            if !fresh {
                count(Counter::LateFutures);
                flags |= frame_flags::LATE;
            }
            if fresh && function.fetch != 0 {
                // Before the start is told, so that whoever learns of it knows these, too.
                fetch::all(&hit.at, fn_id, function, Origin::Captured, thread.next_id(), this);
            }
            let (id, sent) = emit_start(hit, thread, fn_id, this, !fresh);
            if !sent {
                flags |= frame_flags::LOST;
            }
            (id, flags)
        }
        // Polled after it had ended: the target is about to panic.
        _ => return None,
    };

    let kind = kind::FUTURE;
    let since = hit.at.now;
    let frame = Frame { rsp, ret: 0, this, id, since, task: 0, fn_id, kind, flags, panics: 0 };
    if !thread.push(&frame) && flags & frame_flags::FIRST_POLL != 0 {
        remember(&hit.at, &Frame { task: thread.task(), ..frame }, 0);
    }
    Some(())
}

/// A new future begins where one was whose end has not been seen.
#[inline(always)]
fn replaced(old: *mut Future, key: u64) {
    count(Counter::FuturesReplaced);
    // SAFETY: as in `enter`.
    let (task, task_id) = unsafe { ((*old).task, (*old).task_id) };
    let _ = FUTURES.remove(key);
    task::span_ended(task, task_id);
}

/// A future is suspended for the first time: from now on it is known by its place. Most futures
/// never are, and cost no entry.
#[inline(always)]
fn remember(at: &Moment, frame: &Frame, busy_ns: u64) {
    let lost = frame.flags & frame_flags::LOST != 0;
    let task = if lost { 0 } else { frame.task };
    let task_id = task::span_began(task);
    let polls = u32::from(frame.flags & frame_flags::LATE == 0);
    let future = Future { id: frame.id, busy_ns, task, task_id, polls, lost: u32::from(lost) };
    // Somebody else's place by now? Then this one's frame had been dead for long.
    let flags = u64::from(BPF_NOEXIST);
    if let Err(error) = FUTURES.insert(key(frame.this, frame.fn_id), future, flags) {
        task::span_ended(task, task_id);
        if error == EEXIST {
            return;
        }
        // The start has been told: user space will see that no end can follow.
        count(Counter::FuturesFull);
        if !lost {
            let life = Life { fn_id: frame.fn_id, id: frame.id, busy_ns: 0, polls: 0 };
            emit_end(at, &life, EndHow::Vanished, false);
        }
    }
}

/// Behind a call of a poll function, or on its `ret`.
#[inline(always)]
pub fn exit(hit: &Hit, cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit.at.tid)?;
    let entered_at = task::future_entry_rsp(hit, cookie);
    thread.heal(&hit.at, entered_at);
    let top = thread.top()?;
    if top.kind != kind::FUTURE || top.rsp != entered_at || top.fn_id != cookie.fn_id() {
        count(Counter::StrayExits);
        return None;
    }
    thread.pop();
    settle(&hit.at, &top, None);
    Some(())
}

/// The frame is gone without its exit having been seen.
#[inline(always)]
pub fn vanished(at: &Moment, frame: &Frame, unwound: bool) {
    settle(at, frame, Some(unwound));
}

/// A poll is over: has the future ended? `unwound` is given for a frame that vanished.
#[inline(always)]
fn settle(at: &Moment, frame: &Frame, unwound: Option<bool>) -> Option<()> {
    let function = maps::function(frame.fn_id)?;
    let busy = at.now.saturating_sub(frame.since);
    let ended = if unwound == Some(true) {
        Some(EndHow::Panicked)
    } else {
        match read_state(frame.this, function) {
            Some(state::RETURNED) => Some(EndHow::Returned),
            Some(state::PANICKED) => Some(EndHow::Panicked),
            _ => None,
        }
    };
    let key = key(frame.this, frame.fn_id);
    if frame.flags & frame_flags::FIRST_POLL != 0 {
        let Some(how) = ended else {
            remember(at, frame, busy);
            return Some(());
        };
        // A frame that was dead for long may have left its place to another future.
        let taken = unwound.is_some() && FUTURES.get_ptr(key).is_some();
        if frame.flags & frame_flags::LOST == 0 && !taken {
            let polls = u32::from(frame.flags & frame_flags::LATE == 0);
            let life = Life { fn_id: frame.fn_id, id: frame.id, busy_ns: busy, polls };
            emit_end(at, &life, how, unwound.is_some());
        }
        return Some(());
    }
    let future = FUTURES.get_ptr_mut(key)?;
    // SAFETY: as in `enter`.
    let future = unsafe { &mut *future };
    if future.id != frame.id {
        return None;
    }
    future.busy_ns += busy;
    close(at, key, frame.fn_id, future, ended?, unwound.is_some());
    Some(())
}

#[inline(always)]
fn close(at: &Moment, key: u64, fn_id: u16, future: &Future, how: EndHow, healed: bool) {
    let Future { id, busy_ns, task, task_id, polls, lost } = *future;
    let _ = FUTURES.remove(key);
    task::span_ended(task, task_id);
    if lost == 0 {
        emit_end(at, &Life { fn_id, id, busy_ns, polls }, how, healed);
    }
}

/// Entry of drop glue: rdi is the coroutine.
#[inline(always)]
pub fn dropped(hit: &Hit, cookie: Cookie) -> Option<()> {
    let fn_id = cookie.fn_id();
    // While a panic unwinds, what it has left is dropped outermost first. Its frames are told
    // from the innermost on before that, or the inner futures would look merely cancelled.
    if let Some(thread) = thread::known(hit.at.tid) {
        thread.verify(&hit.at);
    }
    let this = hit.rdi();
    let key = key(this, fn_id);
    let future = FUTURES.get_ptr_mut(key)?;
    let function = maps::function(fn_id)?;
    // SAFETY: a future is dropped by the one thread that owns it.
    let future = unsafe { &*future };
    let how = match read_state(this, function)? {
        state::UNRESUMED => return None,
        state::RETURNED => EndHow::Returned,
        state::PANICKED => EndHow::Panicked,
        _ => EndHow::Dropped,
    };
    close(&hit.at, key, fn_id, future, how, false);
    Some(())
}

/// Every panic of the target passes here before it unwinds.
#[inline(always)]
pub fn panic_begin(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit.at.tid)?;
    thread.heal(&hit.at, hit.rsp());
    heal::note_returns(hit.at.tid.into());
    thread.set_panics(thread.panics() + 1);
    Some(())
}

/// `std::panicking::catch_unwind::cleanup`, called by the very frame that catches: all that lies
/// below has been unwound. Without this, a thread that does nothing more would never tell.
#[inline(always)]
pub fn panic_caught(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit.at.tid)?;
    thread.heal(&hit.at, hit.rsp() + 1);
    Some(())
}

/// Entry of a plain function.
#[inline(always)]
pub fn call_enter(hit: &Hit, cookie: Cookie) -> Option<()> {
    let thread = thread::get(hit.at.tid)?;
    let rsp = hit.rsp();
    thread.heal(&hit.at, rsp + 1);
    let fn_id = cookie.fn_id();
    let (id, sent) = emit_start(hit, thread, fn_id, rsp, false);
    let flags = if sent { 0 } else { frame_flags::LOST };
    let (kind, since) = (kind::CALL, hit.at.now);
    let frame = Frame { rsp, ret: 0, this: rsp, id, since, task: 0, fn_id, kind, flags, panics: 0 };
    if !thread.push(&frame) && sent {
        emit_end(&hit.at, &Life { fn_id, id, busy_ns: 0, polls: 0 }, EndHow::Vanished, false);
    }
    Some(())
}

/// Behind a call of a plain function, or on its `ret`.
#[inline(always)]
pub fn call_exit(hit: &Hit, cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit.at.tid)?;
    let entered_at = task::future_entry_rsp(hit, cookie);
    thread.heal(&hit.at, entered_at);
    let top = thread.top()?;
    if top.kind != kind::CALL || top.rsp != entered_at || top.fn_id != cookie.fn_id() {
        count(Counter::StrayExits);
        return None;
    }
    thread.pop();
    end_call(&hit.at, &top, EndHow::Returned, false);
    Some(())
}

/// A plain function's frame is gone without its exit having been seen.
#[inline(always)]
pub fn call_vanished(at: &Moment, frame: &Frame, unwound: bool) {
    end_call(at, frame, if unwound { EndHow::Panicked } else { EndHow::Vanished }, true);
}

#[inline(always)]
fn end_call(at: &Moment, frame: &Frame, how: EndHow, healed: bool) {
    if frame.flags & frame_flags::LOST == 0 {
        let busy_ns = at.now.saturating_sub(frame.since);
        emit_end(at, &Life { fn_id: frame.fn_id, id: frame.id, busy_ns, polls: 1 }, how, healed);
    }
}

/// A parent that a leaf may name, if it is certain.
#[inline(always)]
pub fn certain(found: (u64, ParentSource)) -> Option<u64> {
    match found {
        (id, ParentSource::Frame | ParentSource::Spawn) => Some(id),
        (_, ParentSource::Root) => Some(0),
        _ => None,
    }
}
