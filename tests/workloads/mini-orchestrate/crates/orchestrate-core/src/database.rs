//! The database. Every method notes what it is about to ask for, then asks as the real one does:
//! through the pool, with statements that sqlx caches.

use crate::rows::{AgentRow, MessageRow};
use crate::{rows, schema, Agent, AgentState, AgentType, Message};
use anyhow::{Context, Result};
use chrono::Utc;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;
use workload_record::ask;

/// A pool of connections.
#[derive(Clone)]
pub struct Database {
    pool: SqlitePool,
}

/// What one turn of a conversation cost.
#[derive(Debug, Clone, Copy)]
pub struct TurnTokens {
    pub turn: u32,
    pub input: i64,
    pub output: i64,
    pub cache_read: i64,
    pub cache_write: i64,
}

/// What an agent cost so far.
#[derive(Debug, Clone, Copy)]
pub struct AgentTokens {
    pub turns: i64,
    pub input: i64,
    pub output: i64,
}

impl Database {
    /// Opens the file, creates and migrates it as needed.
    ///
    /// # Errors
    /// If it cannot be opened or is not a database.
    pub async fn new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let pool = SqlitePoolOptions::new()
            .max_connections(5)
            // All at once: sqlx sets each up with statements of its own, before the record sees
            // the connection, and on behalf of whoever needs it first.
            .min_connections(5)
            .acquire_timeout(Duration::from_secs(30))
            .idle_timeout(Duration::from_secs(600))
            .after_connect(|connection, _| {
                Box::pin(async move {
                    let mut handle = connection.lock_handle().await?;
                    // SAFETY: the handle is locked, hence valid and ours for now; sqlx uses it on
                    // one thread at a time, its worker or the holder of this lock.
                    unsafe { workload_record::sqlite::watch(handle.as_raw_handle().as_ptr()) };
                    Ok(())
                })
            })
            .connect(&format!("sqlite:{}?mode=rwc", path.display()))
            .await
            .with_context(|| format!("opening {}", path.display()))?;
        for pragma in [schema::JOURNAL, schema::FOREIGN_KEYS] {
            ask(pragma);
            sqlx::query(pragma).execute(&pool).await?;
        }
        let database = Self { pool };
        database.run_migrations().await?;
        Ok(database)
    }

    async fn run_migrations(&self) -> Result<()> {
        for migration in schema::MIGRATIONS {
            sqlx::query(migration).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Waits for its connections to end.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Adds an agent.
    ///
    /// # Errors
    /// If it is there, or on an error of the database, as in all methods below.
    pub async fn insert_agent(&self, agent: &Agent) -> Result<()> {
        ask(schema::INSERT_AGENT);
        sqlx::query(schema::INSERT_AGENT)
            .bind(agent.id.to_string())
            .bind(agent.agent_type.as_str())
            .bind(agent.state.as_str())
            .bind(&agent.task)
            .bind(serde_json::to_string(&agent.context)?)
            .bind(&agent.session_id)
            .bind(&agent.error_message)
            .bind(rows::timestamp(agent.created_at))
            .bind(rows::timestamp(agent.updated_at))
            .bind(agent.completed_at.map(rows::timestamp))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Stores what changed of an agent, unless something later is stored.
    pub async fn update_agent(&self, agent: &Agent) -> Result<()> {
        ask(schema::UPDATE_AGENT);
        sqlx::query(schema::UPDATE_AGENT)
            .bind(agent.state.as_str())
            .bind(&agent.task)
            .bind(serde_json::to_string(&agent.context)?)
            .bind(&agent.session_id)
            .bind(&agent.error_message)
            .bind(rows::timestamp(agent.updated_at))
            .bind(agent.completed_at.map(rows::timestamp))
            .bind(agent.id.to_string())
            .bind(rows::timestamp(agent.updated_at))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The agent with this id.
    pub async fn get_agent(&self, id: Uuid) -> Result<Option<Agent>> {
        ask(schema::GET_AGENT);
        let row = sqlx::query_as::<_, AgentRow>(schema::GET_AGENT)
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        row.map(Agent::try_from).transpose()
    }

    /// The agents in this state, latest first.
    pub async fn list_agents_by_state(&self, state: AgentState) -> Result<Vec<Agent>> {
        ask(schema::AGENTS_BY_STATE);
        let rows = sqlx::query_as::<_, AgentRow>(schema::AGENTS_BY_STATE)
            .bind(state.as_str())
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(Agent::try_from).collect()
    }

    /// The latest agents.
    pub async fn list_agents(&self, limit: i64) -> Result<Vec<Agent>> {
        ask(schema::LIST_AGENTS);
        let rows = sqlx::query_as::<_, AgentRow>(schema::LIST_AGENTS)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(Agent::try_from).collect()
    }

    /// How many agents there are.
    pub async fn count_agents(&self) -> Result<i64> {
        ask(schema::COUNT_AGENTS);
        Ok(sqlx::query_scalar(schema::COUNT_AGENTS).fetch_one(&self.pool).await?)
    }

    /// How many agents are in this state.
    pub async fn count_agents_by_state(&self, state: AgentState) -> Result<i64> {
        ask(schema::COUNT_BY_STATE);
        let count = sqlx::query_scalar(schema::COUNT_BY_STATE).bind(state.as_str());
        Ok(count.fetch_one(&self.pool).await?)
    }

    /// How many agents are of this type.
    pub async fn count_agents_by_type(&self, agent_type: AgentType) -> Result<i64> {
        ask(schema::COUNT_BY_TYPE);
        let count = sqlx::query_scalar(schema::COUNT_BY_TYPE).bind(agent_type.as_str());
        Ok(count.fetch_one(&self.pool).await?)
    }

    /// How many agents have something left to do.
    pub async fn count_unfinished(&self) -> Result<i64> {
        ask(schema::COUNT_UNFINISHED);
        Ok(sqlx::query_scalar(schema::COUNT_UNFINISHED).fetch_one(&self.pool).await?)
    }

    /// Adds a message to a conversation.
    pub async fn insert_message(&self, message: &Message) -> Result<i64> {
        ask(schema::INSERT_MESSAGE);
        let done = sqlx::query(schema::INSERT_MESSAGE)
            .bind(message.agent_id.to_string())
            .bind(message.role.as_str())
            .bind(&message.content)
            .bind(json_unless_empty(&message.tool_calls)?)
            .bind(json_unless_empty(&message.tool_results)?)
            .bind(message.input_tokens)
            .bind(message.output_tokens)
            .bind(rows::timestamp(message.created_at))
            .execute(&self.pool)
            .await?;
        Ok(done.last_insert_rowid())
    }

    /// An agent's conversation.
    pub async fn get_messages(&self, agent: Uuid) -> Result<Vec<Message>> {
        ask(schema::GET_MESSAGES);
        let rows = sqlx::query_as::<_, MessageRow>(schema::GET_MESSAGES)
            .bind(agent.to_string())
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(Message::try_from).collect()
    }

    /// How many messages of each role an agent has.
    pub async fn count_messages(&self, agent: Uuid) -> Result<Vec<(String, i64)>> {
        ask(schema::COUNT_MESSAGES);
        let counts = sqlx::query_as::<_, (String, i64)>(schema::COUNT_MESSAGES)
            .bind(agent.to_string())
            .fetch_all(&self.pool)
            .await?;
        Ok(counts)
    }

    /// Opens a session and gives its id.
    pub async fn create_session(&self, agent: Uuid) -> Result<String> {
        let id = Uuid::new_v4().to_string();
        ask(schema::CREATE_SESSION);
        sqlx::query(schema::CREATE_SESSION)
            .bind(&id)
            .bind(agent.to_string())
            .bind(rows::timestamp(Utc::now()))
            .execute(&self.pool)
            .await?;
        Ok(id)
    }

    /// Closes a session.
    pub async fn close_session(&self, id: &str, total_tokens: i64) -> Result<bool> {
        ask(schema::CLOSE_SESSION);
        let done = sqlx::query(schema::CLOSE_SESSION)
            .bind(rows::timestamp(Utc::now()))
            .bind(total_tokens)
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Stores what a turn cost.
    pub async fn record_session_tokens(
        &self,
        session: &str,
        agent: Uuid,
        tokens: TurnTokens,
    ) -> Result<()> {
        ask(schema::RECORD_TOKENS);
        sqlx::query(schema::RECORD_TOKENS)
            .bind(session)
            .bind(agent.to_string())
            .bind(tokens.turn)
            .bind(tokens.input)
            .bind(tokens.output)
            .bind(tokens.cache_read)
            .bind(tokens.cache_write)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Adds to what a model cost today.
    pub async fn update_daily_token_usage(&self, model: &str, tokens: TurnTokens) -> Result<()> {
        ask(schema::DAILY_TOKENS);
        sqlx::query(schema::DAILY_TOKENS)
            .bind(Utc::now().format("%Y-%m-%d").to_string())
            .bind(model)
            .bind(tokens.input)
            .bind(tokens.output)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// What an agent cost so far.
    pub async fn get_agent_token_stats(&self, agent: Uuid) -> Result<AgentTokens> {
        ask(schema::AGENT_TOKENS);
        let (turns, input, output) = sqlx::query_as::<_, (i64, i64, i64)>(schema::AGENT_TOKENS)
            .bind(agent.to_string())
            .fetch_one(&self.pool)
            .await?;
        Ok(AgentTokens { turns, input, output })
    }

    /// Saves a checkpoint and gives the number of them, in one transaction.
    pub async fn save_checkpoint(&self, agent: Uuid, label: &str) -> Result<i64> {
        ask("BEGIN");
        let mut transaction = self.pool.begin().await?;
        ask(schema::PUT_CHECKPOINT);
        sqlx::query(schema::PUT_CHECKPOINT)
            .bind(agent.to_string())
            .bind(label)
            .execute(&mut *transaction)
            .await?;
        ask(schema::GET_CHECKPOINT);
        let saved = sqlx::query_scalar(schema::GET_CHECKPOINT)
            .bind(agent.to_string())
            .fetch_one(&mut *transaction)
            .await?;
        ask("COMMIT");
        transaction.commit().await?;
        Ok(saved)
    }
}

fn json_unless_empty<T: serde::Serialize>(items: &[T]) -> Result<Option<String>> {
    if items.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::to_string(items)?))
}
