//! The scheduler's tracepoints, for the children of the target. Where they cannot be had, tracing
//! goes on without `process` spans, and says so.

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::RawTracePoint;
use aya::programs::raw_trace_point::RawTracePointLink;
use tracer_ebpf::config::KernelOffsets;

use super::btf::Btf;

/// Programs and the tracepoints that they run at.
const PROGRAMS: [(&str, &str); 3] = [
    ("process_fork", "sched_process_fork"),
    ("process_exec", "sched_process_exec"),
    ("process_exit", "sched_process_exit"),
];

/// Links to the tracepoints; each goes when dropped.
pub(super) struct Processes {
    _links: Vec<RawTracePointLink>,
}

/// [`KernelOffsets`] as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct WireOffsets(KernelOffsets);
// SAFETY: `repr(C)`, integers only, no padding.
unsafe impl aya::Pod for WireOffsets {}

impl Processes {
    /// Attaches, or logs why not.
    pub(super) fn attach(ebpf: &mut Ebpf) -> Option<Self> {
        match Self::try_attach(ebpf) {
            Ok(processes) => Some(processes),
            Err(why) => {
                tracing::warn!("child processes are not shown: {why}");
                None
            }
        }
    }

    fn try_attach(ebpf: &mut Ebpf) -> Result<Self, String> {
        let offsets = kernel_offsets(&Btf::of_kernel()?)?;
        let map = ebpf.map_mut("KERNEL").ok_or("the eBPF object has no map `KERNEL`")?;
        let mut table: Array<&mut MapData, WireOffsets> =
            map.try_into().map_err(|error| format!("map `KERNEL`: {error}"))?;
        table.set(0, WireOffsets(offsets), 0).map_err(|error| format!("map `KERNEL`: {error}"))?;
        let mut links = Vec::with_capacity(PROGRAMS.len());
        for (name, tracepoint) in PROGRAMS {
            let failed = |error: aya::programs::ProgramError| {
                format!("the program `{name}` at the tracepoint {tracepoint}: {error}")
            };
            let program: &mut RawTracePoint = ebpf
                .program_mut(name)
                .and_then(|program| program.try_into().ok())
                .ok_or_else(|| format!("the eBPF object has no program `{name}`"))?;
            program.load().map_err(failed)?;
            let id = program.attach(tracepoint).map_err(failed)?;
            links.push(program.take_link(id).map_err(failed)?);
        }
        Ok(Self { _links: links })
    }
}

fn kernel_offsets(btf: &Btf) -> Result<KernelOffsets, String> {
    let at = |of: &str, path: &str| btf.offset(of, path).map(|(offset, _)| offset);
    Ok(KernelOffsets {
        task_pid: at("task_struct", "pid")?,
        task_tgid: at("task_struct", "tgid")?,
        task_thread_pid: at("task_struct", "thread_pid")?,
        task_signal: at("task_struct", "signal")?,
        task_exit_code: at("task_struct", "exit_code")?,
        task_mm: at("task_struct", "mm")?,
        pid_level: at("pid", "level")?,
        pid_numbers: at("pid", "numbers")?,
        upid_size: btf.size("upid")?,
        signal_live: at("signal_struct", "live")?,
        signal_group_exit_code: at("signal_struct", "group_exit_code")?,
        mm_exe_file: at("mm_struct", "exe_file")?,
        file_dentry: at("file", "f_path.dentry")?,
        dentry_name: at("dentry", "d_name.name")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_says_where_its_fields_are() {
        let Ok(btf) = Btf::of_kernel() else { return };
        let found = kernel_offsets(&btf).unwrap();
        // `pid` and `tgid` are two numbers side by side; a upid is a number and a pointer.
        assert_eq!(found.task_tgid, found.task_pid + 4);
        assert_eq!(found.upid_size, 16);
    }
}
