//! Statements and child processes, on the miniature orchestrate.

use anyhow::{Context, Result, ensure};
use e2e::harness::{Attach, Mini, MiniOptions, PATIENCE, Scene, Standin};
use e2e::recorded::{self, Recorded};
use e2e::trace::Trace;

fn run(options: &MiniOptions, attach: &Attach) -> Result<(Trace, Recorded)> {
    let scene = Scene::new()?;
    let standin = Standin::start(&scene.programs, scene.dir())?;
    let mut mini = Mini::start(&scene.programs, &standin, options, scene.dir())?;
    let mut tracer = attach.start(&scene.programs, mini.pid(), "tracer", scene.dir())?;
    mini.open()?;
    mini.process.succeed(PATIENCE)?;
    let trace = tracer.finish()?;
    let attached = trace.events.iter().find(|event| event.name == "attached");
    let since = attached.and_then(|event| event.start_unix_ns).context("no event `attached`")?;
    let found = recorded::compare(&mini.record()?, &trace, since)?;
    Ok((trace, found))
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn statements_and_children_are_what_the_program_says() -> Result<()> {
    let (trace, found) =
        run(&MiniOptions { agents: 12, ..MiniOptions::default() }, &Attach::default())?;
    ensure!(found.statements.0 > 50 && found.processes.0 > 0, "too little to compare: {found:#?}");
    ensure!(found.is_right(), "{found:#?}");
    ensure!(trace.summary()?.lost().is_empty(), "{:#?}", trace.summary()?);
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn they_are_the_same_by_perf_events_and_with_faults() -> Result<()> {
    let options = MiniOptions { agents: 12, mix: "faults".into(), ..MiniOptions::default() };
    let attach = Attach::default().arg("--mechanism").arg("perf-event");
    let (_, found) = run(&options, &attach)?;
    ensure!(found.wrong_processes.is_empty() && found.stray_processes == 0, "{found:#?}");
    // A connection that is opened anew is set up before the record watches it: `PRAGMA`s.
    let other = found.wrong_statements.keys().find(|key| !key.starts_with("PRAGMA"));
    ensure!(other.is_none(), "{found:#?}");
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn literals_are_not_shown_and_every_statement_has_its_text() -> Result<()> {
    let (trace, _) = run(&MiniOptions::default(), &Attach::default())?;
    let queries: Vec<_> = trace.spans.iter().filter(|s| s.name == "database_query").collect();
    ensure!(!queries.is_empty(), "no statements");
    for query in queries {
        let text = query.attributes.get("db.query.text").and_then(|text| text.as_str());
        let text = text.with_context(|| format!("no text: {query:?}"))?;
        // The miniature asks for states by literals.
        ensure!(!text.contains(['\'', '"']) && !text.contains(char::is_numeric), "{text}");
    }
    Ok(())
}
