//! Agents, their messages and sessions, and the SQLite database they live in.

pub mod agent;
pub mod database;
pub mod message;
mod rows;
mod schema;

pub use agent::{Agent, AgentContext, AgentState, AgentType};
pub use database::{AgentTokens, Database, TurnTokens};
pub use message::{Message, MessageRole, ToolCall, ToolResult};
