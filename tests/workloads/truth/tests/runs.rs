//! Runs the program and holds its truth file against what must be true of any run.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const MIXES: [&str; 9] =
    ["calls", "concurrent", "tasks", "cancel", "panic", "boxed", "local", "tiny", "all"];

struct Run {
    checksum: String,
    /// Stderr with threads masked, sorted: tasks run in any order.
    messages: Vec<String>,
    header: Value,
    spans: Vec<Value>,
}

fn run(name: &str, words: &[&str]) -> Run {
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.jsonl"));
    let program = env!("CARGO_BIN_EXE_truth-workload");
    let mut command = Command::new(program);
    command.args(words).arg("--out").arg(&out).env_remove("RUST_BACKTRACE");
    let done = command.output().expect("a run");
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{words:?}: {stderr}");
    let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
    let checksum = stdout.lines().last().unwrap_or_default().to_owned();
    assert!(checksum.starts_with("checksum "), "{stdout}");
    let mut messages: Vec<String> = stderr.lines().map(mask).collect();
    messages.sort_unstable();
    let (header, spans) =
        if words.contains(&"--no-guards") { (Value::Null, vec![]) } else { read(&out) };
    Run { checksum, messages, header, spans }
}

/// The name of the thread too: on a current-thread runtime it is another.
fn mask(line: &str) -> String {
    let from = line.find(" panicked at ").filter(|_| line.starts_with("thread '"));
    line[from.unwrap_or(0)..].to_owned()
}

fn read(path: &Path) -> (Value, Vec<Value>) {
    let text = std::fs::read_to_string(path).expect("a truth file");
    let mut lines = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    (lines.next().expect("a header"), lines.collect())
}

fn number(span: &Value, key: &str) -> Option<u64> {
    span[key].as_u64()
}

/// What holds for every span beside its parent.
fn check(run: &Run) {
    if run.header.is_null() {
        return;
    }
    let function: HashMap<u64, &str> = run.header["bodies"]
        .as_array()
        .expect("bodies")
        .iter()
        .map(|body| (body["id"].as_u64().expect("id"), body["function"].as_str().expect("name")))
        .collect();
    for (place, span) in run.spans.iter().enumerate() {
        assert_eq!(number(span, "id"), Some(place as u64 + 1));
        assert!(number(span, "addr").is_some_and(|addr| addr > 0), "{span}");
        assert_eq!(span["link"] == "root", span["parent"].is_null(), "{span}");
        assert_eq!(span["outcome"] == "running", span["end_ns"].is_null(), "{span}");
        assert!(number(span, "end_ns").is_none_or(|end| Some(end) >= number(span, "start_ns")));
        let Some(parent) = number(span, "parent") else { continue };
        let parent = &run.spans[parent as usize - 1];
        assert!(number(parent, "id") < number(span, "id"), "{span}");
        assert!(number(parent, "start_ns") <= number(span, "start_ns"), "{span}");
        assert_eq!(parent["agent"], span["agent"]);
        if span["link"] != "await" {
            continue;
        }
        if let Some(end) = number(parent, "end_ns") {
            assert!(number(span, "end_ns").is_some_and(|own| own <= end), "{parent} {span}");
        }
        if span["outcome"] == "panicked" {
            let catches = function[&number(parent, "body").expect("body")].contains("::catch");
            assert!(catches || parent["outcome"] == "panicked", "{parent} {span}");
        }
    }
}

#[test]
fn every_mix_holds_and_computes_the_same_whatever_the_scheduler_does() {
    for mix in MIXES {
        let words = ["--mix", mix, "--agents", "40", "--seed", "11"];
        let with = |more: &[&str]| {
            let run = run(&format!("mix-{mix}"), &[&words, more].concat());
            check(&run);
            run
        };
        let first = with(&[]);
        assert!(first.spans.len() > 1_000, "{mix}: {}", first.spans.len());
        for more in [
            &["--workers", "1"][..],
            &["--concurrent", "3"],
            &["--runtime", "current"],
            &["--no-guards"],
        ] {
            let other = with(more);
            assert_eq!(first.checksum, other.checksum, "{mix} {more:?}");
            assert_eq!(first.messages, other.messages, "{mix} {more:?}");
        }
        assert_ne!(first.checksum, with(&["--seed", "12"]).checksum, "{mix}");
    }
}

#[test]
fn every_body_runs_and_every_outcome_and_link_occurs() {
    let mut bodies = HashSet::new();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut known = 0;
    for mix in ["all", "tiny"] {
        let run = run(&format!("bodies-{mix}"), &["--mix", mix, "--agents", "200"]);
        known = run.header["bodies"].as_array().map_or(0, Vec::len);
        for span in &run.spans {
            bodies.insert(span["body"].as_u64());
            for key in ["outcome", "link"] {
                *seen.entry(format!("{key} {}", span[key].as_str().unwrap_or(""))).or_default() +=
                    1;
            }
        }
    }
    assert_eq!(bodies.len(), known);
    let outcomes = ["ok", "err", "cancelled", "panicked", "running"];
    let links = ["await", "spawn", "blocking", "root"];
    assert_eq!(seen.len(), outcomes.len() + links.len(), "{seen:?}");
}

#[test]
fn leaves_are_polled_as_often_as_asked() {
    for polls in [1_u64, 10, 100] {
        let text = polls.to_string();
        let run = run(&format!("polls-{polls}"), &["--mix", "calls", "--polls", &text]);
        let bodies = run.header["bodies"].as_array().expect("bodies");
        let leaves: HashSet<Option<u64>> = bodies
            .iter()
            .filter(|body| body["mix"] == "leaf")
            .map(|body| body["id"].as_u64())
            .collect();
        let mut of_leaves = run.spans.iter().filter(|span| leaves.contains(&number(span, "body")));
        assert!(of_leaves.all(|span| number(span, "polls") == Some(polls)));
    }
}
