//! TLS requests, and the proven link from hyper's connection task to the future that asked.
//!
//! `send_request_retryable` runs in the asking task; the next wake on that thread within the same
//! poll names the connection task; that task's next `SSL_write` is the request.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::LeafKind;

use crate::drops::count;
use crate::exchange::{self, Bytes};
use crate::future::certain;
use crate::hit::{self, Hit};
use crate::task;
use crate::thread::{self, Frame, kind};

/// `SSL_*_ex`: the length is returned through the fourth argument.
const EX: u8 = 1;

/// Stands for "asked outside any span" where 0 means that nobody asked.
pub const NO_SPAN: u64 = u64::MAX;

/// Askers by the connection task's `Header`.
#[map]
static ASKERS: HashMap<u64, u64> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// A connection task is gone.
#[inline(always)]
pub fn forget_connection(header: u64) {
    let _ = ASKERS.remove(header);
}

/// A request is handed over on this thread.
#[inline(always)]
pub fn http_send(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::get(hit.at.tid)?;
    thread.heal(&hit.at, hit.rsp());
    thread.set_handover(match certain(thread.current(hit)) {
        Some(0) => NO_SPAN,
        Some(id) => id,
        None => 0,
    });
    Some(())
}

/// `wake_by_val`, `wake_by_ref`: rdi is the `Header` of the task that is woken.
#[inline(always)]
pub fn wake(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit.at.tid)?;
    let asker = thread.handover();
    if asker == 0 {
        return None;
    }
    thread.set_handover(0);
    if ASKERS.insert(hit.rdi(), asker, 0).is_err() {
        count(Counter::LeavesFull);
    }
    Some(())
}

/// Who asked the connection of this task for its next request; 0: nobody.
#[inline(always)]
pub fn asker(connection: u64) -> u64 {
    // SAFETY: entries are single words.
    unsafe { ASKERS.get(connection) }.map_or(0, |asker| *asker)
}

/// `SSL_write(ssl, buf, num)`, `SSL_write_ex(ssl, buf, num, written)`.
#[inline(always)]
pub fn write(hit: &Hit, cookie: Cookie) -> Option<()> {
    let bytes = Bytes::flat(hit.rsi());
    let n = if hit.rdx() > 1 << 30 { 1 << 30 } else { hit.rdx() as u32 };
    if exchange::sending(hit, hit.rdi(), bytes, n, LeafKind::TlsRequest).is_none() {
        count(Counter::NotHttp);
        return None;
    }
    enter(hit, cookie)
}

/// `SSL_read(ssl, buf, num)`, `SSL_read_ex(ssl, buf, num, readbytes)`.
#[inline(always)]
pub fn read(hit: &Hit, cookie: Cookie) -> Option<()> {
    enter(hit, cookie)
}

/// How much is read or written, is known when the call returns.
#[inline(always)]
fn enter(hit: &Hit, cookie: Cookie) -> Option<()> {
    let thread = thread::get(hit.at.tid)?;
    let rsp = hit.rsp();
    thread.heal(&hit.at, rsp + 1);
    let out = hit.rcx();
    let frame = Frame {
        rsp,
        ret: 0,
        task: 0,
        this: hit.rdi(),
        id: hit.rsi(),
        since: if cookie.arg() == EX { out } else { 0 },
        fn_id: 0,
        kind: kind::LIBRARY,
        flags: 0,
        panics: 0,
    };
    thread.push(&frame);
    Some(())
}

/// The call that returns here, and how many bytes it moved.
#[inline(always)]
fn leave(hit: &Hit, cookie: Cookie) -> Option<(Frame, u32)> {
    let thread = thread::known(hit.at.tid)?;
    let entered_at = task::future_entry_rsp(hit, cookie);
    thread.heal(&hit.at, entered_at);
    let top = thread.top()?;
    if top.kind != kind::LIBRARY || top.rsp != entered_at {
        count(Counter::StrayExits);
        return None;
    }
    let frame = top;
    thread.pop();
    let result = hit.rax() as i32;
    if result <= 0 {
        return None;
    }
    let n = if cookie.arg() == EX { hit::read::<u64>(frame.since)? } else { result as u64 };
    (n <= 1 << 30).then_some((frame, n as u32))
}

/// On the `ret` of `SSL_write`, `SSL_write_ex`.
#[inline(always)]
pub fn write_exit(hit: &Hit, cookie: Cookie) -> Option<()> {
    let (frame, n) = leave(hit, cookie)?;
    exchange::sent(hit, frame.this, Bytes::flat(frame.id), n)
}

/// On the `ret` of `SSL_read`, `SSL_read_ex`.
#[inline(always)]
pub fn read_exit(hit: &Hit, cookie: Cookie) -> Option<()> {
    let (frame, n) = leave(hit, cookie)?;
    exchange::received(hit, frame.this, Bytes::flat(frame.id), n)
}

/// `SSL_free`: rdi is the connection.
#[inline(always)]
pub fn free(hit: &Hit, _cookie: Cookie) -> Option<()> {
    exchange::closed(hit, hit.rdi())
}
