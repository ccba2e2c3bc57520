//! The target lives its own life: it exits, it is in another namespace, it is started by us.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::harness::{
    FUNCTIONS, PATIENCE, Process, Scene, Tracer, TruthOptions, TruthWorkload, wait_for,
};
use e2e::trace::Trace;
use e2e::truth::{Coverage, Truth, compare};

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn a_target_that_exits_ends_the_trace() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.objects()?;
    let options = TruthOptions::default();
    let mut workload = TruthWorkload::start(&scene.programs, &options, scene.dir())?;
    let (programs, pid) = (&scene.programs, workload.pid());
    let mut tracer = options.attach.start(programs, pid, "tracer", scene.dir())?;
    workload.open()?;
    workload.ran()?;
    workload.close()?;
    let trace = tracer.finish()?;
    ensure!(trace.events.iter().any(|e| e.name == "target_exited"), "{:?}", trace.events);
    ensure!(tracer.0.stderr().contains("has exited"), "{}", tracer.0.stderr());
    let truth = workload.truth()?;
    let verdict = compare(&truth, &trace, &Coverage::of_all(&truth))?;
    ensure!(verdict.wrong_parent == 0 && verdict.right > 0, "{verdict:#?}");
    before.wait_until_restored()
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn a_target_that_is_killed_ends_the_trace() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.objects()?;
    let options = TruthOptions::default();
    let mut workload = TruthWorkload::start(&scene.programs, &options, scene.dir())?;
    let (programs, pid) = (&scene.programs, workload.pid());
    let mut tracer = options.attach.start(programs, pid, "tracer", scene.dir())?;
    workload.open()?;
    workload.ran()?;
    workload.process.kill();
    let trace = tracer.finish()?;
    ensure!(trace.events.iter().any(|e| e.name == "target_exited"), "{:?}", trace.events);
    ensure!(!trace.spans.is_empty());
    before.wait_until_restored()
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn a_binary_replaced_on_disk_is_traced_as_it_runs() -> Result<()> {
    let scene = Scene::new()?;
    // A copy, which is then deleted, and something else put in its place.
    let folder = scene.dir().join("copy");
    fs::create_dir(&folder)?;
    let copy = folder.join("truth-workload");
    fs::copy(scene.programs.truth(), &copy)?;
    let mut programs = scene.programs.clone();
    programs.workloads = folder;
    let options = TruthOptions::default();
    let mut workload = TruthWorkload::start(&programs, &options, scene.dir())?;
    fs::remove_file(&copy)?;
    fs::write(&copy, "something else")?;
    let coverage = Coverage::read(&options.attach.inspect(&programs, workload.pid())?)?;
    let mut tracer = options.attach.start(&programs, workload.pid(), "tracer", scene.dir())?;
    workload.open()?;
    workload.ran()?;
    let trace = tracer.stop()?;
    workload.close()?;
    let verdict = compare(&workload.truth()?, &trace, &coverage)?;
    ensure!(verdict.is_right(), "{verdict:#?}");
    Ok(())
}

/// `run`: the child is traced from its first instruction, and its status is ours.
#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn a_program_is_run_and_traced_from_its_beginning() -> Result<()> {
    let scene = Scene::new()?;
    let (spans, truth) = (scene.dir().join("spans"), scene.dir().join("truth"));
    let run = || {
        let mut command = Command::new(&scene.programs.tracer);
        command.arg("run").arg("--json").arg("-o").arg(&spans).args(["--function", FUNCTIONS]);
        command.arg("--").arg(scene.programs.truth());
        command
    };
    let out = run().args(["--agents", "10", "--out"]).arg(&truth).output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.code() == Some(0), "{}\n{errors}", out.status);
    ensure!(String::from_utf8_lossy(&out.stdout).contains("\nchecksum "), "{out:?}");
    let truth = Truth::read(fs::read(&truth)?.as_slice())?;
    let trace = Trace::read(fs::read(&spans)?.as_slice())?;
    let verdict = compare(&truth, &trace, &Coverage::of_all(&truth))?;
    ensure!(verdict.wrong_parent == 0 && verdict.right * 100 >= verdict.spans * 95, "{verdict:#?}");
    // The program's own usage error.
    let out = run().arg("--no-such-option").output()?;
    ensure!(out.status.code() == Some(2), "{out:?}");
    ensure!(String::from_utf8_lossy(&out.stderr).contains("usage: truth-workload"), "{out:?}");
    Ok(())
}

/// A target in a pid namespace below the tracer's, and then both in it.
#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn pid_namespaces() -> Result<()> {
    let scene = Scene::new()?;
    for inside in [false, true] {
        let dir = scene.dir().join(if inside { "inside" } else { "outside" });
        fs::create_dir(&dir)?;
        let [gate, hold, truth] = ["gate", "hold", "truth"].map(|name| dir.join(name));
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
        command.arg(scene.programs.truth()).args(["--agents", "5", "--out"]).arg(&truth);
        command.arg("--gate").arg(&gate).arg("--hold").arg(&hold);
        let mut workload = Process::start(&mut command, "workload", &dir)?;
        workload.wait_until("being ready", PATIENCE, |process| {
            Ok(process.stdout().starts_with("ready 1\n").then_some(()))
        })?;
        let pid = only_child(workload.pid())?;

        let tracer = &scene.programs.tracer;
        let mut command = if inside {
            let mut command = Command::new("nsenter");
            command.args(["--target", &pid.to_string(), "--pid", "--mount", "--"]).arg(tracer);
            command.args(["attach", "1"]);
            command
        } else {
            let mut command = Command::new(tracer);
            command.args(["attach", &pid.to_string()]);
            command
        };
        command.args(["--json", "--function", FUNCTIONS]);
        let mut tracer = Tracer(Process::start(&mut command, "tracer", &dir)?);
        tracer.attached()?;
        fs::write(&gate, "")?;
        workload.wait_until("its checksum", PATIENCE, |process| {
            Ok(process.stdout().contains("\nchecksum ").then_some(()))
        })?;
        // nsenter forks, and does not pass signals on.
        let interrupt = if inside { only_child(tracer.0.pid())? } else { tracer.0.pid() };
        // SAFETY: kill takes numbers; the process is ours and has not been waited for.
        unsafe { libc::kill(interrupt as i32, libc::SIGINT) };
        let trace = tracer.finish()?;
        fs::write(&hold, "")?;
        workload.succeed(PATIENCE)?;
        let truth = Truth::read(fs::read(&truth)?.as_slice())?;
        let verdict = compare(&truth, &trace, &Coverage::of_all(&truth))?;
        ensure!(verdict.wrong_parent == 0, "inside: {inside}: {verdict:#?}");
        ensure!(verdict.right * 100 >= verdict.spans * 95, "inside: {inside}: {verdict:#?}");
    }
    Ok(())
}

fn only_child(pid: u32) -> Result<u32> {
    let file = format!("/proc/{pid}/task/{pid}/children");
    wait_for("a child", PATIENCE, || {
        let text = fs::read_to_string(&file).context("children")?;
        Ok(text.split_whitespace().next().and_then(|pid| pid.parse().ok()))
    })
}
