//! The eBPF programs: thin entry points that name a hook and hand over to one probe family.
//!
//! The programs are generic. Which function was hit, and what to do about it, comes with the
//! probe's cookie and from tables that user space filled before switching them on.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "atomics on BPF: see atomic.rs")]
#![feature(core_intrinsics)]

mod atomic;
mod drops;
mod future;
mod heal;
mod hit;
mod leaf;
mod maps;
mod sqlite;
mod sqlx;
mod task;
mod thread;
mod tls;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_attach_cookie;
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use tracer_ebpf::cookie::Cookie;

use crate::hit::Hit;

/// Declares one uprobe program per hook: filter, then `try_*`.
macro_rules! hooks {
    ($($(#[$doc:meta])* $name:ident => $handler:path;)*) => {$(
        $(#[$doc])*
        #[uprobe]
        fn $name(ctx: ProbeContext) -> u32 {
            // SAFETY: the context is the one this program was started with.
            let cookie = Cookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
            if let Some(hit) = Hit::admit(&ctx) {
                // Whatever could not be done has been counted where it failed.
                let _: Option<()> = $handler(&hit, cookie);
            }
            0
        }
    )*};
}

hooks! {
    /// Entry of a coroutine's poll function.
    poll_enter => future::enter;
    /// Where a poll function has just returned.
    poll_exit => future::exit;
    /// Entry of a coroutine's drop glue.
    future_drop => future::dropped;
    /// Entry of a plain function.
    call_enter => future::call_enter;
    /// Where a plain function has just returned.
    call_exit => future::call_exit;
    /// A panic begins to unwind.
    panic_begin => future::panic_begin;
    /// A panic has been caught.
    panic_caught => future::panic_caught;
    /// Entry of tokio's `raw::poll`.
    task_enter => task::enter;
    /// Where `raw::poll` has just returned.
    task_exit => task::exit;
    /// A task is being spawned.
    task_spawn => task::spawn;
    /// Entry of `spawn_local`.
    local_spawn => task::local_spawn;
    /// A task of a `LocalSet` is scheduled.
    local_schedule => task::local_schedule;
    /// Entry of tokio's `raw::dealloc`.
    task_free => task::free;
    /// Entry of tokio's `raw::shutdown`.
    task_shutdown => task::shutdown;
    /// A task is woken.
    task_wake => tls::wake;
    /// A request is handed to an HTTP connection task.
    http_send => tls::http_send;
    /// Entry of `SSL_write`, `SSL_write_ex`.
    tls_write => tls::write;
    /// Entry of `SSL_read`, `SSL_read_ex`.
    tls_read => tls::read;
    /// Where `SSL_read`, `SSL_read_ex` have just returned.
    tls_read_exit => tls::read_exit;
    /// Entry of `SSL_free`.
    tls_free => tls::free;
    /// Entry of `sqlite3_step`.
    sql_step => sqlite::step;
    /// Where `sqlite3_step` has just returned.
    sql_step_exit => sqlite::step_exit;
    /// Entry of `sqlite3_reset`, `sqlite3_finalize`, `sqlite3VdbeDelete`.
    sql_reset => sqlite::reset;
    /// A result is sent by a SQLite worker.
    channel_send => sqlx::channel_send;
    /// A result is asked for.
    channel_recv => sqlx::channel_recv;
    /// A receive is over.
    channel_done => sqlx::channel_done;
    /// A channel's last sender or receiver is gone.
    channel_close => sqlx::channel_close;
    /// A oneshot channel has been made.
    reply_made => sqlx::reply_made;
    /// An answer is sent through a oneshot channel.
    reply_sent => sqlx::reply_sent;
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier refuses every program in which this could be reached.
    unsafe { core::hint::unreachable_unchecked() }
}

/// The helpers used are GPL-only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
