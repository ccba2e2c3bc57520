//! What was said in an agent's conversation.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageRole {
    User,
    Assistant,
    Tool,
}

impl MessageRole {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// A tool that the model wants run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    pub input: Value,
}

/// What a tool answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToolResult {
    pub tool_call_id: String,
    pub content: String,
    pub is_error: bool,
}

/// A message.
#[derive(Debug, Clone)]
pub struct Message {
    pub agent_id: Uuid,
    pub role: MessageRole,
    pub content: String,
    pub tool_calls: Vec<ToolCall>,
    pub tool_results: Vec<ToolResult>,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub created_at: DateTime<Utc>,
}

impl Message {
    fn new(agent_id: Uuid, role: MessageRole, content: &str) -> Self {
        Self {
            agent_id,
            role,
            content: content.to_owned(),
            tool_calls: Vec::new(),
            tool_results: Vec::new(),
            input_tokens: 0,
            output_tokens: 0,
            created_at: Utc::now(),
        }
    }

    /// From the user.
    pub fn user(agent_id: Uuid, content: &str) -> Self {
        Self::new(agent_id, MessageRole::User, content)
    }

    /// From the model.
    pub fn assistant(agent_id: Uuid, content: &str, calls: Vec<ToolCall>) -> Self {
        Self { tool_calls: calls, ..Self::new(agent_id, MessageRole::Assistant, content) }
    }

    /// What the tools answered.
    pub fn tool_result(agent_id: Uuid, results: Vec<ToolResult>) -> Self {
        Self { tool_results: results, ..Self::new(agent_id, MessageRole::Tool, "") }
    }

    /// With the tokens that the model counted.
    #[must_use]
    pub fn with_tokens(mut self, input: i64, output: i64) -> Self {
        self.input_tokens = input;
        self.output_tokens = output;
        self
    }
}
