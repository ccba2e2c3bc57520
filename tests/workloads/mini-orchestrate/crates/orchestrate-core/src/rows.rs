//! Rows as the tables have them.

use crate::{Agent, Message, MessageRole};
use anyhow::{bail, Context, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::FromRow;
use uuid::Uuid;

#[derive(FromRow)]
pub struct AgentRow {
    id: String,
    agent_type: String,
    state: String,
    task: String,
    context: String,
    session_id: Option<String>,
    error_message: Option<String>,
    created_at: String,
    updated_at: String,
    completed_at: Option<String>,
}

impl TryFrom<AgentRow> for Agent {
    type Error = anyhow::Error;

    fn try_from(row: AgentRow) -> Result<Self> {
        Ok(Self {
            id: Uuid::parse_str(&row.id)?,
            agent_type: row.agent_type.parse()?,
            state: row.state.parse()?,
            task: row.task,
            context: serde_json::from_str(&row.context)
                .with_context(|| format!("context of agent {}", row.id))?,
            session_id: row.session_id,
            error_message: row.error_message,
            created_at: time(&row.created_at)?,
            updated_at: time(&row.updated_at)?,
            completed_at: row.completed_at.as_deref().map(time).transpose()?,
        })
    }
}

#[derive(FromRow)]
pub struct MessageRow {
    agent_id: String,
    role: String,
    content: String,
    tool_calls: Option<String>,
    tool_results: Option<String>,
    input_tokens: i64,
    output_tokens: i64,
    created_at: String,
}

impl TryFrom<MessageRow> for Message {
    type Error = anyhow::Error;

    fn try_from(row: MessageRow) -> Result<Self> {
        Ok(Self {
            agent_id: Uuid::parse_str(&row.agent_id)?,
            role: match row.role.as_str() {
                "user" => MessageRole::User,
                "assistant" => MessageRole::Assistant,
                "tool" => MessageRole::Tool,
                other => bail!("unknown role {other:?}"),
            },
            content: row.content,
            tool_calls: row
                .tool_calls
                .map_or(Ok(Vec::new()), |json| serde_json::from_str(&json))?,
            tool_results: row
                .tool_results
                .map_or(Ok(Vec::new()), |json| serde_json::from_str(&json))?,
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            created_at: time(&row.created_at)?,
        })
    }
}

/// A time as it is stored; of fixed width, so that the order of texts is that of times.
pub fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

fn time(text: &str) -> Result<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text).with_context(|| format!("time {text:?}"))?;
    Ok(time.with_timezone(&Utc))
}
