//! The agent loop: ask the model, store what it said, run the tools it wants, until it is done.

use anyhow::Result;
use orchestrate_core::{
    Agent, AgentState, Database, Message, MessageRole, ToolCall, ToolResult, TurnTokens,
};
use serde_json::{json, Value};
use std::time::Instant;
use tracing::{debug, error, info, warn};
use workload_record::AgentRun;

use crate::client::{
    ClaudeClient, ContentBlock, CreateMessageRequest, MessageContent, MessageResponse,
    SystemContent,
};
use crate::token;
use crate::tools::ToolExecutor;

/// Limits of a loop.
#[derive(Debug, Clone)]
pub struct LoopConfig {
    /// The model to ask, or the agent type's own.
    pub model: Option<String>,
    pub max_turns: u32,
    pub max_idle_turns: u32,
    pub max_consecutive_errors: u32,
}

impl Default for LoopConfig {
    fn default() -> Self {
        Self { model: None, max_turns: 80, max_idle_turns: 5, max_consecutive_errors: 3 }
    }
}

/// Runs agents, one at a time each.
pub struct AgentLoop {
    client: ClaudeClient,
    db: Database,
    tool_executor: ToolExecutor,
    config: LoopConfig,
}

/// What the loop counts as it goes.
#[derive(Debug, Default)]
struct Progress {
    turn: u32,
    idle_turns: u32,
    consecutive_errors: u32,
    last_error: Option<String>,
    input_tokens: i64,
    output_tokens: i64,
    cache_read_tokens: i64,
}

impl AgentLoop {
    /// A loop with its own tools.
    pub fn new(
        client: ClaudeClient,
        db: Database,
        tool_executor: ToolExecutor,
        config: LoopConfig,
    ) -> Self {
        Self { client, db, tool_executor, config }
    }

    /// Runs an agent to its end. That an agent failed at its task is its state, not an error.
    ///
    /// # Errors
    /// If the database fails or the agent is in no state to run.
    #[tracing::instrument(skip(self, agent), fields(agent_id = %agent.id, agent_type = ?agent.agent_type))]
    pub async fn run(&self, agent: &mut Agent) -> Result<()> {
        let started = Instant::now();
        let model = self.model(agent);
        let mut record = AgentRun::begin(agent.id, agent.agent_type.as_str(), &model);
        info!("starting agent {}", agent.id);

        record.check(agent.transition_to(AgentState::Initializing))?;
        record.check(self.db.update_agent(agent).await)?;

        let mut messages = record.check(self.db.get_messages(agent.id).await)?;
        if messages.is_empty() {
            let first = Message::user(agent.id, &agent.task);
            record.check(self.db.insert_message(&first).await)?;
            messages.push(first);
        }

        let session = record.check(self.db.create_session(agent.id).await)?;
        agent.session_id = Some(session.clone());
        record.check(agent.transition_to(AgentState::Running))?;
        record.check(self.db.update_agent(agent).await)?;
        info!(
            "[AGENT {}] type {:?}, at most {} turns: {}",
            agent.id,
            agent.agent_type,
            self.config.max_turns,
            agent.task.chars().take(100).collect::<String>()
        );

        let mut progress = Progress::default();
        loop {
            progress.turn += 1;
            let turn_started = Instant::now();
            info!(
                "[AGENT {}] turn {}/{}, idle {}/{}, errors {}/{}, {} messages",
                agent.id,
                progress.turn,
                self.config.max_turns,
                progress.idle_turns,
                self.config.max_idle_turns,
                progress.consecutive_errors,
                self.config.max_consecutive_errors,
                messages.len()
            );
            if let Some(why) = self.stuck(&progress) {
                error!("[AGENT {}] stuck: {why}", agent.id);
                record.check(agent.fail(&why))?;
                break;
            }

            let request = self.request(agent, &model, &messages);
            let response = match self.client.create_message(request).await {
                Ok(response) => {
                    progress.consecutive_errors = 0;
                    response
                }
                Err(error) => {
                    progress.consecutive_errors += 1;
                    error!(
                        "[AGENT {}] API error {}/{}: {error:#}",
                        agent.id, progress.consecutive_errors, self.config.max_consecutive_errors
                    );
                    progress.last_error = Some(format!("API error: {error:#}"));
                    continue;
                }
            };

            let tokens = progress.count(&response);
            if tokens.cache_read > 0 || tokens.cache_write > 0 {
                debug!(
                    "[AGENT {}] cache: {} read, {} written",
                    agent.id, tokens.cache_read, tokens.cache_write
                );
            }
            if let Err(error) = self.db.record_session_tokens(&session, agent.id, tokens).await {
                warn!("[AGENT {}] tokens not recorded: {error:#}", agent.id);
            }
            if let Err(error) = self.db.update_daily_token_usage(&model, tokens).await {
                warn!("[AGENT {}] daily tokens not recorded: {error:#}", agent.id);
            }

            let (text, calls) = split(&response);
            debug!(
                "[AGENT {}] answer of {} characters, {} tool calls, stop reason {:?}",
                agent.id,
                text.len(),
                calls.len(),
                response.stop_reason
            );
            let answer = Message::assistant(agent.id, &text, calls.clone())
                .with_tokens(tokens.input, tokens.output);
            record.check(self.db.insert_message(&answer).await)?;
            messages.push(answer);

            if let Some(reason) = blocked_reason(&text) {
                warn!("[AGENT {}] blocked: {reason}", agent.id);
                record.check(agent.fail(&format!("agent blocked: {reason}")))?;
                break;
            }
            if calls.is_empty() {
                if text.contains("STATUS: COMPLETE") {
                    info!("[AGENT {}] complete", agent.id);
                    record.check(agent.transition_to(AgentState::Completed))?;
                    break;
                }
                progress.idle_turns += 1;
                warn!("[AGENT {}] no tool call and no status signal", agent.id);
                continue;
            }

            progress.idle_turns = 0;
            let mut results = Vec::with_capacity(calls.len());
            let mut failed = false;
            for call in &calls {
                debug!("[AGENT {}] tool {} with {}", agent.id, call.name, call.input);
                record.tool();
                let content = self.tool_executor.execute(&call.name, &call.input, agent).await;
                let is_error = content.starts_with("Error:");
                if is_error {
                    failed = true;
                    warn!("[AGENT {}] tool {}: {content}", agent.id, call.name);
                    progress.last_error = Some(content.clone());
                }
                results.push(ToolResult { tool_call_id: call.id.clone(), content, is_error });
            }
            progress.consecutive_errors = if failed { progress.consecutive_errors + 1 } else { 0 };

            let results = Message::tool_result(agent.id, results);
            record.check(self.db.insert_message(&results).await)?;
            messages.push(results);
            debug!("[AGENT {}] turn {} took {:?}", agent.id, progress.turn, turn_started.elapsed());
        }

        let total = progress.input_tokens + progress.output_tokens;
        match self.db.close_session(&session, total).await {
            Ok(true) => {}
            Ok(false) => warn!("[AGENT {}] session {session} was closed before", agent.id),
            Err(error) => warn!("[AGENT {}] session not closed: {error:#}", agent.id),
        }
        info!(
            "[AGENT {}] {:?} after {} turns and {:?}, tokens: {} in, {} out, {} from the cache",
            agent.id,
            agent.state,
            progress.turn,
            started.elapsed(),
            progress.input_tokens,
            progress.output_tokens,
            progress.cache_read_tokens
        );
        record.check(self.db.update_agent(agent).await)?;
        record.returned();
        Ok(())
    }

    fn model(&self, agent: &Agent) -> String {
        let own = agent.agent_type.default_model();
        self.config.model.clone().unwrap_or_else(|| own.to_owned())
    }

    fn stuck(&self, progress: &Progress) -> Option<String> {
        let last = progress.last_error.as_deref().unwrap_or("none");
        if progress.turn > self.config.max_turns {
            Some(format!("not done after {} turns", self.config.max_turns))
        } else if progress.idle_turns >= self.config.max_idle_turns {
            Some(format!("{} turns without progress", progress.idle_turns))
        } else if progress.consecutive_errors >= self.config.max_consecutive_errors {
            Some(format!("{} errors in a row, last: {last}", progress.consecutive_errors))
        } else {
            None
        }
    }

    fn request(&self, agent: &Agent, model: &str, messages: &[Message]) -> CreateMessageRequest {
        let context = messages.iter().map(token::estimate).sum();
        let stable = format!(
            "You are an agent of type {:?}.\n\nYour tools: {}.\n\nWhen your task is complete, say \
             \"STATUS: COMPLETE\". If you cannot go on, say \"STATUS: BLOCKED: <reason>\".",
            agent.agent_type,
            agent.agent_type.allowed_tools().join(", ")
        );
        CreateMessageRequest {
            model: model.to_owned(),
            max_tokens: token::output_budget(context),
            messages: token::window(messages).iter().map(to_api).collect(),
            system: vec![
                SystemContent::new(stable, true),
                SystemContent::new(format!("## Current task\n\n{}", agent.task), false),
            ],
            tools: self.tool_executor.get_tool_definitions(agent.agent_type),
        }
    }
}

impl Progress {
    fn count(&mut self, response: &MessageResponse) -> TurnTokens {
        let usage = response.usage;
        self.input_tokens += usage.input_tokens;
        self.output_tokens += usage.output_tokens;
        self.cache_read_tokens += usage.cache_read_input_tokens;
        TurnTokens {
            turn: self.turn,
            input: usage.input_tokens,
            output: usage.output_tokens,
            cache_read: usage.cache_read_input_tokens,
            cache_write: usage.cache_creation_input_tokens,
        }
    }
}

fn to_api(message: &Message) -> MessageContent {
    match message.role {
        MessageRole::User => MessageContent { role: "user", content: json!(message.content) },
        MessageRole::Assistant => {
            let mut blocks = Vec::new();
            if !message.content.is_empty() {
                blocks.push(json!({"type": "text", "text": message.content}));
            }
            blocks.extend(message.tool_calls.iter().map(|call| {
                json!({"type": "tool_use", "id": call.id, "name": call.name, "input": call.input})
            }));
            MessageContent { role: "assistant", content: Value::Array(blocks) }
        }
        MessageRole::Tool => {
            let blocks = message.tool_results.iter().map(|result| {
                json!({
                    "type": "tool_result",
                    "tool_use_id": result.tool_call_id,
                    "content": result.content,
                    "is_error": result.is_error,
                })
            });
            MessageContent { role: "user", content: blocks.collect() }
        }
    }
}

fn split(response: &MessageResponse) -> (String, Vec<ToolCall>) {
    let mut text = String::new();
    let mut calls = Vec::new();
    for block in &response.content {
        match block {
            ContentBlock::Text { text: more } => text.push_str(more),
            ContentBlock::ToolUse { id, name, input } => {
                calls.push(ToolCall { id: id.clone(), name: name.clone(), input: input.clone() })
            }
        }
    }
    (text, calls)
}

fn blocked_reason(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("STATUS: BLOCKED")?;
    let reason = after.trim_start_matches(':').lines().next().unwrap_or_default().trim();
    Some(if reason.is_empty() { "no reason given" } else { reason })
}
