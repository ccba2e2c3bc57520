//! What this machine and this process are.

use std::fs;
use std::path::Path;

/// Everything that `doctor` judges, as read; `None`: could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    /// Size of `/sys/kernel/btf/vmlinux`.
    pub btf_bytes: Option<u64>,
    /// Effective capabilities of this process.
    pub capabilities: Option<u64>,
    /// The mode in brackets in `/sys/kernel/security/lockdown`.
    pub lockdown: Option<String>,
    /// `kernel.yama.ptrace_scope`.
    pub ptrace_scope: Option<i64>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<i64>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i64>,
    /// Soft limit of locked memory; `None` here: unlimited.
    pub memlock: Option<u64>,
    /// This process's cgroup, version 2 where there is one.
    pub cgroup: Option<String>,
    /// This process is in a pid namespace of its own.
    pub nested_pid_namespace: bool,
    /// `/proc/1` can be looked into.
    pub sees_others: bool,
}

impl Facts {
    /// Reads them.
    pub fn read() -> Self {
        let uname = rustix::system::uname();
        let sysctl = |name: &str| {
            fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).ok()?.trim().parse().ok()
        };
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            machine: uname.machine().to_string_lossy().into_owned(),
            btf_bytes: fs::metadata("/sys/kernel/btf/vmlinux").ok().map(|found| found.len()),
            capabilities: fs::read_to_string("/proc/self/status").ok().and_then(|s| cap_eff(&s)),
            lockdown: fs::read_to_string("/sys/kernel/security/lockdown")
                .ok()
                .and_then(|text| bracketed(&text)),
            ptrace_scope: sysctl("yama/ptrace_scope"),
            unprivileged_bpf_disabled: sysctl("unprivileged_bpf_disabled"),
            perf_event_paranoid: sysctl("perf_event_paranoid"),
            memlock: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
            cgroup: fs::read_to_string("/proc/self/cgroup").ok().and_then(|s| cgroup(&s)),
            // The inode of the initial pid namespace is fixed (include/linux/proc_ns.h).
            nested_pid_namespace: fs::read_link("/proc/self/ns/pid")
                .is_ok_and(|link| link.as_os_str() != "pid:[4026531836]"),
            sees_others: fs::read_link("/proc/1/exe").is_ok(),
        }
    }
}

fn cap_eff(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// `none [integrity] confidentiality` → `integrity`.
fn bracketed(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn cgroup(text: &str) -> Option<String> {
    let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
    let unified = text.lines().find(|line| line.starts_with("0::"));
    unified.or_else(|| text.lines().next()).and_then(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_proc() {
        assert_eq!(cap_eff("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(bracketed("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(bracketed("nothing"), None);
        assert_eq!(cgroup("12:cpu:/a\n0::/b/c\n").as_deref(), Some("/b/c"));
        assert_eq!(cgroup("12:cpu,x:/a\n").as_deref(), Some("/a"));
        assert_eq!(cgroup(""), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let facts = Facts::read();
        assert!(!facts.kernel.is_empty());
        assert!(facts.capabilities.is_some());
    }
}
