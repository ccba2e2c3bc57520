//! One hit of a probe: whose it is, when, and the registers there.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_pidns_info, pt_regs};
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::helpers::generated::{bpf_get_ns_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::programs::ProbeContext;
use tracer_ebpf::config::Config;
use tracer_ebpf::counters::Counter;

use crate::drops::count;
use crate::maps;

/// When and on which thread.
#[derive(Clone, Copy)]
pub struct Moment {
    /// Thread id in the target's pid namespace.
    pub tid: u32,
    /// `CLOCK_MONOTONIC`, ns.
    pub now: u64,
}

impl Moment {
    /// Now and here, if this is a thread of the target.
    #[inline(always)]
    pub fn of(config: &Config) -> Option<Self> {
        let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
        // SAFETY: `ids` is as large as said.
        let foreign = unsafe {
            bpf_get_ns_current_pid_tgid(
                config.ns_dev,
                config.ns_ino,
                &raw mut ids,
                size_of::<bpf_pidns_info>() as u32,
            )
        } != 0;
        if foreign || ids.tgid != config.tgid {
            return None;
        }
        // SAFETY: the helper has no preconditions.
        Some(Self { tid: ids.pid, now: unsafe { bpf_ktime_get_ns() } })
    }
}

/// A hit that concerns us.
pub struct Hit {
    /// Registers at the probed instruction.
    regs: *const pt_regs,
    /// When and on which thread.
    pub at: Moment,
}

impl Hit {
    /// Lets hits of the target pass while the session is active.
    #[inline(always)]
    pub fn admit(ctx: &ProbeContext) -> Option<Self> {
        let config = maps::config()?;
        if config.active == 0 {
            return None;
        }
        let Some(at) = Moment::of(config) else {
            count(Counter::ForeignHits);
            return None;
        };
        count(Counter::Hits);
        Some(Self { regs: ctx.as_ptr().cast(), at })
    }

    // Volatile, so that two reads are never merged into one through a computed address, which the
    // verifier refuses on a context.

    /// The stack pointer.
    #[inline(always)]
    pub fn rsp(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rsp).read_volatile() }
    }

    /// First integer argument.
    #[inline(always)]
    pub fn rdi(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rdi).read_volatile() }
    }

    /// Second integer argument.
    #[inline(always)]
    pub fn rsi(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rsi).read_volatile() }
    }

    /// Third integer argument.
    #[inline(always)]
    pub fn rdx(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rdx).read_volatile() }
    }

    /// Fourth integer argument.
    #[inline(always)]
    pub fn rcx(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rcx).read_volatile() }
    }

    /// Integer result; meaningful on a `ret` only.
    #[inline(always)]
    pub fn rax(&self) -> u64 {
        // SAFETY: the context outlives the hit.
        unsafe { (&raw const (*self.regs).rax).read_volatile() }
    }
}

/// Reads a value of the target, or counts why not.
#[inline(always)]
pub fn read<T>(at: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a fault is an error.
    let value = unsafe { bpf_probe_read_user(at as *const T) };
    if value.is_err() {
        count(Counter::ReadFaults);
    }
    value.ok()
}
