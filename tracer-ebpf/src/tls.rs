//! TLS requests, and the proven link from hyper's connection task to the future that asked.
//!
//! `send_request_retryable` runs in the asking task; the next wake on that thread within the same
//! poll names the connection task; that task's next `SSL_write` is the request.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use tracer_ebpf::config::Config;
use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{LeafKind, ParentSource, PayloadKind};

use crate::drops::count;
use crate::future::certain;
use crate::hit::{self, Hit};
use crate::thread::{self, Frame, kind};
use crate::{leaf, maps, task};

/// `SSL_*_ex`: the length is returned through the fourth argument.
const EX: u8 = 1;

/// Stands for "asked outside any span" where 0 means that nobody asked.
const NO_SPAN: u64 = u64::MAX;

/// Askers by the connection task's `Header`.
#[map]
static ASKERS: HashMap<u64, u64> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// The request under way on a connection.
#[derive(Clone, Copy)]
#[repr(C)]
struct Request {
    id: u64,
    /// When bytes were last read.
    last_read: u64,
    read_bytes: u64,
}

/// By `SSL *`.
#[map]
static REQUESTS: HashMap<u64, Request> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

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

/// `SSL_write(ssl, buf, num)`, `SSL_write_ex(ssl, buf, num, written)`.
#[inline(always)]
pub fn write(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let ssl = hit.rdi();
    let thread = thread::get(hit.at.tid)?;
    thread.heal(&hit.at, hit.rsp());
    let connection = thread.task();
    // SAFETY: entries are single words.
    let asker = unsafe { ASKERS.get(connection) }.copied();
    let under_way = REQUESTS.get_ptr(ssl).map(|at| {
        // SAFETY: OpenSSL connections are used by one thread at a time; the entry stays valid.
        unsafe { *at }
    });
    let id = match (asker, under_way) {
        // The rest of a request, such as its body.
        (None, Some(request)) if request.read_bytes == 0 => request.id,
        _ => {
            if let Some(request) = under_way {
                leaf::end(hit, request.id, request.last_read, request.read_bytes as u32, -1);
                let _ = REQUESTS.remove(ssl);
            }
            let (parent, source) = match asker {
                Some(NO_SPAN) => (0, ParentSource::Root),
                Some(id) => (id, ParentSource::Link),
                None => match thread.current(hit) {
                    found @ (_, ParentSource::Frame) => found,
                    _ => (0, ParentSource::Unknown),
                },
            };
            let _ = ASKERS.remove(connection);
            let id = thread.fresh_id();
            if !leaf::start(hit, id, LeafKind::TlsRequest, ssl, parent, source) {
                return None;
            }
            let request = Request { id, last_read: hit.at.now, read_bytes: 0 };
            if REQUESTS.insert(ssl, request, 0).is_err() {
                count(Counter::LeavesFull);
                leaf::end(hit, id, hit.at.now, 0, -1);
            }
            id
        }
    };
    if maps::config()?.capture & Config::CAPTURE_TLS != 0 {
        leaf::payload(hit, id, PayloadKind::TlsWrite, ssl, hit.rsi(), hit.rdx() as u32);
    }
    Some(())
}

/// `SSL_read(ssl, buf, num)`, `SSL_read_ex(ssl, buf, num, readbytes)`.
#[inline(always)]
pub fn read(hit: &Hit, cookie: Cookie) -> Option<()> {
    let thread = thread::get(hit.at.tid)?;
    let rsp = hit.rsp();
    thread.heal(&hit.at, rsp + 1);
    let out = if cookie.arg() == EX { hit.rcx() } else { 0 };
    let frame = Frame {
        rsp,
        ret: 0,
        task: 0,
        this: hit.rdi(),
        id: hit.rsi(),
        since: out,
        fn_id: 0,
        kind: kind::LIBRARY,
        flags: 0,
        panics: 0,
    };
    thread.push(&frame);
    Some(())
}

/// On the `ret` of `SSL_read`, `SSL_read_ex`.
#[inline(always)]
pub fn read_exit(hit: &Hit, cookie: Cookie) -> Option<()> {
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
    let len = if cookie.arg() == EX { hit::read::<u64>(frame.since)? } else { result as u64 };
    let request = REQUESTS.get_ptr_mut(frame.this)?;
    // SAFETY: as in `write`.
    let request = unsafe { &mut *request };
    request.last_read = hit.at.now;
    request.read_bytes += len;
    if maps::config()?.capture & Config::CAPTURE_TLS != 0 {
        leaf::payload(hit, request.id, PayloadKind::TlsRead, frame.this, frame.id, len as u32);
    }
    Some(())
}

/// `SSL_free`: rdi is the connection.
#[inline(always)]
pub fn free(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let ssl = hit.rdi();
    // SAFETY: as in `write`.
    let request = REQUESTS.get_ptr(ssl).map(|at| unsafe { *at })?;
    let _ = REQUESTS.remove(ssl);
    leaf::end(hit, request.id, request.last_read, request.read_bytes as u32, -1);
    Some(())
}
