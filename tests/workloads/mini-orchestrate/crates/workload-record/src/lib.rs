//! The record a workload keeps of its own work: agents, tools, SQL statements, requests and child
//! processes, as JSON lines. Nothing here is about any particular observer; the format is described
//! in the README of the workloads.
//!
//! A statement is known twice, by independent means: the *asking* side notes who asks
//! ([`ask`], identity from a task-local), the *executing* side hears of it from SQLite
//! ([`sqlite::watch`], identity from the `tracing` span that sqlx carries to its worker thread).

mod asker;
mod clock;
mod guard;
mod lines;
pub mod sqlite;
mod writer;

pub use asker::{ask, bind_span, current_tool, scope, Asker, KeepSpans};
pub use clock::{Interval, Stamp};
pub use guard::{AgentRun, ApiCall, ClientRequest, ServerRequest, ToolRun};
pub use lines::{Line, Outcome};
pub use writer::{init, Finish};

use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

static NEXT_SEQ: AtomicU64 = AtomicU64::new(1);

/// The next sequence number; one counter serves all kinds of lines.
pub(crate) fn next_seq() -> u64 {
    NEXT_SEQ.fetch_add(1, Ordering::Relaxed)
}

/// Records a change of an agent's state.
pub fn transition(agent: Uuid, from: &'static str, to: &'static str) {
    writer::write(Line::Transition { agent, from, to, at: Stamp::now() });
}

/// Records a child process that ended; `start` is the moment before it was started.
pub fn process(program: &str, pid: u32, start: Stamp, status: std::process::ExitStatus) {
    use std::os::unix::process::ExitStatusExt;
    let (asker, tool) = (asker::current(), current_tool());
    writer::write(Line::Process {
        seq: next_seq(),
        agent: asker.and_then(Asker::agent),
        tool,
        program: program.to_owned(),
        pid,
        exit_code: status.code(),
        signal: status.signal(),
        when: Interval::since(start),
    });
}
