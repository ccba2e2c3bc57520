//! Which threads were inside a probed function when tracing began.
//!
//! Such a thread has frames that were never seen, so an empty shadow stack proves nothing there.
//! Every thread is a suspect at first. One whose stack holds no address inside a probed function
//! cannot be in one, and is cleared: what it starts with an empty stack is a true root. A word
//! left over from an earlier call keeps a thread under suspicion, which costs a root its
//! certainty and nothing else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::plan::ProbePlan;

/// Threads looked at; what is beyond stays under suspicion.
pub(super) const MAX_THREADS: usize = 4096;

/// Bytes of one stack looked at. A deeper one keeps its thread under suspicion.
const MAX_STACK: u64 = 8 << 20;

/// The process's threads, by their ids in its own pid namespace, with their `/proc` directory.
pub(super) fn threads(pid: u32) -> Vec<(u32, std::path::PathBuf)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries
        .flatten()
        .take(MAX_THREADS)
        .filter_map(|entry| {
            let path = entry.path();
            Some((own_tid(&path)?, path))
        })
        .collect()
}

/// Last entry of `NSpid`: the id in the innermost namespace, which is the thread's own.
fn own_tid(task: &Path) -> Option<u32> {
    let status = fs::read_to_string(task.join("status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_ascii_whitespace().last()?.parse().ok()
}

/// Address ranges of the plan's functions in the live process.
pub(super) fn probed_ranges(pid: u32, plan: &ProbePlan) -> Vec<(u64, u64)> {
    let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else { return Vec::new() };
    let Some(module) = plan.modules.first() else { return Vec::new() };
    let name = module.name.to_string_lossy();
    let mut ranges = Vec::new();
    for line in maps.lines().filter(|line| line.contains(name.as_ref())) {
        let Some((start, end, offset)) = mapping(line) else { continue };
        let mapped = offset..offset + (end - start);
        for &(from, to) in &plan.code {
            if mapped.contains(&from) {
                ranges.push((start + (from - offset), start + (to - offset)));
            }
        }
    }
    ranges.sort_unstable();
    ranges
}

fn mapping(line: &str) -> Option<(u64, u64, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let offset = words.nth(1)?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some((hex(start)?, hex(end)?, hex(offset)?))
}

/// Whether the thread is certainly outside every probed function. It must be blocked: the stack
/// of a running thread changes while one looks at it.
pub(super) fn is_outside(pid: u32, task: &Path, ranges: &[(u64, u64)]) -> Option<()> {
    let sp = blocked_at(task)?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let end = maps.lines().find_map(|line| {
        let (start, end, _) = mapping(line)?;
        (start..end).contains(&sp).then_some(end)
    })?;
    if end - sp > MAX_STACK {
        return None;
    }
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut stack = vec![0; (end - sp) as usize];
    memory.read_exact_at(&mut stack, sp).ok()?;
    // Still blocked in the same call: then the stack was one stack.
    if blocked_at(task)? != sp {
        return None;
    }
    let found = stack.chunks_exact(8).any(|word| {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        let next = ranges.partition_point(|&(start, _)| start <= word);
        next > 0 && word < ranges[next - 1].1
    });
    (!found).then_some(())
}

/// The stack pointer of a thread that is blocked in a system call.
fn blocked_at(task: &Path) -> Option<u64> {
    let text = fs::read_to_string(task.join("syscall")).ok()?;
    let mut back = text.split_ascii_whitespace().rev();
    let _pc = back.next()?;
    u64::from_str_radix(back.next()?.strip_prefix("0x")?, 16).ok()
}
