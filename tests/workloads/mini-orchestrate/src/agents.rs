//! The agents that a new database gets.

use crate::Mix;
use anyhow::Result;
use orchestrate_core::{Agent, AgentType, Database};

/// What each kind of task asks for; words in brackets are for the stand-in.
const TASKS: &[&str] = &[
    "Summarise what the other agents did today",
    "Find out why the nightly build is slow",
    "Write release notes for the last milestone",
    "Review the error handling of the importer",
    "Look for tests that never fail",
];

/// Inserts `count` agents unless there are some.
///
/// # Errors
/// On an error of the database.
pub async fn fill(db: &Database, count: usize, mix: Mix) -> Result<()> {
    if db.count_agents().await? > 0 {
        return Ok(());
    }
    for number in 0..count {
        db.insert_agent(&agent(number, mix)).await?;
    }
    Ok(())
}

fn agent(number: usize, mix: Mix) -> Agent {
    let agent_type = AgentType::ALL[number % AgentType::ALL.len()];
    let task = format!("{} (task {number})", TASKS[number % TASKS.len()]);
    let mut agent = Agent::new(agent_type, task);
    if mix == Mix::Faults {
        match number % 5 {
            1 => agent.task.push_str(" [blocked]"),
            2 => agent.task.push_str(" [overloaded]"),
            3 => agent.context.deadline_ms = Some(40 + 35 * (number as u64 % 9)),
            4 => {
                agent.task.push_str(" [explode]");
                // Of a type that is offered the tool.
                agent.agent_type = AgentType::SecurityScanner;
            }
            _ => {}
        }
    }
    agent
}
