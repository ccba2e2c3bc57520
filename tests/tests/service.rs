//! The service on live processes: what it finds, what arrives, what it leaves behind, and who may
//! steer it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::harness::{
    FUNCTIONS, Mini, MiniOptions, PATIENCE, Process, Programs, Receiver, Scene, Service, Standin,
    TruthOptions, TruthWorkload, kernel, wait_for,
};

/// Traces the workloads, by the names of their executables.
fn config(names: &[&str]) -> String {
    format!("[discovery]\nexecutables = {names:?}\n[tracing]\nfunctions = ['{FUNCTIONS}']\n")
}

fn enable(service: &Service, receiver: &Receiver) -> Result<()> {
    let args = ["enable", "--exporter", "otlp", "--otlp-endpoint", receiver.url()];
    service.succeed(&args).map(drop)
}

/// A truth workload in a folder of its own.
fn workload(scene: &Scene, name: &str, agents: u32) -> Result<TruthWorkload> {
    let dir = scene.dir().join(name);
    fs::create_dir(&dir)?;
    let options = TruthOptions { agents, workers: 2, ..TruthOptions::default() };
    TruthWorkload::start(&scene.programs, &options, &dir)
}

/// Waits until nothing of ours is left in a process.
fn untouched(pid: u32) -> Result<()> {
    wait_for("the target's code to be its file's", PATIENCE, || {
        Ok(kernel::changed_code(pid)?.is_empty().then_some(()))
    })
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn processes_are_found_traced_and_left() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.objects()?;
    let receiver = Receiver::start()?;
    let standin = Standin::start(&scene.programs, scene.dir())?;
    let mut service = Service::start(&scene.programs, scene.dir(), &config(&["mini-orchestrate"]))?;

    // One that is there already when tracing is turned on; its agents begin afterwards.
    let options = MiniOptions { agents: 3, stay: true, ..MiniOptions::default() };
    let mut mini = Mini::start(&scene.programs, &standin, &options, scene.dir())?;
    ensure!(service.target(mini.pid())?.is_none(), "nothing is traced while tracing is off");
    enable(&service, &receiver)?;
    let target = service.wait_for_state(mini.pid(), "traced")?;
    ensure!(target["build_id"].is_string() && target["probes"].as_u64() > Some(0), "{target}");
    mini.open()?;
    wait_for("its agents' spans", PATIENCE, || {
        Ok((receiver.count(mini.pid(), "agent_execution") == 3).then_some(()))
    })?;
    for name in ["tool_call", "database_query", "api_call"] {
        ensure!(receiver.count(mini.pid(), name) > 0, "{name}: {:?}", receiver.received());
    }
    let target = service.target(mini.pid())?.context("still traced")?;
    ensure!(target["spans"].as_u64() > Some(3) && target["hits"].as_u64() > Some(0), "{target}");
    ensure!(target["drops"] == serde_json::json!({}), "{target}");
    let text = service.succeed(&["status"])?.out;
    ensure!(text.contains(&format!("pid {}  ", mini.pid())) && text.contains("build-id"), "{text}");

    // A restart restores the setting, and finds the process again.
    service.stop()?;
    untouched(mini.pid())?;
    let mut service = Service::start(&scene.programs, scene.dir(), &config(&["mini-orchestrate"]))?;
    service.wait_for_state(mini.pid(), "traced")?;

    // Turned off, nothing is left, and what was not asked for is not looked for again.
    service.succeed(&["disable"])?;
    ensure!(kernel::changed_code(mini.pid())?.is_empty(), "detached when `disable` returns");
    ensure!(service.status()?["targets"] == serde_json::json!([]));
    before.wait_until_restored()?;
    ensure!(mini.process.is_running(), "{}", mini.process.stderr());
    service.stop()?;
    mini.process.signal(libc::SIGTERM);
    mini.process.succeed(PATIENCE)
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn targets_start_and_exit_and_each_has_its_own_spans() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.objects()?;
    let receiver = Receiver::start()?;
    let mut service = Service::start(&scene.programs, scene.dir(), &config(&["truth-workload"]))?;
    enable(&service, &receiver)?;
    let descriptors = || -> Result<usize> {
        let dir = format!("/proc/{}/fd", service.process.pid());
        Ok(fs::read_dir(dir)?.count())
    };
    let mut at_first = None;
    for round in 0..3 {
        let mut workloads = vec![];
        for n in 0..4 {
            workloads.push(workload(&scene, &format!("round{round}-{n}"), 2)?);
        }
        for workload in &workloads {
            service.wait_for_state(workload.pid(), "traced")?;
        }
        for workload in &mut workloads {
            workload.open()?;
        }
        for workload in &mut workloads {
            workload.ran()?;
            let pid = workload.pid();
            workload.close()?;
            wait_for("its end to be noticed", PATIENCE, || {
                Ok(service.target(pid)?.is_none().then_some(()))
            })?;
            let spans = workload.truth()?.spans.len();
            wait_for("its spans", PATIENCE, || {
                let received = receiver.received();
                let of = received.iter().filter(|((from, _), _)| *from == pid);
                let count: usize = of.flat_map(|(_, names)| names.values()).sum();
                ensure!(count <= spans, "{count} of {spans}");
                Ok((count * 100 >= spans * 95).then_some(()))
            })?;
        }
        before.wait_until_restored()?;
        let open = descriptors()?;
        let first = *at_first.get_or_insert(open);
        ensure!(open <= first + 2, "{first} descriptors at first, {open} in round {round}");
    }
    let totals = service.status()?["service"]["totals"].clone();
    ensure!(totals["attached"] == 12 && totals["drops"] == serde_json::json!({}), "{totals}");
    service.stop()
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn an_exec_is_followed_and_what_cannot_be_traced_is_said_once() -> Result<()> {
    let scene = Scene::new()?;
    let receiver = Receiver::start()?;
    // A program of the right name that is no Rust program, and one that becomes one that is.
    let bin = scene.dir().join("bin");
    fs::create_dir(&bin)?;
    fs::copy("/bin/sh", bin.join("truth-workload"))?;
    let mut service = Service::start(&scene.programs, scene.dir(), &config(&["truth-workload"]))?;
    enable(&service, &receiver)?;
    let go = scene.dir().join("go");
    let script = "while [ ! -e \"$1\" ]; do sleep 0.01; done; shift; exec \"$@\"";
    let dir = scene.dir().join("exec");
    fs::create_dir(&dir)?;
    let mut command = Command::new(bin.join("truth-workload"));
    command.args(["-c", script, "sh"]).arg(&go).arg(scene.programs.truth());
    command.args(["--agents", "2", "--out"]).arg(dir.join("truth"));
    command.arg("--gate").arg(dir.join("gate")).arg("--hold").arg(dir.join("hold"));
    let mut process = Process::start(&mut command, "workload", &dir)?;
    let pid = process.pid();
    let target = service.wait_for_state(pid, "refused")?;
    ensure!(target["reason"].as_str().is_some_and(|why| !why.is_empty()), "{target}");
    ensure!(service.succeed(&["status"])?.out.contains("refused\n"));
    // Others are left alone.
    ensure!(service.target(std::process::id())?.is_none());
    ensure!(service.status()?["targets"].as_array().map(Vec::len) == Some(1));
    let refused = |service: &Service| -> Result<_> {
        Ok(service.status()?["service"]["totals"]["refused"].clone())
    };
    ensure!(refused(&service)? == 1);
    fs::write(&go, "")?;
    service.wait_for_state(pid, "traced")?;
    // It was not tried again before it changed.
    ensure!(refused(&service)? == 1);
    fs::write(dir.join("gate"), "")?;
    fs::write(dir.join("hold"), "")?;
    process.succeed(PATIENCE)?;
    wait_for("its spans", PATIENCE, || {
        Ok(receiver.received().keys().any(|(from, _)| *from == pid).then_some(()))
    })?;
    service.stop()
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn settings_change_while_spans_come() -> Result<()> {
    let scene = Scene::new()?;
    let (one, two) = (Receiver::start()?, Receiver::start()?);
    let mut service = Service::start(&scene.programs, scene.dir(), &config(&["truth-workload"]))?;
    enable(&service, &one)?;
    let mut workload = workload(&scene, "workload", 30)?;
    let pid = workload.pid();
    service.wait_for_state(pid, "traced")?;
    workload.open()?;
    wait_for("the first spans", PATIENCE, || Ok((!one.services(pid).is_empty()).then_some(())))?;
    // Elsewhere, and by another name; the target stays attached.
    let args = ["enable", "--otlp-endpoint", two.url(), "--service-name", "renamed"];
    service.succeed(&args)?;
    service.reconfigure(&config(&["truth-workload"]))?;
    workload.ran()?;
    service.wait_for_state(pid, "traced")?;
    ensure!(service.status()?["service"]["totals"]["attached"] == 1, "attached again");
    workload.close()?;
    let spans = workload.truth()?.spans.len();
    let count = |receiver: &Receiver| -> usize {
        let received = receiver.received();
        let of = received.iter().filter(|((from, _), _)| *from == pid);
        of.flat_map(|(_, names)| names.values()).sum()
    };
    wait_for("every span, here or there", PATIENCE, || {
        Ok(((count(&one) + count(&two)) * 100 >= spans * 95).then_some(()))
    })
    .with_context(|| format!("{} + {} of {spans}", count(&one), count(&two)))?;
    ensure!(one.services(pid) == ["orchestrate"], "{:?}", one.services(pid));
    ensure!(two.services(pid).iter().all(|name| name == "renamed"), "{:?}", two.services(pid));
    let drops = service.status()?["service"]["totals"]["drops"].clone();
    ensure!(drops == serde_json::json!({}), "{drops}");
    // No longer meant.
    let mut other = self::workload(&scene, "other", 1)?;
    service.wait_for_state(other.pid(), "traced")?;
    service.reconfigure(&config(&["something-else"]))?;
    wait_for("it to be left alone", PATIENCE, || {
        Ok(service.target(other.pid())?.is_none().then_some(()))
    })?;
    untouched(other.pid())?;
    other.open()?;
    other.ran()?;
    other.close()?;
    service.stop()
}

/// By path and by id; units, cgroups and containers are matched the same way.
#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn other_ways_to_find_a_process() -> Result<()> {
    let scene = Scene::new()?;
    let mut workload = workload(&scene, "workload", 1)?;
    let pid = workload.pid();
    let program = fs::canonicalize(scene.programs.truth())?;
    let folder = program.parent().context("a folder")?.to_string_lossy().into_owned();
    let rules = [format!("paths = ['{folder}/tr*h-workload']"), format!("pids = [{pid}]")];
    let config = |rule: &str| {
        format!("[discovery]\nexecutables = []\n{rule}\n[tracing]\nfunctions = ['{FUNCTIONS}']\n")
    };
    let mut service = Service::start(&scene.programs, scene.dir(), &config(""))?;
    service.succeed(&["enable", "--exporter", "none"])?;
    for rule in &rules {
        service.reconfigure(&config(rule))?;
        service.wait_for_state(pid, "traced")?;
        service.reconfigure(&config(""))?;
        wait_for("it to be left alone", PATIENCE, || {
            Ok(service.target(pid)?.is_none().then_some(()))
        })?;
        untouched(pid)?;
    }
    workload.open()?;
    workload.ran()?;
    workload.close()?;
    service.stop()
}

/// As somebody else, with these groups beside their own.
fn as_nobody(
    programs: &Programs,
    service: &Service,
    groups: &str,
    args: &[&str],
) -> Result<(Option<i32>, String)> {
    // Somebody else cannot reach a program in a folder of ours.
    let program = service.socket().with_file_name("orchestrate-trace");
    if !program.exists() {
        fs::copy(&programs.tracer, &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    let ask = service.command(args);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--inh-caps=-all"]);
    if groups.is_empty() {
        command.arg("--clear-groups");
    } else {
        command.args(["--groups", groups]);
    }
    command.arg("--").arg(program).args(args);
    for (name, value) in ask.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let output = command.output().context("setpriv")?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Makes a path passable for everybody.
fn open_up(path: &Path) -> Result<()> {
    for folder in path.ancestors().skip(1) {
        let metadata = fs::metadata(folder)?;
        let mode = metadata.permissions().mode();
        if mode & 0o001 == 0 {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o011))?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn only_root_and_the_group_are_served() -> Result<()> {
    // A group that nobody on this machine is in.
    const GROUP: &str = "59999";
    let scene = Scene::new()?;
    let config =
        |group: &str| format!("[discovery]\nexecutables = []\n[control]\ngroup = '{group}'\n");
    let mut service = Service::start(&scene.programs, scene.dir(), &config(GROUP))?;
    open_up(&service.socket())?;
    let mode = fs::metadata(service.socket())?.permissions().mode();
    ensure!(mode & 0o777 == 0o660, "{mode:o}");
    let all: [&[&str]; 3] = [&["status"], &["disable"], &["enable", "--exporter", "none"]];
    let programs = &scene.programs;
    // The socket's mode keeps others out …
    for args in all {
        let (code, error) = as_nobody(programs, &service, "", args)?;
        ensure!(code == Some(3) && error.contains("permission denied"), "{args:?}: {error}");
    }
    // … members of the group, by a supplementary group too, may ask …
    for args in all {
        let (code, error) = as_nobody(programs, &service, GROUP, args)?;
        ensure!(code == Some(0), "{args:?}: {error}");
    }
    ensure!(service.status()?["enabled"] == true);
    // … and where the socket lets everybody in, the service asks the kernel who it is.
    fs::set_permissions(service.socket(), fs::Permissions::from_mode(0o666))?;
    for (groups, args) in all.into_iter().flat_map(|args| [("", args), ("59998,59997", args)]) {
        let (code, error) = as_nobody(programs, &service, groups, args)?;
        ensure!(code == Some(3) && error.contains("user 65534 may not"), "{args:?}: {error}");
    }
    ensure!(service.status()?["enabled"] == true, "a refused request does nothing");
    ensure!(service.process.stderr().contains("a request was refused"));
    // Asked anew for every request: the group has changed.
    service.reconfigure(&config("59998"))?;
    wait_for("the new group", PATIENCE, || {
        let (code, _) = as_nobody(programs, &service, "59998", &["status"])?;
        Ok((code == Some(0)).then_some(()))
    })?;
    let (code, _) = as_nobody(programs, &service, GROUP, &["status"])?;
    ensure!(code == Some(3));
    service.stop()
}

/// A daemon that is killed leaves nothing, and the next one goes on.
#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn a_killed_daemon_leaves_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.objects()?;
    let mut workload = workload(&scene, "workload", 2)?;
    let mut service = Service::start(&scene.programs, scene.dir(), &config(&["truth-workload"]))?;
    service.succeed(&["enable", "--exporter", "none"])?;
    service.wait_for_state(workload.pid(), "traced")?;
    service.process.kill();
    before.wait_until_restored()?;
    untouched(workload.pid())?;
    let mut service = Service::start(&scene.programs, scene.dir(), &config(&["truth-workload"]))?;
    service.wait_for_state(workload.pid(), "traced")?;
    workload.open()?;
    workload.ran()?;
    workload.close()?;
    service.stop()?;
    before.wait_until_restored()
}
