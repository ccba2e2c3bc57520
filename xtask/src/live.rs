//! `cargo xtask truth --pid`: a live orchestrate, held against its own database and the log of
//! the API that it used.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::agents::{self, Report};
use e2e::harness::{Attach, Programs};
use e2e::live;

use crate::sh;

/// What to watch.
#[derive(Debug)]
pub struct Watch<'a> {
    /// The process.
    pub pid: u32,
    /// Its database.
    pub db: &'a Path,
    /// What its API endpoint wrote down.
    pub api_log: &'a Path,
    /// For how long; else until its agents are done.
    pub duration: Option<Duration>,
    /// How to attach.
    pub attach: Attach,
}

/// How often the database is asked whether its agents are done.
const LOOK: Duration = Duration::from_millis(250);

impl Watch<'_> {
    /// Attaches, watches, detaches, compares.
    ///
    /// # Errors
    /// The process cannot be traced, or the files cannot be read.
    pub fn run(&self, programs: &Programs, dir: &Path) -> Result<Report> {
        let Self { pid, db, api_log, duration, attach } = self;
        // Before attaching, so that a wrong file is noticed at once.
        live::active_agents(db)?;
        let mut tracer = attach.start(programs, *pid, "tracer", dir)?;
        let from = live::now_unix_ns();
        let began = Instant::now();
        sh::say(format_args!("attached to pid {pid}"));
        let mut seen = false;
        loop {
            if duration.is_some_and(|duration| began.elapsed() >= duration)
                || !tracer.0.is_running()
            {
                break;
            }
            let active = live::active_agents(db)?;
            seen |= active > 0;
            if duration.is_none() && seen && active == 0 {
                break;
            }
            std::thread::sleep(LOOK);
        }
        // What an agent does after its state has changed belongs to it, too.
        let to = live::now_unix_ns();
        std::thread::sleep(LOOK);
        let mut trace = tracer.stop()?;
        // Whoever opens a connection has it set up by these; no row in the database tells of them.
        trace
            .spans
            .retain(|span| span.attributes.get("query_type").is_none_or(|kind| kind != "PRAGMA"));
        let log =
            std::fs::read_to_string(api_log).with_context(|| api_log.display().to_string())?;
        let known = live::agents(db, &log, (from, to))?;
        agents::compare(&known, &trace)
    }
}
