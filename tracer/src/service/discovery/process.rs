//! What can be told of a process at the price of a system call or two.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use procfs::process::Process;

/// One program in one process: another one after `execve`, and when the id is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// When it started, in clock ticks after boot.
    start: u64,
    /// Device and inode of the program.
    program: (u64, u64),
}

/// Who has this id now; `None`: nobody, or it may not be looked at.
pub fn identity(pid: u32) -> Option<Identity> {
    let program = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    let stat = Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    Some(Identity { start: stat.starttime, program: (program.dev(), program.ino()) })
}

/// How long ago it started.
pub(super) fn age(proc: &Path, pid: u32) -> Option<Duration> {
    let stat = Process::new_with_root(proc.join(pid.to_string())).ok()?.stat().ok()?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let started = Duration::from_secs_f64(stat.starttime as f64 / ticks_per_second());
    let now = Duration::new(u64::try_from(now.tv_sec).ok()?, u32::try_from(now.tv_nsec).ok()?);
    Some(now.saturating_sub(started))
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Path of its executable as it sees it itself, without ` (deleted)`.
pub fn executable(process: &Path) -> Option<PathBuf> {
    let exe = fs::read_link(process.join("exe")).ok()?;
    match exe.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(exe),
    }
}

/// Whether its executable has this file name. `process` is its folder below `/proc`.
pub fn is_named(process: &Path, name: &str) -> bool {
    if let Some(exe) = executable(process) {
        return exe.file_name().is_some_and(|file| file == name);
    }
    // Not ours to read: the kernel's short name is at most 15 bytes of it.
    fs::read_to_string(process.join("comm")).is_ok_and(|comm| {
        let comm = comm.trim_end();
        comm == name || (comm.len() == 15 && name.starts_with(comm))
    })
}

/// Paths of its cgroups: one in a unified hierarchy, several in a hybrid one.
pub(super) fn cgroups(process: &Path) -> Vec<String> {
    let text = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::super::by_name;
    use super::*;

    #[test]
    fn by_executable_or_short_name() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: u32, exe: Option<&str>, comm: &str| {
            let dir = proc.path().join(pid.to_string());
            fs::create_dir(&dir).unwrap();
            if let Some(exe) = exe {
                std::os::unix::fs::symlink(exe, dir.join("exe")).unwrap();
            }
            fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
        };
        process(10, Some("/usr/bin/orchestrate"), "orchestrate");
        process(11, Some("/usr/bin/orchestrate (deleted)"), "tokio-rt-worker");
        process(12, Some("/usr/bin/other"), "orchestrate");
        process(13, None, "orchestrate");
        process(14, None, "orchestrate-tra");
        assert_eq!(by_name(proc.path(), "orchestrate", 1), [10, 11, 13]);
        assert_eq!(by_name(proc.path(), "orchestrate", 10), [11, 13]);
        assert_eq!(by_name(proc.path(), "orchestrate-trace", 1), [14]);
    }

    #[test]
    fn an_identity_lasts_as_long_as_the_program() {
        let own = std::process::id();
        assert!(identity(own).is_some());
        assert_eq!(identity(own), identity(own));
        assert_ne!(identity(own), identity(1));
        assert_eq!(identity(u32::MAX), None);
    }
}
