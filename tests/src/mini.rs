//! What the miniature orchestrate recorded of itself; `tests/workloads/README.md` describes it.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::agents::Agent;

#[derive(Deserialize)]
struct Line {
    kind: String,
    #[serde(default)]
    seq: u64,
    agent: Option<String>,
    agent_type: Option<String>,
    outcome: Option<String>,
    tool: Option<u64>,
    ask: Option<u64>,
    lines: Option<u64>,
    #[serde(default)]
    start_unix_ns: u64,
    #[serde(default)]
    end_unix_ns: u64,
}

/// Reads a record into what is known of each agent.
///
/// # Errors
/// It is cut off, or no record.
pub fn agents(record: &str) -> Result<Vec<Agent>> {
    let mut lines: Vec<Line> = vec![];
    for line in record.lines() {
        lines.push(serde_json::from_str(line).with_context(|| line.to_owned())?);
    }
    let end = lines.last().filter(|line| line.kind == "end");
    ensure!(
        end.and_then(|end| end.lines) == Some(lines.len().saturating_sub(1) as u64),
        "the record is cut off: the program did not end in order"
    );

    // Each agent's tools in the order in which they began.
    let mut tools: Vec<&Line> = lines.iter().filter(|line| line.kind == "tool").collect();
    tools.sort_by_key(|tool| tool.seq);
    let mut place: HashMap<u64, usize> = HashMap::new();
    let mut calls: HashMap<&str, Vec<_>> = HashMap::new();
    for tool in tools {
        let own = calls.entry(tool.agent.as_deref().unwrap_or_default()).or_default();
        place.insert(tool.seq, own.len());
        own.push((tool.start_unix_ns, tool.end_unix_ns));
    }
    // A statement names the ask that it answers, and that one the tool.
    let asked_in: HashMap<u64, Option<usize>> = lines
        .iter()
        .filter(|line| line.kind == "ask")
        .map(|ask| (ask.seq, ask.tool.and_then(|tool| place.get(&tool).copied())))
        .collect();
    let mut statements: HashMap<&str, BTreeMap<Option<usize>, u64>> = HashMap::new();
    let mut requests: HashMap<&str, Vec<_>> = HashMap::new();
    for line in &lines {
        let Some(agent) = line.agent.as_deref() else { continue };
        match line.kind.as_str() {
            "statement" => {
                let tool = line.ask.and_then(|ask| asked_in.get(&ask).copied()).flatten();
                *statements.entry(agent).or_default().entry(tool).or_default() += 1;
            }
            "api" => {
                let own = requests.entry(agent).or_default();
                own.push((line.start_unix_ns, line.end_unix_ns));
            }
            _ => {}
        }
    }
    let agent = |line: &Line| {
        let id = line.agent.clone().unwrap_or_default();
        let mut requests = requests.remove(id.as_str()).unwrap_or_default();
        requests.sort_unstable();
        Agent {
            ran: (line.start_unix_ns, line.end_unix_ns),
            kind: line.agent_type.clone().unwrap_or_default(),
            // A trace tells errors from values only where the binary describes its types.
            outcome: line.outcome.clone().filter(|outcome| outcome != "error"),
            tools: calls.remove(id.as_str()).unwrap_or_default(),
            statements: Some(statements.remove(id.as_str()).unwrap_or_default()),
            requests,
            partial: false,
            id,
        }
    };
    Ok(lines.iter().filter(|line| line.kind == "agent").map(agent).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"kind":"begin","pid":1,"args":[],"unix_ns":1,"mono_ns":1}
{"kind":"agent_begin","seq":1,"agent":"a","agent_type":"t","model":"m","unix_ns":10,"mono_ns":1}
{"kind":"tool_begin","seq":2,"agent":"a","name":"db_query","unix_ns":20,"mono_ns":1}
{"kind":"ask","seq":3,"agent":"a","tool":2,"sql":"s","unix_ns":21,"mono_ns":1}
{"kind":"ask","seq":5,"tool":null,"sql":"poll","unix_ns":22,"mono_ns":1}
{"kind":"statement","seq":4,"conn":1,"tid":2,"ask":3,"agent":"a","sql":"s","sqlite_ns":0,"start_unix_ns":22,"start_mono_ns":1,"end_unix_ns":23,"end_mono_ns":2}
{"kind":"statement","seq":6,"conn":1,"tid":2,"ask":5,"sql":"poll","sqlite_ns":0,"start_unix_ns":22,"start_mono_ns":1,"end_unix_ns":23,"end_mono_ns":2}
{"kind":"tool","seq":2,"agent":"a","name":"db_query","outcome":"returned","start_unix_ns":20,"start_mono_ns":1,"end_unix_ns":25,"end_mono_ns":2}
{"kind":"ask","seq":7,"agent":"a","tool":null,"sql":"s","unix_ns":26,"mono_ns":1}
{"kind":"statement","seq":8,"conn":1,"tid":2,"ask":7,"agent":"a","sql":"s","sqlite_ns":0,"start_unix_ns":26,"start_mono_ns":1,"end_unix_ns":27,"end_mono_ns":2}
{"kind":"api","seq":9,"agent":"a","path":"/v1/messages","outcome":"returned","start_unix_ns":28,"start_mono_ns":1,"end_unix_ns":29,"end_mono_ns":2}
{"kind":"agent","seq":1,"agent":"a","agent_type":"t","model":"m","outcome":"returned","tools":1,"start_unix_ns":10,"start_mono_ns":1,"end_unix_ns":30,"end_mono_ns":2}
{"kind":"end","lines":12,"unix_ns":31,"mono_ns":3}
"#;

    #[test]
    fn a_record_says_what_each_agent_did() {
        let found = agents(RECORD).unwrap();
        assert_eq!(
            found,
            [Agent {
                id: "a".into(),
                kind: "t".into(),
                ran: (10, 30),
                outcome: Some("returned".into()),
                tools: vec![(20, 25)],
                statements: Some(BTreeMap::from([(Some(0), 1), (None, 1)])),
                requests: vec![(28, 29)],
                partial: false,
            }]
        );
    }

    #[test]
    fn a_cut_record_is_refused() {
        let cut = RECORD.rsplit_once("{\"kind\":\"end\"").unwrap().0;
        assert!(agents(cut).unwrap_err().to_string().contains("cut off"));
    }
}
