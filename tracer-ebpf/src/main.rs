//! The eBPF program: one for all probes. What a hit means comes with the probe's cookie, which names
//! a hook, and from tables that user space filled before switching it on. Each family of hooks is a
//! file of its own.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "atomics on BPF: see atomic.rs")]
#![feature(core_intrinsics)]

mod atomic;
mod drops;
mod exchange;
mod fetch;
mod future;
mod heal;
mod hit;
mod leaf;
mod maps;
mod process;
mod socket;
mod sqlite;
mod sqlx;
mod task;
mod thread;
mod tls;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_attach_cookie;
use aya_ebpf::macros::{raw_tracepoint, uprobe};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext};
use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::hook::Hook;

use crate::hit::Hit;

/// Names the handler of each hook, and makes the one program that calls them.
macro_rules! handlers {
    ($($hook:ident => $handler:path;)*) => {
        /// What one hit leads to. A function of its own for each hook: each has the stack to itself.
        #[inline(always)]
        fn handle(hit: &Hit, cookie: Cookie) {
            $(
                if cookie.hook() == Hook::$hook as u8 {
                    #[inline(never)]
                    fn run(hit: &Hit, cookie: Cookie) -> u64 {
                        u64::from($handler(hit, cookie).is_some())
                    }
                    // Whatever could not be done has been counted where it failed.
                    let _: u64 = run(hit, cookie);
                    return;
                }
            )*
        }
    };
}

handlers! {
    PollEnter => future::enter;
    PollExit => future::exit;
    FutureDrop => future::dropped;
    CallEnter => future::call_enter;
    CallExit => future::call_exit;
    PanicBegin => future::panic_begin;
    PanicCaught => future::panic_caught;
    TaskEnter => task::enter;
    TaskExit => task::exit;
    TaskSpawn => task::spawn;
    LocalSpawn => task::local_spawn;
    LocalSchedule => task::local_schedule;
    TaskFree => task::free;
    TaskShutdown => task::shutdown;
    TaskWake => tls::wake;
    HttpSend => tls::http_send;
    TlsWrite => tls::write;
    TlsWriteExit => tls::write_exit;
    TlsRead => tls::read;
    TlsReadExit => tls::read_exit;
    TlsFree => tls::free;
    SocketSent => socket::sent;
    SocketReceived => socket::received;
    SocketClose => socket::closed;
    SqlStep => sqlite::step;
    SqlStepExit => sqlite::step_exit;
    SqlReset => sqlite::reset;
    ChannelSend => sqlx::channel_send;
    ChannelRecv => sqlx::channel_recv;
    ChannelDone => sqlx::channel_done;
    ChannelClose => sqlx::channel_close;
    ReplyMade => sqlx::reply_made;
    ReplySent => sqlx::reply_sent;
}

/// Every probe runs this: filter, then what the cookie names.
#[uprobe]
fn probe(ctx: ProbeContext) -> u32 {
    // SAFETY: the context is the one this program was started with.
    let cookie = Cookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    if let Some(hit) = Hit::admit(&ctx) {
        handle(&hit, cookie);
    }
    0
}

// Every process of the host passes these: each returns at once where it is none of the target's.

/// A process or a thread has been forked.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn process_fork(ctx: RawTracePointContext) -> i32 {
    let _: Option<()> = process::fork(&ctx);
    0
}

/// A program is being executed.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_exec(_ctx: RawTracePointContext) -> i32 {
    let _: Option<()> = process::exec();
    0
}

/// A thread has ended.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn process_exit(_ctx: RawTracePointContext) -> i32 {
    let _: Option<()> = process::exit();
    0
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
