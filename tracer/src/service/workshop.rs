//! Threads that do what takes a while, so that the main loop never waits: inspecting a program
//! and placing probes, taking them away, sending the last spans.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use super::discovery::Identity;
use super::main_loop::Message;
use crate::assemble::Output;
use crate::events::StopReason;
use crate::export::{ExportStats, Exporters};
use crate::session::{Session, SessionError, SessionOptions, Summary};

/// At work at once.
const THREADS: usize = 2;
/// How long the last spans of a process may take.
pub(super) const FLUSH: Duration = Duration::from_secs(5);

/// Something to do.
pub(super) enum Job {
    /// Attach to a process.
    Attach {
        /// Which.
        pid: u32,
        /// What it was when it was found.
        identity: Identity,
        /// How.
        options: Box<SessionOptions>,
    },
    /// Detach from one.
    Finish {
        /// Which.
        pid: u32,
        /// Its session.
        session: Box<Session>,
        /// Why.
        why: StopReason,
    },
}

/// What came of it.
pub(super) enum Done {
    /// Of [`Job::Attach`].
    Attached {
        /// Which process.
        pid: u32,
        /// What it was when it was found.
        identity: Identity,
        /// Its session, or why there is none.
        result: Result<Box<Session>, String>,
    },
    /// Of [`Job::Finish`].
    Finished {
        /// Which process.
        pid: u32,
        /// Its last spans.
        outputs: Vec<Output>,
        /// What was seen and lost.
        summary: Result<Box<Summary>, String>,
    },
    /// Exporters have sent what they had.
    Closed {
        /// What they sent and lost.
        stats: Vec<ExportStats>,
    },
}

/// The threads.
pub(super) struct Workshop {
    jobs: mpsc::Sender<Job>,
    done: mpsc::Sender<Message>,
}

impl Workshop {
    /// Opens it.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn open(done: mpsc::Sender<Message>) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..THREADS {
            let (waiting, done) = (Arc::clone(&waiting), done.clone());
            thread::Builder::new().name("workshop".to_owned()).spawn(move || {
                loop {
                    let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    if done.send(Message::Done(perform(job))).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok(Self { jobs, done })
    }

    /// Gives it something to do. Each job comes back as a [`Message::Done`].
    pub(super) fn take(&self, job: Job) {
        // The threads live as long as this sender.
        let _ = self.jobs.send(job);
    }

    /// Closes exporters, in a thread of its own: they may have to wait for their deadline.
    pub(super) fn close(&self, exporters: Exporters) {
        let done = self.done.clone();
        let close = move || {
            let all = exporters.shutdown(FLUSH);
            let stats = all.into_iter().map(|(_, stats)| stats).collect();
            let _ = done.send(Message::Done(Done::Closed { stats }));
        };
        // Without a thread, its drop loses what was waiting; nothing can be done about that here.
        if let Err(error) = thread::Builder::new().name("flush".to_owned()).spawn(close) {
            tracing::error!(%error, "no thread to send the last spans");
            let stats = vec![];
            let _ = self.done.send(Message::Done(Done::Closed { stats }));
        }
    }
}

/// A program that makes us panic is one that cannot be traced, and nothing worse.
fn guarded<T>(work: impl FnOnce() -> Result<T, SessionError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
            Err(format!("a fault of the tracer: {text}; please report it with the program"))
        }
    }
}

fn perform(job: Job) -> Done {
    match job {
        Job::Attach { pid, identity, options } => {
            let result = guarded(|| Session::attach(pid, *options)).map(Box::new);
            Done::Attached { pid, identity, result }
        }
        Job::Finish { pid, session, why } => {
            let mut outputs = Vec::new();
            let summary = guarded(|| session.finish(why, &mut outputs)).map(Box::new);
            Done::Finished { pid, outputs, summary }
        }
    }
}
