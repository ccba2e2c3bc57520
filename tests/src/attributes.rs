//! Holds the attributes of agents' and tools' spans against what the miniature orchestrate
//! recorded of itself.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::agents::SLACK_NS;
use crate::trace::{Span, Trace};

/// What became of one attribute, over all spans that should have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Spans that should have it.
    pub spans: u64,
    /// Spans on which it is what was recorded.
    pub right: u64,
    /// Spans on which it is something else.
    pub wrong: u64,
}

impl Tally {
    /// Every span has it, and it is right.
    pub fn is_whole(self) -> bool {
        self.spans > 0 && self.right == self.spans
    }

    /// None is wrong, and 95 of 100 are there.
    pub fn is_good(self) -> bool {
        self.wrong == 0 && self.spans > 0 && self.right * 100 >= self.spans * 95
    }

    fn add(&mut self, found: Option<&str>, is_right: impl FnOnce(&str) -> bool) {
        self.spans += 1;
        if let Some(found) = found {
            *if is_right(found) { &mut self.right } else { &mut self.wrong } += 1;
        }
    }
}

#[derive(Deserialize)]
struct Line {
    kind: String,
    #[serde(default)]
    agent: Option<String>,
    #[serde(default)]
    agent_type: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    start_unix_ns: u64,
}

/// Compares the trace of a whole run with its record: by attribute.
///
/// # Errors
/// The record is none.
pub fn compare(record: &str, trace: &Trace) -> Result<BTreeMap<&'static str, Tally>> {
    let mut lines: Vec<Line> = vec![];
    for line in record.lines() {
        lines.push(serde_json::from_str(line).with_context(|| line.to_owned())?);
    }
    let of = |kind: &'static str| lines.iter().filter(move |line| line.kind == kind);
    let began_with =
        |line: &Line, span: &Span| line.start_unix_ns.abs_diff(span.start_unix_ns) <= SLACK_NS;
    let by_id = trace.by_id();
    let mut tallies = BTreeMap::new();
    for span in &trace.spans {
        let own = |key: &str| span.attributes.get(key).and_then(|value| value.as_str());
        match span.name.as_str() {
            "agent_execution" => {
                let id = own("agent_id");
                let agent = of("agent").find(|line| line.agent.as_deref() == id && id.is_some());
                let tally: &mut Tally = tallies.entry("agent_id").or_default();
                tally.add(id, |_| agent.is_some_and(|line| began_with(line, span)));
                let known = agent.and_then(|line| line.agent_type.as_deref());
                let tally: &mut Tally = tallies.entry("agent_type").or_default();
                tally.add(own("agent_type"), |found| known == Some(found));
            }
            "tool_call" => {
                let agent = agent_above(trace, &by_id, span);
                let tally: &mut Tally = tallies.entry("tool_name").or_default();
                tally.add(own("tool_name"), |found| {
                    of("tool").any(|line| {
                        line.name.as_deref() == Some(found)
                            && line.agent.as_deref() == agent
                            && began_with(line, span)
                    })
                });
            }
            _ => {}
        }
    }
    Ok(tallies)
}

/// The id of the agent in whose tree a span is.
fn agent_above<'t>(
    trace: &'t Trace,
    by_id: &std::collections::HashMap<&str, usize>,
    mut span: &'t Span,
) -> Option<&'t str> {
    loop {
        let parent = span.parent_id.as_deref()?;
        span = &trace.spans[*by_id.get(parent)?];
        if span.name == "agent_execution" {
            return span.attributes.get("agent_id")?.as_str();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;

    const S: u64 = 1_000_000_000;
    const RECORD: &str = r#"{"kind":"agent","agent":"a","agent_type":"explorer","start_unix_ns":1000000000}
{"kind":"tool","agent":"a","name":"bash","start_unix_ns":2000000000}"#;

    fn span(id: &str, parent: Option<&str>, name: &str, at: u64, with: &[(&str, &str)]) -> Span {
        let with = with.iter().map(|(key, value)| ((*key).into(), Value::from(*value)));
        Span {
            kind: "internal".into(),
            trace_id: "t".into(),
            span_id: id.into(),
            parent_id: parent.map(Into::into),
            name: name.into(),
            start_mono_ns: at,
            end_mono_ns: None,
            start_unix_ns: at,
            end_unix_ns: None,
            outcome: "returned".into(),
            address: 0,
            attributes: with.collect::<Map<_, _>>(),
        }
    }

    fn tally(agent: &[(&str, &str)], tool: &[(&str, &str)]) -> [Tally; 3] {
        let spans = vec![
            span("1", None, "agent_execution", S, agent),
            span("2", Some("1"), "tool_call", 2 * S, tool),
        ];
        let all = compare(RECORD, &Trace { spans, ..Trace::default() }).unwrap();
        ["agent_id", "agent_type", "tool_name"].map(|key| all[key])
    }

    #[test]
    fn right_wrong_and_missing_are_told_apart() {
        let agent = [("agent_id", "a"), ("agent_type", "explorer")];
        let all = tally(&agent, &[("tool_name", "bash")]);
        assert!(all.iter().all(|tally| tally.is_whole() && tally.is_good()), "{all:?}");
        let all = tally(&[("agent_id", "b"), ("agent_type", "explorer")], &[]);
        assert_eq!(all.map(|tally| (tally.right, tally.wrong)), [(0, 1), (0, 1), (0, 0)]);
        // The right name under the wrong agent is not right.
        let all = tally(&[], &[("tool_name", "bash")]);
        assert_eq!(all.map(|tally| (tally.right, tally.wrong)), [(0, 0), (0, 0), (0, 1)]);
        assert!(!all.iter().any(|tally| tally.is_good()));
    }
}
