//! Agents and the states they go through.

use anyhow::{bail, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Gives an enum its names as they stand in the database.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($variant),* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in the database.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = anyhow::Error;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => bail!(concat!("unknown ", stringify!($name), " {:?}"), text),
                }
            }
        }
    };
}

named!(
    /// Where an agent is in its life.
    AgentState {
        Created = "created",
        Initializing = "initializing",
        Running = "running",
        Paused = "paused",
        Completed = "completed",
        Failed = "failed",
    }
);

named!(
    /// What an agent is for.
    AgentType {
        StoryDeveloper = "story_developer",
        CodeReviewer = "code_reviewer",
        IssueFixer = "issue_fixer",
        Explorer = "explorer",
        BmadPlanner = "bmad_planner",
        RegressionTester = "regression_tester",
        DocGenerator = "doc_generator",
        SecurityScanner = "security_scanner",
    }
);

impl AgentState {
    /// Whether `next` may follow.
    pub fn can_become(self, next: Self) -> bool {
        use AgentState::{Completed, Created, Failed, Initializing, Paused, Running};
        matches!(
            (self, next),
            (Created, Initializing)
                | (Initializing, Running | Failed | Paused)
                | (Running, Completed | Failed | Paused)
                | (Paused, Running)
        )
    }

    /// Whether nothing follows in this process.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Paused | Self::Completed | Self::Failed)
    }
}

impl AgentType {
    /// The model that its requests name.
    pub fn default_model(self) -> &'static str {
        match self {
            Self::Explorer | Self::CodeReviewer => "claude-3-haiku-20240307",
            _ => "claude-sonnet-4-20250514",
        }
    }

    /// The tools it is offered.
    pub fn allowed_tools(self) -> &'static [&'static str] {
        match self {
            Self::Explorer => &["read", "glob", "search", "db_query", "http_get"],
            Self::CodeReviewer => &["bash", "read", "glob", "search", "db_query", "http_get"],
            Self::SecurityScanner => {
                &["bash", "read", "write", "glob", "search", "db_query", "http_get", "explode"]
            }
            _ => &[
                "bash", "read", "write", "edit", "glob", "search", "db_query", "http_get",
                "explode",
            ],
        }
    }
}

/// What an agent is told beside its task.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AgentContext {
    /// Where its commands run.
    pub working_directory: Option<String>,
    /// How long it may take before it is stopped in the middle.
    pub deadline_ms: Option<u64>,
}

/// An agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Agent {
    pub id: Uuid,
    pub agent_type: AgentType,
    pub state: AgentState,
    pub task: String,
    pub context: AgentContext,
    pub session_id: Option<String>,
    pub error_message: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub completed_at: Option<DateTime<Utc>>,
}

impl Agent {
    /// An agent that has not begun.
    pub fn new(agent_type: AgentType, task: impl Into<String>) -> Self {
        let now = Utc::now();
        Self {
            id: Uuid::new_v4(),
            agent_type,
            state: AgentState::Created,
            task: task.into(),
            context: AgentContext::default(),
            session_id: None,
            error_message: None,
            created_at: now,
            updated_at: now,
            completed_at: None,
        }
    }

    /// Goes to the next state.
    ///
    /// # Errors
    /// If that state may not follow.
    pub fn transition_to(&mut self, next: AgentState) -> Result<()> {
        if !self.state.can_become(next) {
            bail!("agent {}: {} cannot become {}", self.id, self.state.as_str(), next.as_str());
        }
        workload_record::transition(self.id, self.state.as_str(), next.as_str());
        self.state = next;
        self.updated_at = Utc::now();
        if matches!(next, AgentState::Completed | AgentState::Failed) {
            self.completed_at = Some(self.updated_at);
        }
        Ok(())
    }

    /// Fails, saying why.
    ///
    /// # Errors
    /// If it has not begun or is over.
    pub fn fail(&mut self, why: &str) -> Result<()> {
        self.error_message = Some(why.to_owned());
        self.transition_to(AgentState::Failed)
    }
}
