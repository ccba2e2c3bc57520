//! HTTP/1 exchanges on connections, whatever carries them: a request, then its response.
//!
//! What a connection is used for follows from its first bytes: a request's head that is written
//! makes it a client's, one that is read a server's. Anything else is left alone. Where a message
//! ends is for user space to judge; here an exchange lasts until the next one begins.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use tracer_ebpf::config::Config;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{Header, Kind, LeafKind, ParentSource, PayloadKind};

use crate::drops::count;
use crate::hit::{Hit, read};
use crate::{leaf, maps, task, thread, tls};

/// Who wrote the request.
mod role {
    /// We did.
    pub const CLIENT: u32 = 1;
    /// The peer did.
    pub const SERVER: u32 = 2;
}

/// The exchange under way on a connection.
#[derive(Clone, Copy)]
#[repr(C)]
struct Exchange {
    id: u64,
    /// When bytes of the response were last read or written.
    last: u64,
    /// Bytes of the request so far.
    request: u64,
    /// Bytes of the response so far.
    response: u64,
    /// The task that serves it, and tokio's id of that.
    task: u64,
    task_id: u64,
    role: u32,
    /// Its body may be worth reading: a `POST`.
    posts: u32,
}

/// By `SSL *` or descriptor: no pointer is as small as a descriptor.
#[map]
static EXCHANGES: HashMap<u64, Exchange> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Shorter is no head.
const LEAST_HEAD: u32 = 16;

/// What is captured of a request and of its response, in bytes. A client's `POST` may be a model
/// call: the model stands anywhere in the one, the tokens at the end of the other.
const POSTED: (u64, u64) = (1 << 20, 4 << 20);
/// Of others: heads, and the framing of most bodies.
const OTHERS: (u64, u64) = (16 << 10, 64 << 10);

/// Parts that one call is captured in.
const PARTS: u64 = 8;
/// Bytes of each.
const PART: u64 = 4096;

/// Where the bytes of a call are.
#[derive(Clone, Copy)]
pub struct Bytes {
    /// Address of the bytes, or of an array of `iovec`.
    pub at: u64,
    /// Length of that array; 0: the bytes themselves.
    pub vectors: u64,
}

impl Bytes {
    /// One buffer.
    #[inline(always)]
    pub const fn flat(at: u64) -> Self {
        Self { at, vectors: 0 }
    }

    /// Address and length of a part, where `left` bytes are left.
    #[inline(always)]
    fn part(self, index: u64, left: u64) -> Option<(u64, u64)> {
        if self.vectors == 0 {
            let len = if index + 1 == PARTS || left < PART { left } else { PART };
            return Some((self.at + index * PART, len));
        }
        if index >= self.vectors {
            return None;
        }
        // `struct iovec`: base, length.
        let at = self.at + index * 16;
        let (base, len) = (read::<u64>(at)?, read::<u64>(at + 8)?);
        Some((base, if len < left { len } else { left }))
    }

    /// The first bytes, if they may be the head of a request; else 0.
    #[inline(always)]
    fn head(self, n: u32) -> u64 {
        let Some((at, len)) = self.part(0, u64::from(n)) else { return 0 };
        if len < u64::from(LEAST_HEAD) {
            return 0;
        }
        let word = read::<u64>(at).unwrap_or(0);
        if is_request(word) { word } else { 0 }
    }
}

const fn word(text: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*text)
}

/// Whether a text begins with a method of HTTP and a space.
#[inline(always)]
fn is_request(first: u64) -> bool {
    let first4 = first & 0xffff_ffff;
    let first5 = first & 0xff_ffff_ffff;
    first4 == word(b"GET \0\0\0\0")
        || first5 == word(b"POST \0\0\0")
        || first4 == word(b"PUT \0\0\0\0")
        || first5 == word(b"HEAD \0\0\0")
        || first & 0xff_ffff_ffff_ffff == word(b"DELETE \0")
        || first & 0xffff_ffff_ffff == word(b"PATCH \0\0")
        || first == word(b"OPTIONS ")
        || first == word(b"CONNECT ")
}

// Below, 0 stands for "none" and what is known of a connection stays behind its pointer: an
// `Option` of either is passed on in registers that the compiler leaves unset where there is none,
// which the verifier refuses.

/// `n` bytes are about to be written, or have been. A request's head begins an exchange, unless
/// the request before is still being written. `None`: not ours.
#[inline(always)]
pub fn sending(hit: &Hit, key: u64, bytes: Bytes, n: u32, leaf: LeafKind) -> Option<()> {
    let known = EXCHANGES.get_ptr_mut(key);
    // SAFETY: a connection is used by one thread at a time; the entry stays valid.
    if known.is_some_and(|at| unsafe { (*at).role } == role::SERVER) {
        return Some(());
    }
    let first = bytes.head(n);
    if first == 0 {
        return known.map(|_| ());
    }
    let thread = thread::get(hit.at.tid)?;
    thread.heal(&hit.at, hit.rsp());
    let connection = thread.task();
    let asker = tls::asker(connection);
    if let Some(at) = known {
        // SAFETY: as above.
        if asker == 0 && unsafe { (*at).response } == 0 {
            // A body that looks like a head.
            return Some(());
        }
        finish(hit, key, at);
    }
    let (mut parent, mut source) = (0, ParentSource::Unknown);
    if asker == tls::NO_SPAN {
        source = ParentSource::Root;
    } else if asker != 0 {
        (parent, source) = (asker, ParentSource::Link);
    } else {
        let (id, found) = thread.current(hit);
        if found as u8 == ParentSource::Frame as u8 {
            (parent, source) = (id, found);
        }
    }
    tls::forget_connection(connection);
    let id = thread.fresh_id();
    if !leaf::start(hit, id, leaf, key, parent, source) {
        return None;
    }
    let posts = u32::from(first & 0xff_ffff_ffff == word(b"POST \0\0\0"));
    begin(hit, key, id, role::CLIENT, posts, 0, 0)
}

#[inline(always)]
fn begin(
    hit: &Hit,
    key: u64,
    id: u64,
    role: u32,
    posts: u32,
    task: u64,
    task_id: u64,
) -> Option<()> {
    let exchange =
        Exchange { id, last: hit.at.now, request: 0, response: 0, task, task_id, role, posts };
    if EXCHANGES.insert(key, exchange, 0).is_err() {
        count(Counter::LeavesFull);
        leaf::end(hit, id, hit.at.now, 0, -1);
        task::serve_end(task, task_id);
        return None;
    }
    Some(())
}

/// `n` bytes have been written.
#[inline(always)]
pub fn sent(hit: &Hit, key: u64, bytes: Bytes, n: u32) -> Option<()> {
    pass(hit, key, bytes, n, role::CLIENT)
}

/// `n` bytes have been read. A request's head begins an exchange, unless the one before has not
/// been answered at all: then it is served later, when nothing tells which is served.
#[inline(always)]
pub fn received(hit: &Hit, key: u64, bytes: Bytes, n: u32) -> Option<()> {
    let known = EXCHANGES.get_ptr_mut(key);
    // SAFETY: as in `sending`.
    let may_begin =
        known.is_none_or(|at| unsafe { (*at).role == role::SERVER && (*at).response != 0 });
    if may_begin && bytes.head(n) != 0 {
        if let Some(at) = known {
            finish(hit, key, at);
        }
        let thread = thread::get(hit.at.tid)?;
        thread.heal(&hit.at, hit.rsp());
        let task = thread.task();
        let id = thread.fresh_id();
        if !leaf::serve(hit, id, key, task) {
            return None;
        }
        let task_id = task::serve_begin(task, id);
        begin(hit, key, id, role::SERVER, 0, task, task_id)?;
    } else if known.is_none() {
        return None;
    }
    pass(hit, key, bytes, n, role::SERVER)
}

/// Hands on `n` bytes, which are of the request if `requester` is who wrote it.
#[inline(always)]
fn pass(hit: &Hit, key: u64, bytes: Bytes, n: u32, requester: u32) -> Option<()> {
    let size = u64::from(n) << 32 | u64::from(requester);
    pass_bytes(hit.at.tid.into(), hit.at.now, key, bytes.at, size | bytes.vectors << 8 & 0xff00);
    Some(())
}

/// Hands on bytes of an exchange, part by part. `size`: how many (bits 32–63), how many `iovec`s
/// (8–15), whose request they would be part of (0–7). A global function: the verifier checks it
/// once.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn pass_bytes(tid: u64, now: u64, key: u64, at: u64, size: u64) -> u64 {
    let (n, vectors, requester) = (size >> 32, size >> 8 & 0xff, size as u32 & 0xff);
    let Some(exchange) = EXCHANGES.get_ptr_mut(key) else { return 0 };
    // SAFETY: as in `sending`.
    let exchange = unsafe { &mut *exchange };
    let (request, response) = if exchange.posts != 0 { POSTED } else { OTHERS };
    let (what, offset, budget);
    if exchange.role == requester {
        (what, offset, budget) = (PayloadKind::Request, exchange.request, request);
        exchange.request += n;
    } else {
        (what, offset, budget) = (PayloadKind::Response, exchange.response, response);
        exchange.response += n;
        exchange.last = now;
    }
    let Some(config) = maps::config() else { return 0 };
    if config.capture & Config::CAPTURE_TLS == 0 {
        return 0;
    }
    let Some(head) = leaf::scratch(tid as u32) else { return 0 };
    // SAFETY: the scratch record is this thread's own.
    unsafe {
        (*head).header = Header {
            kind: Kind::Payload as u8,
            flags: 0,
            fn_id: 0,
            tid: tid as u32,
            ts: now,
            id: exchange.id,
        };
        (*head).key = key;
        (*head).offset = offset;
        (*head).what = what as u8;
        (*head).reserved = 0;
    }
    let bytes = Bytes { at, vectors };
    let mut left = n;
    for index in 0..PARTS {
        if left == 0 {
            break;
        }
        let Some((at, len)) = bytes.part(index, left) else { break };
        if len != 0 {
            let most = budget.saturating_sub(offset + n - left);
            leaf::capture_part(tid, at, len, most);
            left -= len;
        }
    }
    left
}

/// The connection is closed.
#[inline(always)]
pub fn closed(hit: &Hit, key: u64) -> Option<()> {
    finish(hit, key, EXCHANGES.get_ptr_mut(key)?);
    Some(())
}

/// An exchange is over.
#[inline(always)]
fn finish(hit: &Hit, key: u64, exchange: *const Exchange) {
    // SAFETY: as in `sending`; everything is read before the entry may be used again.
    let Exchange { id, last, response, task, task_id, .. } = unsafe { *exchange };
    let _ = EXCHANGES.remove(key);
    task::serve_end(task, task_id);
    leaf::end(hit, id, last, response as u32, -1);
}
