//! HTTP on the target's own sockets, through libc's functions.
//!
//! The probes sit behind the system calls, where descriptor, buffer and result are all still in
//! registers: one hit for each call, on an instruction that the kernel emulates.

use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::event::LeafKind;

use crate::exchange::{self, Bytes};
use crate::hit::Hit;

/// The buffer is an array of `iovec`.
const VECTORS: u8 = 1;

#[inline(always)]
fn bytes(hit: &Hit, cookie: Cookie) -> Bytes {
    // Both are read before one is chosen: the verifier refuses a computed context address.
    let (at, count) = (hit.rsi(), if hit.rdx() > 255 { 255 } else { hit.rdx() });
    Bytes { at, vectors: if cookie.arg() == VECTORS { count } else { 0 } }
}

/// How many bytes a call moved, if any.
#[inline(always)]
fn moved(hit: &Hit) -> Option<u32> {
    let result = hit.rax() as i64;
    (result > 0 && result <= 1 << 30).then_some(result as u32)
}

#[inline(always)]
fn key(hit: &Hit) -> u64 {
    hit.rdi() & 0xffff_ffff
}

/// Behind the system call of `send`, `sendto`, `writev`.
#[inline(always)]
pub fn sent(hit: &Hit, cookie: Cookie) -> Option<()> {
    let n = moved(hit)?;
    let (key, bytes) = (key(hit), bytes(hit, cookie));
    exchange::sending(hit, key, bytes, n, LeafKind::ClientRequest)?;
    exchange::sent(hit, key, bytes, n)
}

/// Behind the system call of `recv`, `recvfrom`, `readv`.
#[inline(always)]
pub fn received(hit: &Hit, cookie: Cookie) -> Option<()> {
    let n = moved(hit)?;
    exchange::received(hit, key(hit), bytes(hit, cookie), n)
}

/// `close`: at its entry, as the descriptor may belong to somebody else behind the call.
#[inline(always)]
pub fn closed(hit: &Hit, _cookie: Cookie) -> Option<()> {
    exchange::closed(hit, key(hit))
}
