//! Statements and child processes, held against the record of the miniature orchestrate.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::trace::{Span, Trace};

/// How often something was, in the record (first) and in the trace (second), where these differ.
pub type Differences = BTreeMap<String, (u64, u64)>;

#[derive(Deserialize)]
struct Line {
    kind: String,
    #[serde(default)]
    sql: String,
    #[serde(default)]
    start_unix_ns: u64,
    program: Option<String>,
    pid: Option<u64>,
    exit_code: Option<i64>,
    signal: Option<i64>,
}

/// Statements and child processes of one run.
#[derive(Debug)]
pub struct Recorded {
    /// Statements, in record and trace.
    pub statements: (usize, usize),
    /// Statements by verb and table that are not as often in both.
    pub wrong_statements: Differences,
    /// Child processes, in record and trace.
    pub processes: (usize, usize),
    /// Child processes by program, process id and ending that are not in both.
    pub wrong_processes: Differences,
    /// Child processes that are not below a tool call.
    pub stray_processes: usize,
}

impl Recorded {
    /// Nothing differs.
    pub fn is_right(&self) -> bool {
        let Self { statements, wrong_statements, processes, wrong_processes, stray_processes } =
            self;
        statements.0 == statements.1
            && processes.0 == processes.1
            && wrong_statements.is_empty()
            && wrong_processes.is_empty()
            && *stray_processes == 0
    }
}

/// Compares what happened after `since` (nanoseconds since the Unix epoch).
///
/// # Errors
/// The record is not one.
pub fn compare(record: &str, trace: &Trace, since: u64) -> Result<Recorded> {
    let mut statements = Differences::new();
    let mut processes = Differences::new();
    let (mut all_statements, mut all_processes, mut stray_processes) = ((0, 0), (0, 0), 0);
    for line in record.lines() {
        let line: Line = serde_json::from_str(line).with_context(|| line.to_owned())?;
        match line.kind.as_str() {
            "statement" if line.start_unix_ns >= since => {
                all_statements.0 += 1;
                statements.entry(expected(&line.sql)).or_default().0 += 1;
            }
            "process" => {
                all_processes.0 += 1;
                let Line { program, pid, exit_code, signal, .. } = line;
                let ending =
                    exit_code.map_or_else(|| format!("signal {signal:?}"), |c| c.to_string());
                let program = program.unwrap_or_default();
                let key = format!("{program} {} {ending}", pid.unwrap_or_default());
                processes.entry(key).or_default().0 += 1;
            }
            _ => {}
        }
    }
    let by_id = trace.by_id();
    for span in &trace.spans {
        match span.name.as_str() {
            "database_query" if span.start_unix_ns >= since => {
                all_statements.1 += 1;
                let key = format!("{} {}", text(span, "query_type"), text(span, "table"));
                statements.entry(key).or_default().1 += 1;
            }
            "process" => {
                all_processes.1 += 1;
                let number = |key: &str| span.attributes.get(key).and_then(Value::as_i64);
                let ending = number("process.exit.code")
                    .map_or_else(|| text(span, "error.type").to_owned(), |code| code.to_string());
                let pid = number("process.pid").unwrap_or_default();
                let key = format!("{} {pid} {ending}", text(span, "process.executable.name"));
                processes.entry(key).or_default().1 += 1;
                let above = span.parent_id.as_deref().and_then(|id| by_id.get(id));
                let in_tool = above.is_some_and(|&at| trace.spans[at].name == "tool_call");
                stray_processes += usize::from(!in_tool);
            }
            _ => {}
        }
    }
    statements.retain(|_, (recorded, traced)| recorded != traced);
    processes.retain(|_, (recorded, traced)| recorded != traced);
    Ok(Recorded {
        statements: all_statements,
        wrong_statements: statements,
        processes: all_processes,
        wrong_processes: processes,
        stray_processes,
    })
}

fn text<'a>(span: &'a Span, key: &str) -> &'a str {
    span.attributes.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Verb and table of one of the miniature's own statements, by its fixed shape: the word behind
/// `FROM`, `INTO` or `UPDATE`.
fn expected(sql: &str) -> String {
    let words: Vec<&str> = sql.split_whitespace().collect();
    let verb = words.first().copied().unwrap_or_default();
    let before = match verb {
        "SELECT" => "FROM",
        "INSERT" => "INTO",
        "UPDATE" => "UPDATE",
        _ => return format!("{verb} "),
    };
    let at = words.iter().position(|word| *word == before).map(|at| at + 1);
    format!("{verb} {}", at.and_then(|at| words.get(at)).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"kind":"statement","sql":"SELECT a FROM t WHERE b","start_unix_ns":5}
{"kind":"statement","sql":"COMMIT","start_unix_ns":6}
{"kind":"statement","sql":"SELECT a FROM before","start_unix_ns":1}
{"kind":"process","program":"grep","pid":9,"exit_code":1,"start_unix_ns":6}
"#;

    fn trace(exit_code: u64, table: &str) -> Trace {
        let span = |name: &str, id: &str, parent: &str, attributes: &str| {
            format!(
                r#"{{"v":1,"type":"span","trace_id":"t","span_id":"{id}","parent_id":"{parent}","name":"{name}","kind":"internal","start_unix_ns":7,"end_unix_ns":8,"start_mono_ns":7,"end_mono_ns":8,"outcome":"returned","address":1,"attributes":{attributes}}}"#
            ) + "\n"
        };
        let lines = [
            span("tool_call", "1", "0", "{}"),
            span(
                "database_query",
                "2",
                "1",
                &format!(r#"{{"query_type":"SELECT","table":"{table}"}}"#),
            ),
            span("database_query", "3", "1", r#"{"query_type":"COMMIT"}"#),
            span(
                "process",
                "4",
                "1",
                &format!(
                    r#"{{"process.executable.name":"grep","process.pid":9,"process.exit.code":{exit_code}}}"#
                ),
            ),
        ];
        Trace::read(lines.concat().as_bytes()).unwrap()
    }

    #[test]
    fn what_differs_is_named() {
        let same = compare(RECORD, &trace(1, "t"), 3).unwrap();
        assert!(same.is_right(), "{same:?}");
        let wrong = compare(RECORD, &trace(0, "u"), 3).unwrap();
        assert!(!wrong.is_right());
        let keys = |all: &Differences| all.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&wrong.wrong_statements), ["SELECT t", "SELECT u"]);
        assert_eq!(keys(&wrong.wrong_processes), ["grep 9 0", "grep 9 1"]);
        // One that began before tracing did is in the record only.
        assert_eq!(compare(RECORD, &trace(1, "t"), 0).unwrap().statements, (3, 2));
    }
}
