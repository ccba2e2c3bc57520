//! The agent loop, its tools, and the client of the Messages API.

pub mod client;
pub mod loop_runner;
pub mod token;
pub mod tools;

pub use client::ClaudeClient;
pub use loop_runner::{AgentLoop, LoopConfig};
pub use tools::ToolExecutor;
