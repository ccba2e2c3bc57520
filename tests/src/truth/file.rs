//! The truth file; the workload's `record` module says what is in it.

use std::collections::HashMap;
use std::io::BufRead;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A run of the truth workload.
#[derive(Clone, Debug)]
pub struct Truth {
    /// What was executed.
    pub header: Header,
    /// What happened, ordered by id; ids count from 1.
    pub spans: Vec<Span>,
}

/// The first line.
#[derive(Clone, Debug, Deserialize)]
pub struct Header {
    /// Which plans.
    pub seed: u64,
    /// Of which bodies.
    pub mix: String,
    /// How many.
    pub agents: u64,
    /// Threads.
    pub workers: u64,
    /// What was computed.
    pub checksum: String,
    /// Every body there is.
    pub bodies: Vec<Body>,
}

/// An async function.
#[derive(Clone, Debug, Deserialize)]
pub struct Body {
    /// Its number in the file.
    pub id: u32,
    /// Demangled path, without `{{closure}}`.
    pub function: String,
    /// Source file.
    pub file: String,
    /// Line of its `async fn`.
    pub line: u32,
    /// The mix that it belongs to.
    pub mix: String,
}

/// One call of a body, from its first poll to its end.
#[derive(Clone, Debug, Deserialize)]
pub struct Span {
    /// From 1.
    pub id: u64,
    /// Who called or spawned it.
    pub parent: Option<u64>,
    /// Which body.
    pub body: u32,
    /// Address of its guard, inside the coroutine.
    pub addr: u64,
    /// `CLOCK_MONOTONIC`, inside its first poll.
    pub start_ns: u64,
    /// Inside its last poll or its drop; `None` while running.
    pub end_ns: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// How often it was polled, where that is certain.
    pub polls: Option<u64>,
    /// How it is connected with its parent.
    pub link: Link,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Returned a value.
    Ok,
    /// Returned an error.
    Err,
    /// A panic left it.
    Panicked,
    /// Dropped while suspended.
    Cancelled,
    /// Not at all.
    Running,
}

impl Outcome {
    /// Whether `traced` says the same. An error can be told from a value only where the binary
    /// describes its types, so `returned` says the same of both.
    pub fn is(self, traced: &str) -> bool {
        match self {
            Self::Ok => traced == "returned",
            Self::Err => traced == "returned" || traced == "error",
            Self::Panicked => traced == "panicked",
            Self::Cancelled => traced == "cancelled",
            Self::Running => traced == "running",
        }
    }
}

/// How a span is connected with its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Polled inside the parent's poll.
    Await,
    /// A task that the parent spawned.
    Spawn,
    /// Under `block_on` in a blocking task that the parent spawned.
    Blocking,
    /// No parent.
    Root,
}

impl Truth {
    /// Reads a truth file.
    ///
    /// # Errors
    /// It is not one.
    pub fn read(lines: impl BufRead) -> Result<Self> {
        let mut lines = lines.lines();
        let header = lines.next().context("an empty truth file")??;
        let header = serde_json::from_str(&header).context("the truth file's first line")?;
        let mut spans: Vec<Span> = vec![];
        for line in lines {
            let line = line?;
            let span: Span = serde_json::from_str(&line).with_context(|| line.clone())?;
            if span.id != spans.len() as u64 + 1 || span.parent.is_some_and(|id| id >= span.id) {
                bail!("out of order: {line}");
            }
            spans.push(span);
        }
        Ok(Self { header, spans })
    }

    /// Bodies by number.
    pub fn bodies(&self) -> HashMap<u32, &Body> {
        self.header.bodies.iter().map(|body| (body.id, body)).collect()
    }

    /// The span of this id.
    pub fn span(&self, id: u64) -> &Span {
        &self.spans[id as usize - 1]
    }
}
