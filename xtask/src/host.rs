//! What this machine has, and installing what it lacks.

use std::fs;
use std::process::Command;

use anyhow::{Result, bail};

use crate::sh;

/// Debian, or what descends from it: has apt.
pub fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| {
        line.strip_prefix("ID=")
            .or_else(|| line.strip_prefix("ID_LIKE="))
            .is_some_and(|value| value.contains("debian"))
    })
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and always succeeds.
    unsafe { libc::geteuid() == 0 }
}

/// Makes sure that processes can be traced here.
///
/// # Errors
/// Says what is missing: root, or a part of the kernel.
pub fn require_tracing() -> Result<()> {
    if !is_root() {
        bail!("tracing needs root: run this command with sudo, or in a root shell");
    }
    for (file, what) in [
        ("/sys/kernel/btf/vmlinux", "BTF (CONFIG_DEBUG_INFO_BTF)"),
        ("/sys/bus/event_source/devices/uprobe/type", "uprobes (CONFIG_UPROBE_EVENTS)"),
    ] {
        if fs::metadata(file).is_err() {
            bail!("this kernel has no {what}, or {file} is hidden here: nothing can be traced");
        }
    }
    Ok(())
}

/// Installs those of `packages` that are missing, and says so. `why` completes "needed to".
///
/// # Errors
/// Something is missing and cannot be installed here; the message says what to do.
pub fn apt_install(packages: &[&str], why: &str) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|name| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_debian() || !is_root() {
        bail!("missing to {why}: {list}\n  as root on Debian: apt-get install {list}");
    }
    sh::say(format_args!("installing with apt-get, to {why}: {list}"));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
        apt
    };
    sh::run(apt().arg("update"))?;
    sh::run(apt().args(["install", "-y", "--no-install-recommends"]).args(missing))
}

fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    sh::output(query.args(["-W", "-f", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}
