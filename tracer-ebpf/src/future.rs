//! Coroutines and plain functions: where spans begin and end.
//!
//! A span costs two records however often it is polled: polls in between only touch the live
//! future's entry here.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use tracer_ebpf::access;
use tracer_ebpf::config::{FnConfig, MAX_DEPTH, SelfReg, state};
use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{EndHow, Header, Kind, ParentSource, SpanEnd, SpanStart, flags};

use crate::drops::{count, emit};
use crate::thread::{self, Frame, Hit, Thread, frame_flags, kind, read};
use crate::{fetch, maps, task};

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
#[inline(always)]
pub fn is_poisoned(frame: &Frame) -> bool {
    maps::function(frame.fn_id).and_then(|function| read_state(frame.this, function))
        == Some(state::PANICKED)
}

#[inline(always)]
fn emit_start(hit: &Hit, thread: &mut Thread, fn_id: u16, this: u64, late: bool) -> (u64, bool) {
    let id = thread.fresh_id();
    let (parent, source) = thread.current(hit);
    let record = SpanStart {
        header: Header {
            kind: Kind::SpanStart as u8,
            flags: if late { flags::LATE } else { 0 },
            fn_id,
            tid: hit.tid,
            ts: hit.now,
            id,
        },
        parent,
        addr: this,
        task_and_source: SpanStart::pack(thread.task(), source),
    };
    (id, emit(record, Counter::LostSpanStart))
}

#[inline(always)]
fn emit_end(hit: &Hit, fn_id: u16, id: u64, busy_ns: u64, polls: u32, how: EndHow, healed: bool) {
    let record = SpanEnd {
        header: Header {
            kind: Kind::SpanEnd as u8,
            flags: if healed { flags::HEALED } else { 0 },
            fn_id,
            tid: hit.tid,
            ts: hit.now,
            id,
        },
        busy_ns,
        polls,
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
    let thread = thread::get(hit)?;
    let rsp = hit.rsp();
    thread.heal(hit, rsp + 1);
    // Both are read before one is chosen: the verifier refuses a computed context address.
    let (rdi, rsi) = (hit.rdi(), hit.rsi());
    let this = if function.self_reg == SelfReg::Rsi as u8 { rsi } else { rdi };
    let now_in = read_state(this, function)?;
    let key = key(this, fn_id);
    let known = FUTURES.get_ptr_mut(key);

    let fresh = now_in == state::UNRESUMED;
    let (id, lost) = match known {
        Some(future) if !fresh => {
            // SAFETY: the entry stays valid while the program runs, and a future is polled by
            // one thread at a time.
            let future = unsafe { &mut *future };
            if future.polls != 0 {
                future.polls += 1;
            }
            (future.id, future.lost != 0)
        }
        _ if fresh || now_in >= state::SUSPENDED => {
            if !fresh {
                count(Counter::LateFutures);
            }
            if fresh && function.fetch != 0 {
                // Before the start is told, so that whoever learns of it knows these, too.
                fetch::all(hit, fn_id, function.fetch, thread.next, access::From::Captured, this);
            }
            begin(hit, thread, known, key, fn_id, this, !fresh)
        }
        // Polled after it had ended: the target is about to panic.
        _ => return None,
    };

    let frame = Frame {
        rsp,
        ret: read::<u64>(rsp)?,
        this,
        id,
        since: hit.now,
        fn_id,
        kind: kind::FUTURE,
        flags: if lost { frame_flags::LOST } else { 0 },
        panics: thread.panics,
    };
    thread.push(&frame);
    Some(())
}

/// A generation begins. Returns its id and whether its start was lost.
#[inline(always)]
fn begin(
    hit: &Hit,
    thread: &mut Thread,
    known: Option<*mut Future>,
    key: u64,
    fn_id: u16,
    this: u64,
    late: bool,
) -> (u64, bool) {
    let (id, sent) = emit_start(hit, thread, fn_id, this, late);
    let task = if sent { thread.task() } else { 0 };
    let mut future = Future {
        id,
        busy_ns: 0,
        task,
        task_id: 0,
        polls: u32::from(!late),
        lost: u32::from(!sent),
    };
    if let Some(old) = known {
        count(Counter::FuturesReplaced);
        // SAFETY: as in `enter`.
        let old = unsafe { &mut *old };
        task::span_ended(old.task, old.task_id);
        future.task_id = task::span_began(task);
        *old = future;
        return (id, !sent);
    }
    future.task_id = task::span_began(task);
    if FUTURES.insert(key, future, 0).is_err() {
        // The start has been told: user space will see that no end can follow.
        count(Counter::FuturesFull);
        task::span_ended(task, future.task_id);
        if sent {
            emit_end(hit, fn_id, id, 0, 0, EndHow::Vanished, false);
        }
        return (id, true);
    }
    (id, !sent)
}

/// Behind a call of a poll function, or on its `ret`.
#[inline(always)]
pub fn exit(hit: &Hit, cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit)?;
    let entered_at = task::future_entry_rsp(hit, cookie);
    thread.heal(hit, entered_at);
    let top = thread.top()?;
    if top.kind != kind::FUTURE || top.rsp != entered_at || top.fn_id != cookie.fn_id() {
        count(Counter::StrayExits);
        return None;
    }
    let frame = *top;
    thread.pop();
    settle(hit, &frame, None);
    Some(())
}

/// The frame is gone without its exit having been seen.
#[inline(always)]
pub fn vanished(hit: &Hit, frame: &Frame, unwound: bool) {
    settle(hit, frame, Some(unwound));
}

/// A poll is over: has the future ended? `unwound` is given for a frame that vanished.
#[inline(always)]
fn settle(hit: &Hit, frame: &Frame, unwound: Option<bool>) -> Option<()> {
    let function = maps::function(frame.fn_id)?;
    let key = key(frame.this, frame.fn_id);
    let future = FUTURES.get_ptr_mut(key)?;
    // SAFETY: as in `enter`.
    let future = unsafe { &mut *future };
    if future.id != frame.id {
        return None;
    }
    future.busy_ns += hit.now.saturating_sub(frame.since);
    let how = if unwound == Some(true) {
        EndHow::Panicked
    } else {
        match read_state(frame.this, function)? {
            state::RETURNED => EndHow::Returned,
            state::PANICKED => EndHow::Panicked,
            _ => return None,
        }
    };
    close(hit, key, frame.fn_id, future, how, unwound.is_some());
    Some(())
}

#[inline(always)]
fn close(hit: &Hit, key: u64, fn_id: u16, future: &Future, how: EndHow, healed: bool) {
    let Future { id, busy_ns, task, task_id, polls, lost } = *future;
    let _ = FUTURES.remove(key);
    task::span_ended(task, task_id);
    if lost == 0 {
        emit_end(hit, fn_id, id, busy_ns, polls, how, healed);
    }
}

/// Entry of drop glue: rdi is the coroutine.
#[inline(always)]
pub fn dropped(hit: &Hit, cookie: Cookie) -> Option<()> {
    let fn_id = cookie.fn_id();
    // While a panic unwinds, what it has left is dropped outermost first. Its frames are told
    // from the innermost on before that, or the inner futures would look merely cancelled.
    if let Some(thread) = thread::known(hit) {
        thread.verify_up_to::<16>(hit);
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
    close(hit, key, fn_id, future, how, false);
    Some(())
}

/// Every panic of the target passes here before it unwinds.
#[inline(always)]
pub fn panic_begin(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit)?;
    thread.heal(hit, hit.rsp());
    thread.panics += 1;
    Some(())
}

/// `std::panicking::catch_unwind::cleanup`, called by the very frame that catches: all that lies
/// below has been unwound. Without this, a thread that does nothing more would never tell.
#[inline(always)]
pub fn panic_caught(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit)?;
    thread.heal_up_to::<MAX_DEPTH>(hit, hit.rsp() + 1);
    Some(())
}

/// Entry of a plain function.
#[inline(always)]
pub fn call_enter(hit: &Hit, cookie: Cookie) -> Option<()> {
    let thread = thread::get(hit)?;
    let rsp = hit.rsp();
    thread.heal(hit, rsp + 1);
    let ret = read::<u64>(rsp)?;
    let (id, sent) = emit_start(hit, thread, cookie.fn_id(), rsp, false);
    let frame = Frame {
        rsp,
        ret,
        this: rsp,
        id,
        since: hit.now,
        fn_id: cookie.fn_id(),
        kind: kind::CALL,
        flags: if sent { 0 } else { frame_flags::LOST },
        panics: thread.panics,
    };
    if !thread.push(&frame) && sent {
        emit_end(hit, cookie.fn_id(), id, 0, 0, EndHow::Vanished, false);
    }
    Some(())
}

/// Behind a call of a plain function, or on its `ret`.
#[inline(always)]
pub fn call_exit(hit: &Hit, cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit)?;
    let entered_at = task::future_entry_rsp(hit, cookie);
    thread.heal(hit, entered_at);
    let top = thread.top()?;
    if top.kind != kind::CALL || top.rsp != entered_at || top.fn_id != cookie.fn_id() {
        count(Counter::StrayExits);
        return None;
    }
    let frame = *top;
    thread.pop();
    end_call(hit, &frame, EndHow::Returned, false);
    Some(())
}

/// A plain function's frame is gone without its exit having been seen.
#[inline(always)]
pub fn call_vanished(hit: &Hit, frame: &Frame, unwound: bool) {
    end_call(hit, frame, if unwound { EndHow::Panicked } else { EndHow::Vanished }, true);
}

#[inline(always)]
fn end_call(hit: &Hit, frame: &Frame, how: EndHow, healed: bool) {
    if frame.flags & frame_flags::LOST == 0 {
        let busy = hit.now.saturating_sub(frame.since);
        emit_end(hit, frame.fn_id, frame.id, busy, 1, how, healed);
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
