//! The client of the Messages API: one `reqwest` client, one endpoint.

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use workload_record::{ApiCall, Outcome};

/// A client; clones share their connections.
#[derive(Clone)]
pub struct ClaudeClient {
    api_key: String,
    base_url: String,
    client: reqwest::Client,
}

/// What is asked.
#[derive(Debug, Clone, Serialize)]
pub struct CreateMessageRequest {
    pub model: String,
    pub max_tokens: u32,
    pub messages: Vec<MessageContent>,
    pub system: Vec<SystemContent>,
    pub tools: Vec<Tool>,
}

/// One message of the conversation.
#[derive(Debug, Clone, Serialize)]
pub struct MessageContent {
    pub role: &'static str,
    pub content: Value,
}

/// One block of the system prompt.
#[derive(Debug, Clone, Serialize)]
pub struct SystemContent {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<CacheControl>,
}

/// Asks for a block to be cached.
#[derive(Debug, Clone, Serialize)]
pub struct CacheControl {
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// A tool that the model may use.
#[derive(Debug, Clone, Serialize)]
pub struct Tool {
    pub name: &'static str,
    pub description: &'static str,
    pub input_schema: Value,
}

/// What is answered.
#[derive(Debug, Clone, Deserialize)]
pub struct MessageResponse {
    pub id: String,
    pub content: Vec<ContentBlock>,
    pub model: String,
    pub stop_reason: Option<String>,
    pub usage: Usage,
}

/// One block of an answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    Text { text: String },
    ToolUse { id: String, name: String, input: Value },
}

/// What an answer cost.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Usage {
    pub input_tokens: i64,
    pub output_tokens: i64,
    #[serde(default)]
    pub cache_read_input_tokens: i64,
    #[serde(default)]
    pub cache_creation_input_tokens: i64,
}

impl SystemContent {
    /// A block; a stable one is worth caching.
    pub fn new(text: String, stable: bool) -> Self {
        let cache_control = stable.then_some(CacheControl { kind: "ephemeral" });
        Self { kind: "text", text, cache_control }
    }
}

impl ClaudeClient {
    /// A client of the API under this URL.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(api_key: impl Into<String>, base_url: impl Into<String>) -> Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(120))
            .connect_timeout(Duration::from_secs(30))
            .build()
            .context("setting up the HTTP client")?;
        Ok(Self { api_key: api_key.into(), base_url: base_url.into(), client })
    }

    /// Asks for the next message of a conversation.
    ///
    /// # Errors
    /// If the API cannot be reached, refuses, or answers something else than a message.
    pub async fn create_message(&self, request: CreateMessageRequest) -> Result<MessageResponse> {
        let mut call = ApiCall::begin(&request.model);
        let result = self.send(&request, &mut call).await;
        call.outcome = Some(if result.is_ok() { Outcome::Returned } else { Outcome::Error });
        result
    }

    async fn send(
        &self,
        request: &CreateMessageRequest,
        call: &mut ApiCall,
    ) -> Result<MessageResponse> {
        let headers = [
            ("x-api-key", self.api_key.as_str()),
            ("anthropic-version", "2023-06-01"),
            ("anthropic-beta", "prompt-caching-2024-07-31"),
        ];
        let mut builder = self.client.post(format!("{}/messages", self.base_url));
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        let response = builder.json(request).send().await?;
        let status = response.status();
        call.status = Some(status.as_u16());
        if !status.is_success() {
            let body = response.text().await?;
            bail!("the Messages API answered {status}: {body}");
        }
        let message: MessageResponse = response.json().await?;
        let Usage {
            input_tokens,
            output_tokens,
            cache_read_input_tokens,
            cache_creation_input_tokens,
        } = message.usage;
        call.tokens =
            [input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens];
        call.id = Some(message.id.clone());
        call.response_model = Some(message.model.clone());
        call.stop_reason.clone_from(&message.stop_reason);
        Ok(message)
    }
}
