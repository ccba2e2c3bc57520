//! What `orchestrate-trace … --json` printed.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A trace, as it was printed.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Spans in the order in which they ended.
    pub spans: Vec<Span>,
    /// What happened to the tracing itself.
    pub events: Vec<Event>,
    /// The account at the end; `None` where it is missing.
    pub summary: Option<Summary>,
}

/// One span.
#[derive(Clone, Debug, Deserialize)]
pub struct Span {
    /// Its trace.
    pub trace_id: String,
    /// Its id.
    pub span_id: String,
    /// Its parent's.
    pub parent_id: Option<String>,
    /// Such as `tool_call`.
    pub name: String,
    /// `internal`, `client` or `server`.
    pub kind: String,
    /// When it began: `CLOCK_MONOTONIC`, nanoseconds.
    pub start_mono_ns: u64,
    /// When it ended.
    pub end_mono_ns: Option<u64>,
    /// When it began: nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// When it ended.
    pub end_unix_ns: Option<u64>,
    /// How it ended.
    pub outcome: String,
    /// Where its coroutine is.
    pub address: u64,
    /// What it says about itself.
    pub attributes: Map<String, Value>,
}

impl Span {
    /// The function behind it, or nothing.
    pub fn function(&self) -> &str {
        self.attributes.get("code.function.name").and_then(Value::as_str).unwrap_or_default()
    }

    /// How often it was polled, where the tracer knows.
    pub fn polls(&self) -> Option<u64> {
        self.attributes.get("async.polls").and_then(Value::as_u64)
    }

    /// Its parent may exist, but the tracer is not certain.
    pub fn is_orphan(&self) -> bool {
        self.attributes.get("orchestrate.orphan").and_then(Value::as_bool).unwrap_or(false)
    }
}

/// Something that happened to the tracing itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// What.
    pub name: String,
    /// To which process.
    pub pid: Option<u32>,
    /// When: nanoseconds since the Unix epoch.
    pub start_unix_ns: Option<u64>,
}

/// The account at the end.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Summary {
    /// Spans handed out.
    pub spans: u64,
    /// Probe hits of the target.
    pub hits: u64,
    /// Records that came through the ring buffer.
    pub records: u64,
    /// What was lost, by name.
    pub drops: BTreeMap<String, u64>,
    /// How the probes were attached.
    #[serde(default)]
    pub mechanism: String,
    /// The rest, for a reader.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Summary {
    /// Losses that are not 0.
    pub fn lost(&self) -> BTreeMap<String, u64> {
        self.drops.iter().filter(|&(_, &n)| n > 0).map(|(name, &n)| (name.clone(), n)).collect()
    }
}

impl Trace {
    /// Reads JSON lines. The last line may be cut off: a tracer that was killed leaves it so.
    ///
    /// # Errors
    /// A line is not what the format says.
    pub fn read(mut lines: impl BufRead) -> Result<Self> {
        let mut trace = Self::default();
        let mut line = String::new();
        for number in 1_u64.. {
            line.clear();
            if lines.read_line(&mut line)? == 0 || !line.ends_with('\n') {
                break;
            }
            trace.line(&line).with_context(|| format!("line {number}: {}", line.trim_end()))?;
        }
        Ok(trace)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        #[derive(Deserialize)]
        struct Head<'a> {
            v: u64,
            r#type: &'a str,
        }
        let Head { v, r#type } = serde_json::from_str(line)?;
        if v != 1 {
            bail!("version {v} of the format, not 1");
        }
        match r#type {
            "span" => self.spans.push(serde_json::from_str(line)?),
            "event" => self.events.push(serde_json::from_str(line)?),
            "summary" => self.summary = Some(serde_json::from_str(line)?),
            other => bail!("type `{other}`"),
        }
        Ok(())
    }

    /// The account at the end.
    ///
    /// # Errors
    /// There is none: the tracer did not end in order.
    pub fn summary(&self) -> Result<&Summary> {
        self.summary.as_ref().context("the trace has no summary: the tracer did not end in order")
    }

    /// Positions of spans by their id.
    pub fn by_id(&self) -> HashMap<&str, usize> {
        self.spans.iter().enumerate().map(|(at, span)| (span.span_id.as_str(), at)).collect()
    }

    /// Positions of the spans below each, by position; `roots` have no parent that is known.
    pub fn children(&self) -> (Vec<usize>, Vec<Vec<usize>>) {
        let by_id = self.by_id();
        let mut roots = vec![];
        let mut below = vec![vec![]; self.spans.len()];
        for (at, span) in self.spans.iter().enumerate() {
            match span.parent_id.as_deref().and_then(|id| by_id.get(id)) {
                Some(&parent) => below[parent].push(at),
                None => roots.push(at),
            }
        }
        (roots, below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: &str = r#"{"v":1,"type":"span","trace_id":"t","span_id":"2","parent_id":"1","name":"n","kind":"internal","start_unix_ns":5,"end_unix_ns":null,"start_mono_ns":3,"end_mono_ns":null,"outcome":"running","address":64,"pid":1,"attributes":{"code.function.name":"a::b","async.polls":4}}"#;

    #[test]
    fn lines_are_read_and_a_cut_one_is_left_out() {
        let text = format!(
            "{SPAN}\n{}\n{}\n{{\"v\":1,\"ty",
            r#"{"v":1,"type":"event","name":"attached","start_unix_ns":1,"pid":7,"attributes":{}}"#,
            r#"{"v":1,"type":"summary","spans":1,"hits":9,"records":2,"drops":{"a":0,"b":2},"x":1}"#,
        );
        let trace = Trace::read(text.as_bytes()).unwrap();
        assert_eq!(trace.spans[0].function(), "a::b");
        assert_eq!(trace.spans[0].polls(), Some(4));
        assert_eq!(trace.events[0].name, "attached");
        let summary = trace.summary().unwrap();
        assert_eq!((summary.hits, summary.records), (9, 2));
        assert_eq!(summary.lost(), BTreeMap::from([("b".to_owned(), 2)]));
        assert!(Trace::read("{\"v\":2,\"type\":\"span\"}\n".as_bytes()).is_err());
        assert!(Trace::default().summary().is_err());
    }
}
