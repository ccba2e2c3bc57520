//! What the user is told: once per change of state.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::stats::{DropCause, Notice, Shared};

/// Which of it the user has been told.
#[derive(Debug)]
pub(super) struct Notices {
    endpoint: String,
    quiet: Duration,
    down: bool,
    rejecting: bool,
    spool_failed: bool,
    loss: Option<Loss>,
}

#[derive(Debug)]
struct Loss {
    spans: u64,
    over_at: Instant,
}

impl Notices {
    pub(super) const fn new(endpoint: String, quiet: Duration) -> Self {
        Self { endpoint, quiet, down: false, rejecting: false, spool_failed: false, loss: None }
    }

    pub(super) fn reached(&mut self, shared: &Shared) {
        self.rejecting = false;
        if self.down {
            self.down = false;
            shared.notice(Notice::Recovered { endpoint: self.endpoint.clone() });
        }
    }

    pub(super) fn unreached(&mut self, shared: &Shared, error: &str) {
        shared.failed(error);
        if !self.down {
            self.down = true;
            shared.notice(Notice::Unreachable {
                endpoint: self.endpoint.clone(),
                error: error.to_owned(),
            });
        }
    }

    pub(super) fn rejected(&mut self, shared: &Shared, error: &str) {
        shared.failed(error);
        if !self.rejecting {
            self.rejecting = true;
            shared.notice(Notice::Rejected {
                endpoint: self.endpoint.clone(),
                error: error.to_owned(),
            });
        }
    }

    pub(super) fn spool_failed(&mut self, shared: &Shared, spool: &Path, error: &std::io::Error) {
        if !self.spool_failed {
            self.spool_failed = true;
            let (spool, error) = (spool.display().to_string(), error.to_string());
            shared.notice(Notice::SpoolFailed { spool, error });
        }
    }

    pub(super) fn lost(&mut self, shared: &Shared, cause: DropCause, spans: u64) {
        let over_at = Instant::now() + self.quiet;
        match &mut self.loss {
            Some(loss) => {
                loss.spans += spans;
                loss.over_at = over_at;
            }
            None => {
                self.loss = Some(Loss { spans, over_at });
                let endpoint = self.endpoint.clone();
                shared.notice(Notice::LossBegan { endpoint, cause: cause.name() });
            }
        }
    }

    /// Returns when a loss may be over; never while nothing is being lost.
    pub(super) async fn quiet(&self) {
        match &self.loss {
            Some(loss) => sleep_until(loss.over_at).await,
            None => std::future::pending().await,
        }
    }

    /// Says that a loss is over, if it is.
    pub(super) fn tick(&mut self, shared: &Shared) {
        if self.loss.as_ref().is_some_and(|loss| Instant::now() >= loss.over_at) {
            self.end(shared);
        }
    }

    /// Nothing more will be lost.
    pub(super) fn end(&mut self, shared: &Shared) {
        if let Some(Loss { spans, .. }) = self.loss.take() {
            shared.notice(Notice::LossEnded { endpoint: self.endpoint.clone(), lost: spans });
        }
    }
}
