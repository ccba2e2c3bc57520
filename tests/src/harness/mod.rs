//! Starts what is observed and who observes, and waits for what becomes true. Nothing sleeps for
//! a while and hopes: every wait has a condition and a deadline.

pub mod kernel;
mod mini;
mod process;
mod programs;
mod receiver;
mod scene;
mod service;
mod tracer;
mod truth;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub use mini::{Mini, MiniOptions, Standin};
pub use process::Process;
pub use programs::Programs;
pub use receiver::{Received, Receiver};
pub use scene::Scene;
pub use service::{Said, Service};
pub use tracer::{Attach, Tracer};
pub use truth::{FUNCTIONS, TruthOptions, TruthWorkload};

/// More than anything takes here that does not hang.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Asks until there is an answer.
///
/// # Errors
/// `condition` fails, or there is none after `limit`; `what` completes "waited in vain for".
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = condition()? {
            return Ok(found);
        }
        if began.elapsed() > limit {
            bail!("waited in vain for {what}, {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
