//! The REST API.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use orchestrate_core::{Agent, AgentState, AgentType, Database};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tracing::{info, warn};
use uuid::Uuid;

const MAX_TASK_LENGTH: usize = 10_000;

/// What the handlers share.
pub struct AppState {
    pub db: Database,
}

/// A refusal.
#[derive(Debug, Serialize)]
pub struct ApiError {
    error: String,
    code: &'static str,
}

#[derive(Debug, Serialize)]
struct AgentResponse {
    id: Uuid,
    agent_type: &'static str,
    state: &'static str,
    task: String,
    error_message: Option<String>,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Serialize)]
struct MessageResponse {
    role: &'static str,
    content: String,
    tool_calls: usize,
    created_at: String,
}

#[derive(Debug, Serialize)]
struct SystemStatus {
    total: i64,
    running: i64,
    completed: i64,
    failed: i64,
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    limit: Option<i64>,
}

/// A new agent.
#[derive(Debug, Deserialize)]
struct CreateAgentRequest {
    agent_type: String,
    task: String,
}

impl ApiError {
    fn not_found(what: &str) -> Self {
        Self { error: format!("{what} not found"), code: "not_found" }
    }

    fn validation(why: impl Into<String>) -> Self {
        Self { error: why.into(), code: "validation_error" }
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(error: anyhow::Error) -> Self {
        warn!("internal error: {error:#}");
        Self { error: format!("{error:#}"), code: "internal_error" }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.code {
            "not_found" => StatusCode::NOT_FOUND,
            "validation_error" => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self)).into_response()
    }
}

impl From<Agent> for AgentResponse {
    fn from(agent: Agent) -> Self {
        Self {
            id: agent.id,
            agent_type: agent.agent_type.as_str(),
            state: agent.state.as_str(),
            task: agent.task,
            error_message: agent.error_message,
            created_at: agent.created_at.to_rfc3339(),
            updated_at: agent.updated_at.to_rfc3339(),
        }
    }
}

/// The routes.
pub fn create_router(state: Arc<AppState>) -> Router {
    Router::new()
        .route("/api/health", get(health_check))
        .route("/api/status", get(system_status))
        .route("/api/agents", get(list_agents).post(create_agent))
        .route("/api/agents/:id", get(get_agent))
        .route("/api/agents/:id/messages", get(get_messages))
        .route_layer(axum::middleware::from_fn(crate::middleware::observe))
        .with_state(state)
}

async fn health_check() -> Json<serde_json::Value> {
    Json(serde_json::json!({"status": "ok"}))
}

async fn list_agents(
    State(state): State<Arc<AppState>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Vec<AgentResponse>>, ApiError> {
    let limit = query.limit.unwrap_or(50).clamp(1, 500);
    let agents = state.db.list_agents(limit).await?;
    Ok(Json(agents.into_iter().map(AgentResponse::from).collect()))
}

async fn get_agent(
    State(state): State<Arc<AppState>>,
    Path(id): Path<Uuid>,
) -> Result<Json<AgentResponse>, ApiError> {
    let agent = state.db.get_agent(id).await?.ok_or_else(|| ApiError::not_found("agent"))?;
    Ok(Json(agent.into()))
}

async fn create_agent(
    State(state): State<Arc<AppState>>,
    Json(request): Json<CreateAgentRequest>,
) -> Result<(StatusCode, Json<AgentResponse>), ApiError> {
    let agent_type: AgentType =
        request.agent_type.parse().map_err(|error| ApiError::validation(format!("{error:#}")))?;
    if request.task.trim().is_empty() || request.task.len() > MAX_TASK_LENGTH {
        return Err(ApiError::validation("the task is empty or too long"));
    }
    let agent = Agent::new(agent_type, request.task);
    state.db.insert_agent(&agent).await?;
    info!("agent {} created", agent.id);
    Ok((StatusCode::CREATED, Json(agent.into())))
}

async fn get_messages(
    State(state): State<Arc<AppState>>,
    Path(id): Path<Uuid>,
) -> Result<Json<Vec<MessageResponse>>, ApiError> {
    if state.db.get_agent(id).await?.is_none() {
        return Err(ApiError::not_found("agent"));
    }
    let messages = state.db.get_messages(id).await?;
    let messages = messages.into_iter().map(|message| MessageResponse {
        role: message.role.as_str(),
        content: message.content,
        tool_calls: message.tool_calls.len(),
        created_at: message.created_at.to_rfc3339(),
    });
    Ok(Json(messages.collect()))
}

async fn system_status(State(state): State<Arc<AppState>>) -> Result<Json<SystemStatus>, ApiError> {
    let total = state.db.count_agents().await?;
    let running = state.db.count_agents_by_state(AgentState::Running).await?;
    let completed = state.db.count_agents_by_state(AgentState::Completed).await?;
    let failed = state.db.count_agents_by_state(AgentState::Failed).await?;
    Ok(Json(SystemStatus { total, running, completed, failed }))
}
