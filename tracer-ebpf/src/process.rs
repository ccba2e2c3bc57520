//! Child processes of the target: forked by one of its threads, until they end.
//!
//! The scheduler's tracepoints are passed by every process of the host, so what concerns others
//! ends after one comparison: a fork of another process, or an execution or an end of a process
//! that is not in [`CHILDREN`].

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, pt_regs, task_struct};
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_ktime_get_ns,
    bpf_probe_read_kernel_str, bpf_task_pt_regs,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::RawTracePointContext;
use tracer_ebpf::config::KernelOffsets;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{Kind, LeafEnd, LeafKind, ProcessExec};

use crate::drops::{count, emit_with};
use crate::hit::Moment;
use crate::{leaf, maps, thread};

/// Filled by user space before the programs are switched on.
#[map]
static KERNEL: Array<KernelOffsets> = Array::with_max_entries(1, 0);

/// Leaves by their process's id, as the kernel counts.
#[map]
static CHILDREN: HashMap<u32, u64> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Namespaces inside one another, at most (`MAX_PID_NS_LEVEL`).
const MAX_LEVEL: u32 = 32;

/// Reads a field of a kernel struct.
#[inline(always)]
fn field<T>(at: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address; a fault is an error.
    unsafe { bpf_probe_read_kernel((at + u64::from(offset)) as *const T) }.ok()
}

/// Arguments: the forking task and the new one.
#[inline(always)]
pub fn fork(ctx: &RawTracePointContext) -> Option<()> {
    let config = maps::config()?;
    if config.active == 0 {
        return None;
    }
    let at = Moment::of(config)?;
    let kernel = KERNEL.get(0)?;
    let (parent, child): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let pid = field::<u32>(child, kernel.task_pid)?;
    if pid != field::<u32>(child, kernel.task_tgid)? {
        // A thread of the target.
        return None;
    }
    // Its number in the namespace that the target lives in.
    let level_of = |task| {
        let pid = field::<u64>(task, kernel.task_thread_pid)?;
        Some((pid, field::<u32>(pid, kernel.pid_level)?))
    };
    let (_, level) = level_of(parent)?;
    let (numbers, deepest) = level_of(child)?;
    if level > deepest || level >= MAX_LEVEL {
        return None;
    }
    let number = field::<u32>(numbers, kernel.pid_numbers + level * kernel.upid_size)?;

    // SAFETY: the task that runs has registers for as long as the program runs.
    let rsp = unsafe {
        let task: *mut task_struct = bpf_get_current_task_btf();
        let regs = bpf_task_pt_regs(task) as *const pt_regs;
        bpf_probe_read_kernel(&raw const (*regs).rsp).ok()?
    };
    let thread = thread::get(at.tid)?;
    thread.heal(&at, rsp);
    let (span, source) = thread.current_at(&at, rsp);
    let id = thread.fresh_id();
    if !leaf::start_at(&at, id, LeafKind::Process, number.into(), span, source) {
        return None;
    }
    if CHILDREN.insert(pid, id, 0).is_err() {
        count(Counter::ProcessesFull);
        leaf::end_at(&at, id, at.now, LeafEnd::UNKNOWN, -1);
    }
    Some(())
}

/// The process that runs, if it is a child of the target, and its leaf.
#[inline(always)]
fn child() -> Option<(u32, u64)> {
    // SAFETY: the helper has no preconditions.
    let pid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    // SAFETY: entries are single words.
    let id = *unsafe { CHILDREN.get(pid) }?;
    Some((pid, id))
}

/// When something happens to a child. The thread is not the target's: none is named.
#[inline(always)]
fn moment() -> Moment {
    // SAFETY: the helper has no preconditions.
    Moment { tid: 0, now: unsafe { bpf_ktime_get_ns() } }
}

/// A program has been executed: the file is the new one.
#[inline(always)]
pub fn exec() -> Option<()> {
    let (_, id) = child()?;
    let kernel = KERNEL.get(0)?;
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() } as u64;
    let file = field::<u64>(field(task, kernel.task_mm)?, kernel.mm_exe_file)?;
    let name = field::<u64>(field(file, kernel.file_dentry)?, kernel.dentry_name)?;
    let at = moment();
    emit_with::<ProcessExec>(Counter::LostProcessExec, |record| {
        // SAFETY: `record` is reserved space of this type and every field is written.
        unsafe {
            (*record).header = leaf::header_at(&at, Kind::ProcessExec, 0, id);
            core::ptr::write_bytes(
                (*record).name.as_mut_ptr().cast::<u64>(),
                0,
                ProcessExec::CAPACITY / 8,
            );
            let to = (*record).name.as_mut_ptr().cast();
            bpf_probe_read_kernel_str(to, ProcessExec::CAPACITY as u32, name as *const _);
        }
    });
    Some(())
}

/// A thread has ended: the process too, if it was the last one.
#[inline(always)]
pub fn exit() -> Option<()> {
    let (pid, id) = child()?;
    let kernel = KERNEL.get(0)?;
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() } as u64;
    let signal = field::<u64>(task, kernel.task_signal)?;
    if field::<i32>(signal, kernel.signal_live)? > 0 {
        return None;
    }
    let _ = CHILDREN.remove(pid);
    let group = field::<i32>(signal, kernel.signal_group_exit_code)?;
    let status = if group != 0 { group } else { field(task, kernel.task_exit_code)? };
    let at = moment();
    leaf::end_at(&at, id, at.now, LeafEnd::UNKNOWN, status);
    Some(())
}
