//! A process followed in a thread of its own: its spans as a stream, in memory, and on their way
//! to wherever a [`TracingConfig`] says.
//!
//! ```no_run
//! use tracer::config::{TracingConfig, TracingExporter};
//! use tracer::follow::Follower;
//! use tracer::session::SessionOptions;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = TracingConfig::new(TracingExporter::Jaeger).with_service_name("my-service");
//! let follower = Follower::attach(4242, SessionOptions::default(), &config)?;
//! // Until the process exits; `follower.stop()` from elsewhere ends it, too.
//! for span in follower.spans() {
//!     println!("{} {:?} {:?}", span.name, span.outcome, span.duration_ns());
//! }
//! let account = follower.finish()?;
//! println!("{} spans, lost: {:?}", account.summary.spans.ended, account.summary.drops());
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use thiserror::Error;

use crate::assemble::Output;
use crate::attach::AttachedProbes;
use crate::config::TracingConfig;
use crate::events::StopReason;
use crate::export::{Endpoint, ExportStats, Exporters, Limits, Outlet, ResourceInfo, StartError};
use crate::service::{Choice, Config, Environment, Settings};
use crate::session::{Session, SessionError, SessionOptions, Status, Summary};
use crate::span::{MonoNs, Span};

/// Spans that wait for whoever reads the stream; more are lost, and counted.
const STREAM: usize = 65_536;
/// How long the last spans may take.
const FLUSH: Duration = Duration::from_secs(5);

/// Why a process cannot be followed, or its account is not known.
#[derive(Debug, Error)]
pub enum FollowError {
    /// A setting that cannot be used.
    #[error("the configuration cannot be used: {0}")]
    Config(String),
    /// It cannot be traced.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// An exporter cannot be started.
    #[error(transparent)]
    Export(#[from] StartError),
    /// No thread can be had, or it died.
    #[error("the thread that follows the process: {0}")]
    Thread(std::io::Error),
}

/// What was seen, sent and lost.
#[derive(Debug)]
pub struct Account {
    /// Of the session.
    pub summary: Summary,
    /// Of each endpoint.
    pub exported: Vec<(Endpoint, ExportStats)>,
    /// Spans that nobody read from the stream in time.
    pub unread: u64,
}

/// A process that is being followed. Dropping it detaches.
#[derive(Debug)]
pub struct Follower {
    spans: mpsc::Receiver<Span>,
    stop: Arc<AtomicBool>,
    unread: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Ended, SessionError>>>,
}

/// The session's account, and the exporters', closed.
type Ended = (Summary, Vec<(Endpoint, ExportStats)>);

impl Follower {
    /// Attaches to a process. What `config` leaves out is taken from `OTEL_*` variables, then the
    /// defaults.
    ///
    /// # Errors
    /// A setting that cannot be used, or a process that cannot be traced; it is untouched then.
    pub fn attach(
        pid: u32,
        options: SessionOptions,
        config: &TracingConfig,
    ) -> Result<Self, FollowError> {
        let choice = Choice { flags: config.clone(), environment: Environment::own() };
        let settings = Settings::resolve(true, &choice, &BTreeMap::new(), &Config::default())
            .map_err(FollowError::Config)?;
        let endpoints =
            settings.endpoints().map_err(|error| FollowError::Config(error.to_string()))?;
        let session = Session::attach(pid, options)?;
        let exporters = Exporters::start(endpoints, &Limits::default(), None)?;
        let meta = Arc::clone(session.meta());
        let resource = ResourceInfo::local(Some(settings.service_name), meta.target.clone());
        let outlet = exporters.outlet(&resource, meta.anchor, &settings.policy);
        let (sender, spans) = mpsc::sync_channel(STREAM);
        let stop = Arc::new(AtomicBool::new(false));
        let unread = Arc::new(AtomicU64::new(0));
        let following = Following {
            session,
            outlet,
            sender,
            stop: Arc::clone(&stop),
            unread: Arc::clone(&unread),
        };
        let thread = thread::Builder::new()
            .name("follow".to_owned())
            .spawn(move || {
                let summary = following.run()?;
                Ok((summary, exporters.shutdown(FLUSH)))
            })
            .map_err(FollowError::Thread)?;
        Ok(Self { spans, stop, unread, thread: Some(thread) })
    }

    /// Ended spans as they end; over when the process is, or after [`Follower::stop`].
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.spans.iter()
    }

    /// Detaches soon; what is open ends with the outcome `running`.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Detaches, sends what is left, and sums up.
    ///
    /// # Errors
    /// The session failed.
    pub fn finish(mut self) -> Result<Account, FollowError> {
        self.stop();
        let thread = self.thread.take();
        let died = || FollowError::Thread(std::io::Error::other("it died"));
        let ended = thread.ok_or_else(died)?.join().map_err(|_| died())?;
        let (summary, exported) = ended?;
        Ok(Account { summary, exported, unread: self.unread.load(Relaxed) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // Whoever wants to know how it went asks `finish`.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Following {
    session: Session,
    outlet: Outlet,
    sender: mpsc::SyncSender<Span>,
    stop: Arc<AtomicBool>,
    unread: Arc<AtomicU64>,
}

impl Following {
    fn run(self) -> Result<Summary, SessionError> {
        let Self { mut session, mut outlet, sender, stop, unread } = self;
        let mut out = Vec::new();
        let pass = |out: &mut Vec<Output>, outlet: &mut Outlet| {
            let now = MonoNs::now();
            for output in out.drain(..) {
                outlet.offer(&output, now);
                if let Output::Ended(span) = output
                    && sender.try_send(span).is_err()
                {
                    unread.fetch_add(1, Relaxed);
                }
            }
            outlet.advance(now);
        };
        let why = loop {
            if stop.load(Relaxed) {
                break StopReason::Requested;
            }
            let status = session.poll(&mut out)?;
            pass(&mut out, &mut outlet);
            match status {
                Status::Running => thread::sleep(AttachedProbes::DRAIN_INTERVAL),
                Status::Exited => break StopReason::TargetExited,
                Status::Replaced => break StopReason::TargetReplaced,
            }
        };
        let summary = session.finish(why, &mut out)?;
        pass(&mut out, &mut outlet);
        outlet.finish(MonoNs::now());
        Ok(summary)
    }
}

/// Keeps spans in memory, for tests: a bounded number, the newest.
///
/// ```
/// use tracer::follow::InMemory;
///
/// let kept = InMemory::new(1_000);
/// assert!(kept.spans().is_empty());
/// ```
#[derive(Clone, Debug)]
pub struct InMemory {
    spans: Arc<Mutex<std::collections::VecDeque<Span>>>,
    capacity: usize,
    evicted: Arc<AtomicU64>,
}

impl InMemory {
    /// Keeps at most `capacity` spans.
    pub fn new(capacity: usize) -> Self {
        Self { spans: Arc::default(), capacity: capacity.max(1), evicted: Arc::default() }
    }

    /// Takes a span in; the oldest goes where there is no room.
    pub fn keep(&self, span: Span) {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() == self.capacity {
            spans.pop_front();
            self.evicted.fetch_add(1, Relaxed);
        }
        spans.push_back(span);
    }

    /// Those that are kept, oldest first.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// How many had to go.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }
}

impl Extend<Span> for InMemory {
    fn extend<T: IntoIterator<Item = Span>>(&mut self, spans: T) {
        spans.into_iter().for_each(|span| self.keep(span));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TracingExporter;
    use crate::service::tests::span;
    use crate::span::Outcome;

    #[test]
    fn the_newest_are_kept() {
        let mut kept = InMemory::new(2);
        let other = kept.clone();
        kept.extend(["a", "b", "c"].map(|name| span(name, Outcome::Returned, Some(1))));
        let names: Vec<_> = other.spans().iter().map(|span| span.name.to_string()).collect();
        assert_eq!((names, other.evicted()), (vec!["b".to_owned(), "c".to_owned()], 1));
    }

    #[test]
    fn what_cannot_be_used_is_said_before_anything_is_attached() {
        let config = TracingConfig::new(TracingExporter::Otlp).with_otlp_endpoint("localhost:1");
        let error = Follower::attach(1, SessionOptions::default(), &config).unwrap_err();
        assert!(matches!(error, FollowError::Config(_)), "{error}");
        let nobody = Follower::attach(
            u32::MAX,
            SessionOptions::default(),
            &TracingConfig::new(TracingExporter::None),
        );
        assert!(matches!(nobody.unwrap_err(), FollowError::Session(_)));
    }
}
