//! The lines of the record. The README of the workloads describes them; change both together.

use crate::{Asker, Interval, Stamp};
use serde::Serialize;
use uuid::Uuid;

/// How a piece of work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran to its end.
    Returned,
    /// It ran to its end and returned an error.
    Error,
    /// It was dropped before its end.
    Cancelled,
    /// It was unwound by a panic.
    Panicked,
}

/// One line of the record.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    Begin {
        pid: u32,
        args: Vec<String>,
        #[serde(flatten)]
        at: Stamp,
    },
    AgentBegin {
        seq: u64,
        agent: Uuid,
        agent_type: &'static str,
        model: String,
        #[serde(flatten)]
        at: Stamp,
    },
    Agent {
        seq: u64,
        agent: Uuid,
        agent_type: &'static str,
        model: String,
        outcome: Outcome,
        tools: u64,
        #[serde(flatten)]
        when: Interval,
    },
    Transition {
        agent: Uuid,
        from: &'static str,
        to: &'static str,
        #[serde(flatten)]
        at: Stamp,
    },
    ToolBegin {
        seq: u64,
        agent: Uuid,
        name: String,
        #[serde(flatten)]
        at: Stamp,
    },
    Tool {
        seq: u64,
        agent: Uuid,
        name: String,
        outcome: Outcome,
        #[serde(flatten)]
        when: Interval,
    },
    Ask {
        seq: u64,
        #[serde(flatten)]
        asker: Option<Asker>,
        tool: Option<u64>,
        sql: String,
        #[serde(flatten)]
        at: Stamp,
    },
    Statement {
        seq: u64,
        conn: u32,
        tid: u32,
        ask: Option<u64>,
        #[serde(flatten)]
        asker: Option<Asker>,
        sql: String,
        sqlite_ns: u64,
        #[serde(flatten)]
        when: Interval,
    },
    Api {
        seq: u64,
        agent: Option<Uuid>,
        path: &'static str,
        request_model: String,
        response_model: Option<String>,
        id: Option<String>,
        status: Option<u16>,
        stop_reason: Option<String>,
        input_tokens: i64,
        output_tokens: i64,
        cache_read_input_tokens: i64,
        cache_creation_input_tokens: i64,
        outcome: Outcome,
        #[serde(flatten)]
        when: Interval,
    },
    HttpClient {
        seq: u64,
        agent: Option<Uuid>,
        tool: Option<u64>,
        method: &'static str,
        path: String,
        status: Option<u16>,
        outcome: Outcome,
        #[serde(flatten)]
        when: Interval,
    },
    HttpServer {
        seq: u64,
        client: Option<u64>,
        method: String,
        path: String,
        route: Option<String>,
        status: Option<u16>,
        outcome: Outcome,
        #[serde(flatten)]
        when: Interval,
    },
    Process {
        seq: u64,
        agent: Option<Uuid>,
        tool: Option<u64>,
        program: String,
        pid: u32,
        exit_code: Option<i32>,
        signal: Option<i32>,
        #[serde(flatten)]
        when: Interval,
    },
    End {
        lines: u64,
        #[serde(flatten)]
        at: Stamp,
    },
}
