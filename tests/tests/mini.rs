//! The miniature orchestrate: agents, tools, statements, requests, each in its agent's tree.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::agents::{self, Report};
use e2e::harness::{Attach, Mini, MiniOptions, PATIENCE, Scene, Standin};
use e2e::mini;
use e2e::trace::Trace;

fn run(scene: &Scene, options: &MiniOptions, attach: &Attach) -> Result<(Trace, Report)> {
    let standin = Standin::start(&scene.programs, scene.dir())?;
    let mut mini = Mini::start(&scene.programs, &standin, options, scene.dir())?;
    let mut tracer = attach.start(&scene.programs, mini.pid(), "tracer", scene.dir())?;
    mini.open()?;
    mini.process.succeed(PATIENCE)?;
    let trace = tracer.finish()?;
    let report = agents::compare(&mini::agents(&mini.record()?)?, &trace)?;
    Ok((trace, report))
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn each_agent_is_one_tree() -> Result<()> {
    let scene = Scene::new()?;
    let (_, report) = run(&scene, &MiniOptions::default(), &Attach::default())?;
    ensure!(report.is_right(), "{report:#?}");
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn agents_that_fail_are_trees_too() -> Result<()> {
    let scene = Scene::new()?;
    let options = MiniOptions { agents: 5, mix: "faults".into(), ..MiniOptions::default() };
    let (_, report) = run(&scene, &options, &Attach::default())?;
    // Work that was under way when an agent was dropped may be counted on one side only.
    ensure!(report.agents.iter().all(|row| row.trees == 1), "{report:#?}");
    ensure!(report.outcome_wrong == 0 && report.wrong_parent == 0, "{report:#?}");
    ensure!(report.strange_trees == 0 && report.drops.is_empty(), "{report:#?}");
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn by_perf_events() -> Result<()> {
    let scene = Scene::new()?;
    let attach = Attach::default().arg("--mechanism").arg("perf-event");
    let (_, report) = run(&scene, &MiniOptions::default(), &attach)?;
    ensure!(report.is_right(), "{report:#?}");
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn a_recording_gives_the_same_spans_again() -> Result<()> {
    let scene = Scene::new()?;
    let recording = scene.dir().join("trace.rec");
    let attach = Attach::default().arg("--record").arg(recording.to_string_lossy());
    let (live, _) = run(&scene, &MiniOptions::default(), &attach)?;
    let replay = Command::new(&scene.programs.tracer)
        .arg("replay")
        .arg(&recording)
        .arg("--json")
        .output()?;
    ensure!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
    let replayed = Trace::read(&*replay.stdout)?;
    let spans = |trace: &Trace| -> Vec<String> {
        let mut spans: Vec<_> = trace.spans.iter().map(|span| format!("{span:?}")).collect();
        spans.sort();
        spans
    };
    ensure!(live.spans.len() > 10, "only {} spans", live.spans.len());
    let (live_spans, replayed_spans) = (spans(&live), spans(&replayed));
    let differs = live_spans.iter().zip(&replayed_spans).find(|(a, b)| a != b);
    ensure!(differs.is_none(), "live and replayed differ: {differs:#?}");
    ensure!(live_spans.len() == replayed_spans.len(), "{} spans replayed", replayed_spans.len());
    let account = |trace: &Trace| -> Result<_> {
        let summary = trace.summary()?;
        Ok((summary.spans, summary.records, summary.lost()))
    };
    ensure!(account(&live)? == account(&replayed)?, "{live:?}\n{replayed:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn a_process_is_found_by_its_name() -> Result<()> {
    let scene = Scene::new()?;
    let standin = Standin::start(&scene.programs, scene.dir())?;
    let mini = Mini::start(&scene.programs, &standin, &MiniOptions::default(), scene.dir())?;
    let name = scene.programs.mini();
    let name = name.file_name().context("a name")?.to_string_lossy().into_owned();
    let out = Command::new(&scene.programs.tracer)
        .args(["attach", &name, "--json", "--duration", "300ms"])
        .output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let trace = Trace::read(&*out.stdout)?;
    let attached = trace.events.iter().any(|e| e.name == "attached" && e.pid == Some(mini.pid()));
    ensure!(attached, "{:?}", trace.events);
    Ok(())
}
