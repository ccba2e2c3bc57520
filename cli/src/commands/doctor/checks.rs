//! What the facts mean.

use std::borrow::Cow;

use serde::Serialize;

use super::facts::Facts;
use crate::engine::Feature;

/// How serious it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing to do.
    Ok,
    /// Tracing works, but not in every case or not as well.
    Limited,
    /// Tracing cannot work.
    Problem,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: Cow<'static, str>,
    /// How serious it is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do.
    pub remedy: Option<String>,
}

/// A capability, its number (`linux/capability.h`), and what it is for.
const CAPABILITIES: [(&str, u8, bool, &str); 5] = [
    ("CAP_BPF", 39, true, "load BPF programs"),
    ("CAP_PERFMON", 38, true, "attach them to probes"),
    ("CAP_SYS_PTRACE", 19, true, "look into processes of other users"),
    ("CAP_CHECKPOINT_RESTORE", 40, false, "trace programs and libraries replaced on disk"),
    ("CAP_DAC_READ_SEARCH", 2, false, "read programs whose mode forbids it"),
];
const SYS_ADMIN: u8 = 21;

/// Judges the facts and what was tried out.
pub fn evaluate(facts: &Facts, features: &[Feature]) -> Vec<Check> {
    let mut checks = vec![kernel(facts), btf(facts), capabilities(facts)];
    checks.extend(facts.lockdown.as_deref().map(lockdown));
    checks.push(unprivileged(facts));
    checks.extend(perf(facts));
    checks.extend(ptrace(facts));
    checks.push(memlock(facts));
    checks.push(surroundings(facts));
    checks.extend(features.iter().map(feature));
    checks
}

fn check(name: &'static str, status: Status, found: impl Into<String>) -> Check {
    Check { name: name.into(), status, found: found.into(), remedy: None }
}

fn but(mut check: Check, remedy: impl Into<String>) -> Check {
    check.remedy = Some(remedy.into());
    check
}

/// What works is tried out, not derived from the version: this one is for orientation.
fn kernel(facts: &Facts) -> Check {
    let found = format!("Linux {} on {}", facts.kernel, facts.machine);
    let mut numbers = facts.kernel.split(['.', '-', '+']).map(|part| part.parse::<u32>().ok());
    let version = (numbers.next().flatten(), numbers.next().flatten());
    match version {
        (Some(major), Some(minor)) if (major, minor) < (5, 15) => but(
            check("kernel", Status::Problem, found),
            "BPF cookies for uprobes need Linux 5.15; from 6.6 on attaching takes milliseconds",
        ),
        _ if !matches!(facts.machine.as_str(), "x86_64" | "aarch64") => {
            but(check("kernel", Status::Problem, found), "x86-64 and arm64 are supported")
        }
        _ => check("kernel", Status::Ok, found),
    }
}

fn btf(facts: &Facts) -> Check {
    match facts.btf_bytes {
        Some(bytes) if bytes > 0 => {
            check("BTF", Status::Ok, format!("/sys/kernel/btf/vmlinux, {} KiB", bytes / 1024))
        }
        _ => but(
            check("BTF", Status::Problem, "/sys/kernel/btf/vmlinux is not there"),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y (every large distribution's is); in a \
             container, mount /sys",
        ),
    }
}

fn capabilities(facts: &Facts) -> Check {
    let Some(effective) = facts.capabilities else {
        let remedy = "mount /proc";
        return but(
            check("capabilities", Status::Problem, "/proc/self/status: unreadable"),
            remedy,
        );
    };
    let has = |number: u8| effective & (1 << number) != 0;
    // CAP_SYS_ADMIN stands for CAP_BPF, CAP_PERFMON and CAP_CHECKPOINT_RESTORE.
    let granted = |number: u8| has(number) || (matches!(number, 38..=40) && has(SYS_ADMIN));
    let missing = |needed: bool| {
        CAPABILITIES.iter().filter(move |(_, n, required, _)| *required == needed && !granted(*n))
    };
    let names = |needed| missing(needed).map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
    let reasons = |needed| {
        let each = missing(needed).map(|(name, _, _, why)| format!("{name} to {why}"));
        each.collect::<Vec<_>>().join(", ")
    };
    if missing(true).next().is_some() {
        return but(
            check("capabilities", Status::Problem, format!("without {}", names(true))),
            format!("run as root, or give it {}", reasons(true)),
        );
    }
    if missing(false).next().is_some() {
        return but(
            check("capabilities", Status::Limited, format!("without {}", names(false))),
            format!("only where needed: {}", reasons(false)),
        );
    }
    let admin = if has(SYS_ADMIN) { ", CAP_SYS_ADMIN" } else { "" };
    let all: Vec<&str> = CAPABILITIES.iter().map(|(name, ..)| *name).collect();
    check("capabilities", Status::Ok, format!("{}{admin}", all.join(", ")))
}

fn lockdown(mode: &str) -> Check {
    match mode {
        "none" => check("lockdown", Status::Ok, "off"),
        "integrity" => check("lockdown", Status::Ok, "integrity: reading is allowed"),
        mode => but(
            check("lockdown", Status::Problem, format!("{mode}: BPF may not read memory")),
            "boot with lockdown=integrity, or without Secure Boot's confidentiality mode",
        ),
    }
}

fn unprivileged(facts: &Facts) -> Check {
    let found = match facts.unprivileged_bpf_disabled {
        Some(0) => "unprivileged BPF is allowed (not needed)",
        Some(_) => "unprivileged BPF is off, which is fine with capabilities",
        None => "kernel.unprivileged_bpf_disabled: not there",
    };
    check("BPF", Status::Ok, found)
}

fn perf(facts: &Facts) -> Option<Check> {
    let level = facts.perf_event_paranoid?;
    let privileged = facts.capabilities.is_some_and(|caps| caps & (1 << SYS_ADMIN | 1 << 38) != 0);
    let found = format!("kernel.perf_event_paranoid = {level}");
    Some(if level > 2 && !privileged {
        let remedy = "CAP_PERFMON, or `sysctl kernel.perf_event_paranoid=2`";
        but(check("perf events", Status::Problem, found), remedy)
    } else {
        check("perf events", Status::Ok, found)
    })
}

fn ptrace(facts: &Facts) -> Option<Check> {
    let scope = facts.ptrace_scope?;
    let capable = facts.capabilities.is_some_and(|caps| caps & (1 << 19) != 0);
    let found = format!("kernel.yama.ptrace_scope = {scope}");
    Some(match scope {
        0 => check("ptrace scope", Status::Ok, found),
        // Looking at /proc/PID/exe is not attaching: CAP_SYS_PTRACE suffices also at 3.
        _ if capable => check("ptrace scope", Status::Ok, found + ", CAP_SYS_PTRACE overrides it"),
        _ => but(check("ptrace scope", Status::Limited, found), "CAP_SYS_PTRACE"),
    })
}

fn memlock(facts: &Facts) -> Check {
    match facts.memlock {
        None => check("memory limit", Status::Ok, "unlimited"),
        Some(bytes) => check(
            "memory limit",
            Status::Ok,
            format!("memlock {} KiB; BPF memory counts against the cgroup instead", bytes / 1024),
        ),
    }
}

fn surroundings(facts: &Facts) -> Check {
    let cgroup = facts.cgroup.as_deref().unwrap_or("unknown");
    if !facts.nested_pid_namespace {
        return check("surroundings", Status::Ok, format!("host, cgroup {cgroup}"));
    }
    let found = format!("a pid namespace of its own, cgroup {cgroup}");
    if facts.sees_others {
        check("surroundings", Status::Ok, found)
    } else {
        let remedy = "processes outside are traced from a container with --pid=host";
        but(check("surroundings", Status::Limited, found), remedy)
    }
}

fn feature(feature: &Feature) -> Check {
    let Feature { name, works, required, detail, remedy } = feature;
    let status = match (works, required) {
        (true, _) => Status::Ok,
        (false, false) => Status::Limited,
        (false, true) => Status::Problem,
    };
    let name = Cow::from(name.clone());
    Check { name, status, found: detail.clone(), remedy: remedy.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            kernel: "6.18.1-generic".to_owned(),
            machine: "x86_64".to_owned(),
            btf_bytes: Some(5 << 20),
            capabilities: Some(0x1ff_ffff_ffff),
            lockdown: Some("none".to_owned()),
            ptrace_scope: Some(1),
            unprivileged_bpf_disabled: Some(2),
            perf_event_paranoid: Some(4),
            memlock: Some(8 << 20),
            cgroup: Some("/user.slice".to_owned()),
            nested_pid_namespace: false,
            sees_others: true,
        }
    }

    fn status(facts: &Facts, name: &str) -> (Status, Option<String>) {
        let checks = evaluate(facts, &[]);
        let check = checks.iter().find(|check| check.name == name).unwrap();
        (check.status, check.remedy.clone())
    }

    #[test]
    fn root_on_a_recent_kernel() {
        let checks = evaluate(&good(), &[]);
        assert!(checks.iter().all(|check| check.status == Status::Ok), "{checks:#?}");
    }

    #[test]
    fn every_problem_has_a_remedy() {
        let worst = Facts {
            kernel: "5.4.0".to_owned(),
            btf_bytes: None,
            capabilities: Some(0),
            lockdown: Some("confidentiality".to_owned()),
            nested_pid_namespace: true,
            sees_others: false,
            ..good()
        };
        let checks = evaluate(&worst, &[]);
        let bad: Vec<_> = checks.iter().filter(|check| check.status != Status::Ok).collect();
        assert_eq!(bad.len(), 7, "{bad:#?}");
        assert!(bad.iter().all(|check| check.remedy.is_some()));
    }

    #[test]
    fn capabilities_by_name() {
        let with = |numbers: &[u8]| {
            let bits = numbers.iter().fold(0, |bits, n| bits | 1u64 << n);
            status(&Facts { capabilities: Some(bits), ..good() }, "capabilities")
        };
        let (found, remedy) = with(&[38]);
        assert_eq!(found, Status::Problem);
        let remedy = remedy.unwrap();
        assert!(remedy.contains("CAP_BPF") && remedy.contains("CAP_SYS_PTRACE"), "{remedy}");
        assert!(!remedy.contains("CAP_PERFMON"), "{remedy}");
        assert_eq!(with(&[38, 39, 19]).0, Status::Limited);
        assert_eq!(with(&[21, 19, 2]).0, Status::Ok);
        assert_eq!(with(&[38, 39, 40, 19, 2]).0, Status::Ok);
    }

    #[test]
    fn what_was_tried_out_counts() {
        let feature = |works, required| Feature {
            name: "uprobe_multi".to_owned(),
            works,
            required,
            detail: "tried".to_owned(),
            remedy: None,
        };
        let last = |f| evaluate(&good(), &[f]).pop().unwrap().status;
        assert_eq!(last(feature(true, true)), Status::Ok);
        assert_eq!(last(feature(false, false)), Status::Limited);
        assert_eq!(last(feature(false, true)), Status::Problem);
    }
}
