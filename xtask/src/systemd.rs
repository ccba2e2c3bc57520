//! `cargo xtask systemd`: the package under a real systemd. Installs it, has it trace programs
//! below `/home` and `/tmp`, upgrades it, purges it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::harness::{
    Mini, MiniOptions, PATIENCE, Process, Programs, Receiver, Standin, kernel, wait_for,
};

use crate::{build, dist, host, sh};

/// How to test.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// The most that may be exposed, as `systemd-analyze security` has it.
const EXPOSURE: f64 = 2.5;
/// Longer than anything takes inside.
const SOON: Duration = Duration::from_secs(60);

/// Runs it all.
///
/// # Errors
/// Something does not work as it should.
pub fn run(_: &Args) -> Result<()> {
    host::require_tracing()?;
    host::apt_install(&["systemd", "dpkg", "util-linux"], "boot a systemd")?;
    let programs = build::programs()?;
    let package = |version: &str| dist::run(&dist::Args { version: Some(version.to_owned()) });
    let (first, second) = (package("0.1.0~test1")?, package("0.1.0~test2")?);
    let dir = tempfile::tempdir()?;
    let shared = dir.path().join("shared");
    fs::create_dir(&shared)?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    for deb in [&first, &second] {
        let name = deb.file_name().context("a package's name")?;
        fs::copy(deb, shared.join(name))?;
    }
    sh::say("booting systemd");
    let before = kernel::Objects::now()?;
    let inside = Inside::boot(dir.path(), &shared)?;

    sh::say("installing the package");
    inside.output(&["dpkg", "-i", &in_shared(&shared, &first)])?;
    inside.active()?;
    let exposure = exposure(&inside)?;
    ensure!(exposure <= EXPOSURE, "systemd-analyze security: {exposure}");

    sh::say("tracing programs below /home and /tmp");
    let receiver = Receiver::start()?;
    let enable = ["orchestrate-trace", "enable", "--exporter", "otlp", "--otlp-endpoint"];
    inside.output(&[&enable[..], &[receiver.url()]].concat())?;
    let standin = Standin::start(&programs, &shared)?;
    let mut minis = vec![];
    for place in ["/home/agent", "/tmp/agent"] {
        minis.push(inside.mini(&programs, &standin, place, &shared)?);
    }
    let traced = |n: usize| {
        wait_for(&format!("{n} processes to be traced"), SOON, || {
            let status = inside.output(&["orchestrate-trace", "status"])?;
            Ok((status.matches("  traced\n").count() == n).then_some(()))
        })
    };
    traced(2)?;
    for mini in &minis {
        mini.open()?;
    }
    agents(&receiver, 4)?;

    sh::say("restarting, reloading, upgrading: the setting stays");
    inside.output(&["systemctl", "restart", "orchestrate-trace"])?;
    inside.active()?;
    traced(2)?;
    inside.output(&["systemctl", "reload", "orchestrate-trace"])?;
    inside.output(&["dpkg", "-i", &in_shared(&shared, &second)])?;
    inside.active()?;
    traced(2)?;
    let status = inside.output(&["orchestrate-trace", "status"])?;
    ensure!(status.contains(receiver.url()), "the setting is lost:\n{status}");

    sh::say("turning it off, and purging the package");
    inside.output(&["orchestrate-trace", "disable"])?;
    for mini in &minis {
        let pid = only_child(mini.pid())?.context("the program that was entered for")?;
        let changed = kernel::changed_code(pid)?;
        ensure!(changed.is_empty(), "probes are left in {pid}: {changed:x?}");
    }
    inside.output(&["dpkg", "-P", "orchestrate-trace"])?;
    for gone in [
        "/usr/bin/orchestrate-trace",
        "/usr/lib/systemd/system/orchestrate-trace.service",
        "/etc/orchestrate-trace",
        "/var/lib/orchestrate-trace",
        "/run/orchestrate-trace/control.sock",
    ] {
        let there = inside.command(&["test", "-e", gone]).status()?.success();
        ensure!(!there, "{gone} is still there");
    }
    // systemd has programs of its own for the devices of a unit, as long as that runs.
    drop(minis);
    drop(inside);
    before.wait_until_restored()?;
    println!("systemd: everything holds; exposure {exposure}");
    Ok(())
}

fn in_shared(shared: &Path, package: &Path) -> String {
    let name = package.file_name().unwrap_or_default();
    shared.join(name).to_string_lossy().into_owned()
}

/// The child of a process, where there is one.
fn only_child(pid: u32) -> Result<Option<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children.split_whitespace().next().and_then(|pid| pid.parse().ok()))
}

fn agents(receiver: &Receiver, count: usize) -> Result<()> {
    wait_for("the agents' spans", PATIENCE, || {
        let received = receiver.received();
        let names = received.values().filter_map(|names| names.get("agent_execution"));
        Ok((names.sum::<usize>() == count).then_some(()))
    })
    .with_context(|| format!("{:?}", receiver.received()))
}

fn exposure(inside: &Inside) -> Result<f64> {
    let unit = "orchestrate-trace.service";
    let table = inside.output(&["systemd-analyze", "security", "--no-pager", unit])?;
    let line = table.lines().find(|line| line.contains("Overall exposure level"));
    let number = line.and_then(|line| line.split(": ").nth(1)?.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).with_context(|| table.clone())
}

/// A cgroup that systemd takes for the root. Dropping it takes away what systemd made in it: a
/// cgroup that stays keeps its programs.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut mounts = mounts.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let root = mounts.find(|words| words.get(2) == Some(&"cgroup2"));
        let root = root.context("no cgroup2 hierarchy is mounted")?[1].to_owned();
        let name = format!("orchestrate-trace-test-{}", std::process::id());
        let path = Path::new(&root).join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let gone = wait_for("the cgroups to be empty", SOON, || {
            Ok(remove_cgroups(&self.0).is_ok().then_some(()))
        });
        if let Err(error) = gone {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// From the leaves to the root: the files in them go by themselves.
fn remove_cgroups(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// The namespaces that systemd is process 1 of. Dropping it ends everything in them.
struct Inside {
    // In this order: the processes first.
    _unshare: Process,
    _cgroup: Cgroup,
    /// Its process id outside.
    pid: u32,
}

impl Inside {
    fn boot(dir: &Path, shared: &Path) -> Result<Self> {
        let root = dir.join("root");
        fs::create_dir(&root)?;
        let script = sh::root().join("xtask/src/systemd-boot.sh");
        let cgroup = Cgroup::new()?;
        // In its cgroup before the namespace is made, whose root that is then.
        let join = "echo $$ > \"$0/cgroup.procs\" && exec unshare --mount --pid --fork --cgroup \
                    --uts --ipc --kill-child -- sh \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", join]).arg(&cgroup.0).arg(script).arg(&root).arg(shared);
        let mut unshare = Process::start(&mut command, "systemd", dir)?;
        let pid =
            unshare.wait_until("its first process", SOON, |unshare| only_child(unshare.pid()))?;
        unshare.wait_until("systemd to be up", SOON, |_| {
            let running = enter(pid, &["systemctl", "is-system-running"]).output()?;
            let text = String::from_utf8_lossy(&running.stdout);
            Ok(["running", "degraded"].contains(&text.trim()).then_some(()))
        })?;
        Ok(Self { _unshare: unshare, _cgroup: cgroup, pid })
    }

    fn command(&self, args: &[&str]) -> Command {
        enter(self.pid, args)
    }

    fn output(&self, args: &[&str]) -> Result<String> {
        sh::output(&mut self.command(args)).with_context(|| self.journal())
    }

    fn journal(&self) -> String {
        let log = ["journalctl", "--no-pager", "-n", "50", "-u", "orchestrate-trace"];
        sh::output(&mut self.command(&log)).unwrap_or_default()
    }

    /// Waits until the service is up, and says that it is.
    fn active(&self) -> Result<()> {
        wait_for("the service to be active", SOON, || {
            let state = self.command(&["systemctl", "is-active", "orchestrate-trace"]).output()?;
            Ok((String::from_utf8_lossy(&state.stdout).trim() == "active").then_some(()))
        })
        .with_context(|| self.journal())?;
        let status = ["systemctl", "show", "-P", "StatusText", "orchestrate-trace"];
        let text = self.output(&status)?;
        ensure!(text.starts_with("trac"), "what the service told systemd: {text:?}");
        Ok(())
    }

    /// Starts a miniature orchestrate inside, from a folder that the service does not see.
    fn mini(
        &self,
        programs: &Programs,
        standin: &Standin,
        place: &str,
        shared: &Path,
    ) -> Result<Mini> {
        let dir = shared.join(place.trim_start_matches('/').replace('/', "-"));
        fs::create_dir(&dir)?;
        fs::copy(programs.mini(), dir.join("program"))?;
        let program = format!("{place}/orchestrate");
        let from = dir.join("program").to_string_lossy().into_owned();
        self.output(&["install", "-D", "-m", "755", &from, &program])?;
        // What the harness starts is this.
        let script = format!("#!/bin/sh\nexec nsenter -t {} -a -- {program} \"$@\"\n", self.pid);
        let wrapper = dir.join("mini-orchestrate");
        fs::write(&wrapper, script)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        let wrapped = Programs { workloads: dir.clone(), ..programs.clone() };
        let options = MiniOptions { agents: 2, stay: true, ..MiniOptions::default() };
        Mini::start(&wrapped, standin, &options, &dir)
    }
}

/// Runs inside, as root.
fn enter(pid: u32, args: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid.to_string(), "-a", "--"]).args(args);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
