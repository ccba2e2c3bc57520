//! What agents' and tools' spans say of themselves, with debuginfo and without.

use anyhow::{Result, ensure};
use e2e::attributes::{self, Tally};
use e2e::harness::{Attach, Mini, MiniOptions, PATIENCE, Programs, Scene, Standin};

const KEYS: [&str; 3] = ["agent_id", "agent_type", "tool_name"];

/// Traces a run of the miniature orchestrate among `programs` and tallies its attributes.
fn tallies(scene: &Scene, programs: &Programs, attach: &Attach) -> Result<[Tally; 3]> {
    let standin = Standin::start(&scene.programs, scene.dir())?;
    let options =
        MiniOptions { agents: 15, concurrency: 6, mix: "faults".into(), ..MiniOptions::default() };
    let mut mini = Mini::start(programs, &standin, &options, scene.dir())?;
    let mut tracer = attach.start(&scene.programs, mini.pid(), "tracer", scene.dir())?;
    mini.open()?;
    mini.process.succeed(PATIENCE)?;
    let trace = tracer.finish()?;
    let all = attributes::compare(&mini.record()?, &trace)?;
    ensure!(KEYS.iter().all(|key| all.contains_key(key)), "{all:?}");
    Ok(KEYS.map(|key| all[key]))
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn without_debuginfo_none_is_wrong() -> Result<()> {
    let scene = Scene::new()?;
    let found = tallies(&scene, &scene.programs, &Attach::default())?;
    ensure!(found.iter().all(|tally| tally.is_good()), "{KEYS:?}: {found:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn with_debuginfo_all_are_right() -> Result<()> {
    let scene = Scene::new()?;
    let programs = scene.programs.with_debuginfo()?;
    let found = tallies(&scene, &programs, &Attach::default())?;
    ensure!(found.iter().all(|tally| tally.is_whole()), "{KEYS:?}: {found:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn debuginfo_of_another_build_will_do() -> Result<()> {
    let scene = Scene::new()?;
    let debuginfo = scene.programs.with_debuginfo()?.mini();
    let option = debuginfo.to_string_lossy().into_owned();
    let attach = Attach::default().arg("--debuginfo").arg(&option);
    let found = tallies(&scene, &scene.programs, &attach)?;
    ensure!(found.iter().all(|tally| tally.is_whole()), "{KEYS:?}: {found:?}");
    // Every attribute by name, from that file; without it from the code.
    let inspect = |more: &[&str]| -> Result<serde_json::Value> {
        let mut command = std::process::Command::new(&scene.programs.tracer);
        let out = command.arg("inspect").arg(scene.programs.mini()).arg("--json").args(more);
        Ok(serde_json::from_slice(&out.output()?.stdout)?)
    };
    for (more, from) in [(vec!["--debuginfo", option.as_str()], "debuginfo"), (vec![], "code")] {
        let report = inspect(&more)?;
        let entries = report["entries"].as_array().cloned().unwrap_or_default();
        let attributes = entries.iter().flat_map(|entry| entry["attributes"].as_array()).flatten();
        let sources: Vec<_> = attributes.map(|attribute| attribute["from"].as_str()).collect();
        ensure!(sources.len() == 3 && sources.iter().all(|s| *s == Some(from)), "{report:#}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn debuginfo_of_another_program_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let out = std::process::Command::new(&scene.programs.tracer)
        .arg("inspect")
        .arg(scene.programs.truth())
        .arg("--debuginfo")
        .arg(scene.programs.with_debuginfo()?.mini())
        .arg("--function")
        .arg("truth_workload::*")
        .output()?;
    let report = String::from_utf8_lossy(&out.stdout);
    ensure!(report.contains("not a build of the same source"), "{report}");
    Ok(())
}
