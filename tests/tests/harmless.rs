//! A traced program does what it does untraced, and nothing stays when tracing ends, however that
//! happens.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::harness::{
    Attach, Mini, MiniOptions, PATIENCE, Process, Scene, Standin, TruthOptions, TruthWorkload,
    kernel, wait_for,
};

/// What can be seen of a run from outside.
#[derive(Debug, PartialEq)]
struct Seen {
    stdout: Vec<String>,
    /// Sorted, since tasks run in any order; threads masked.
    stderr: Vec<String>,
    status: Option<i32>,
}

fn seen(workload: &mut TruthWorkload) -> Result<Seen> {
    workload.close()?;
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let mut stdout = lines(workload.process.stdout());
    // The first line names the process.
    stdout.remove(0);
    let mask = |line: String| match line.find(" panicked at ") {
        Some(at) => line[at..].to_owned(),
        None => line,
    };
    let mut stderr: Vec<_> = lines(workload.process.stderr()).into_iter().map(mask).collect();
    stderr.sort();
    let status = workload.process.wait(PATIENCE)?.code();
    Ok(Seen { stdout, stderr, status })
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn a_program_that_panics_everywhere_is_unharmed() -> Result<()> {
    for guards in [true, false] {
        let options =
            TruthOptions { mix: "panic".into(), agents: 50, guards, ..TruthOptions::default() };
        let untraced = {
            let scene = Scene::new()?;
            let mut workload = TruthWorkload::start(&scene.programs, &options, scene.dir())?;
            workload.open()?;
            workload.ran()?;
            seen(&mut workload)?
        };
        let scene = Scene::new()?;
        let mut workload = TruthWorkload::start(&scene.programs, &options, scene.dir())?;
        let (programs, pid) = (&scene.programs, workload.pid());
        let mut tracer = options.attach.start(programs, pid, "tracer", scene.dir())?;
        workload.open()?;
        workload.ran()?;
        let trace = tracer.stop()?;
        let traced = seen(&mut workload)?;
        ensure!(traced == untraced, "traced {traced:#?}\nuntraced {untraced:#?}");
        ensure!(!traced.stderr.is_empty() && traced.status == Some(0), "{traced:#?}");
        let panicked = trace.spans.iter().filter(|span| span.outcome == "panicked").count();
        ensure!(panicked > 0, "no span panicked");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn an_orderly_end_leaves_nothing() -> Result<()> {
    for mechanism in ["uprobe-multi", "perf-event"] {
        let scene = Scene::new()?;
        let before = scene.objects()?;
        let mut options = TruthOptions { agents: 10, ..TruthOptions::default() };
        options.attach = options.attach.arg("--mechanism").arg(mechanism);
        if mechanism == "perf-event" {
            // Each probe costs a grace period when it goes: some are enough.
            options.attach.functions = vec!["truth_workload::bodies::calls::*".to_owned()];
        }
        let mut workload = TruthWorkload::start(&scene.programs, &options, scene.dir())?;
        let (programs, pid) = (&scene.programs, workload.pid());
        ensure!(kernel::changed_code(pid)?.is_empty());
        let mut tracer = options.attach.start(programs, pid, "tracer", scene.dir())?;
        ensure!(!kernel::changed_code(pid)?.is_empty(), "{mechanism}: no probe is in place");
        ensure!(scene.objects()?.more_than(&before) > 0);
        workload.open()?;
        workload.ran()?;
        tracer.stop()?;
        let changed = kernel::changed_code(pid)?;
        ensure!(changed.is_empty(), "{mechanism}: {changed:x?}");
        before.wait_until_restored()?;
        workload.close()?;
    }
    Ok(())
}

/// SIGKILL at moments from before the first probe until well after the last, while agents run.
#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn a_killed_tracer_leaves_the_target_running_and_unprobed() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.objects()?;
    let standin = Standin::start(&scene.programs, scene.dir())?;
    let options = MiniOptions { agents: 40, concurrency: 2, stay: true, ..MiniOptions::default() };
    let mut mini = Mini::start(&scene.programs, &standin, &options, scene.dir())?;
    mini.open()?;
    let mut attached = 0;
    for round in 0..12_u64 {
        let mut command = Attach::default().command(&scene.programs, mini.pid());
        let mut tracer = Process::start(&mut command, &format!("tracer{round}"), scene.dir())?;
        // No condition of the tracer's: any moment must do, and each round has another.
        let (began, moment) = (Instant::now(), Duration::from_millis(round * round * 8));
        // Every other round begins to count when the probes are in place, however long that took.
        let mut since = (round % 2 == 0).then_some(began);
        wait_for("the moment to kill", PATIENCE, || {
            if since.is_none() && tracer.stdout().contains("\"attached\"") {
                since = Some(Instant::now());
            }
            let due = since.is_some_and(|since| since.elapsed() >= moment);
            Ok((due || !tracer.is_running()).then_some(()))
        })?;
        attached += usize::from(tracer.stdout().contains("\"attached\""));
        ensure!(tracer.is_running(), "round {round}: {}", tracer.stderr());
        tracer.kill();
        before.wait_until_restored()?;
        wait_for("the target's code to be its file's", PATIENCE, || {
            Ok(kernel::changed_code(mini.pid())?.is_empty().then_some(()))
        })?;
        ensure!(mini.process.is_running(), "round {round}: {}", mini.process.stderr());
    }
    ensure!(attached > 0, "killed too early in every round");
    mini.process.signal(libc::SIGTERM);
    mini.process.succeed(PATIENCE)
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn two_tracers_at_once_see_the_same() -> Result<()> {
    let scene = Scene::new()?;
    let options = TruthOptions { agents: 10, ..TruthOptions::default() };
    let mut workload = TruthWorkload::start(&scene.programs, &options, scene.dir())?;
    let (programs, pid) = (&scene.programs, workload.pid());
    let mut one = options.attach.start(programs, pid, "one", scene.dir())?;
    let mut two = options.attach.start(programs, pid, "two", scene.dir())?;
    workload.open()?;
    workload.ran()?;
    let (one, two) = (one.stop()?, two.stop()?);
    ensure!(kernel::changed_code(pid)?.is_empty());
    workload.close()?;
    let spans = workload.truth()?.spans.len();
    ensure!(one.spans.len() == two.spans.len(), "{} {}", one.spans.len(), two.spans.len());
    ensure!(one.spans.len() * 100 >= spans * 95, "{} of {spans}", one.spans.len());
    for trace in [one, two] {
        ensure!(trace.summary()?.lost().is_empty(), "{:?}", trace.summary);
    }
    Ok(())
}
