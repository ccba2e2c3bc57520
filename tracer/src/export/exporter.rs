//! An endpoint that spans of any number of processes are sent to. Sending never blocks; a thread
//! with a runtime of its own does the rest.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

use super::batch::{Origin, Source};
use super::endpoint::Endpoint;
use super::queue::{Intake, Limits, Queue, Refused};
use super::resource::ResourceInfo;
use super::spool::{Spool, SpoolConfig};
use super::stats::{DropCause, ExportStats, Notice, Shared};
use super::transport::Transport;
use super::worker::Worker;
use crate::span::{ClockAnchor, MonoNs, Span};

/// How an exporter works, beside where to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// Bounds of memory and of patience.
    pub limits: Limits,
    /// Where spans wait on disk while the endpoint does not take them; without one they wait in
    /// memory, and not for long.
    pub spool: Option<SpoolConfig>,
}

/// The exporter could not even be set up.
#[derive(Debug, Error)]
pub enum StartError {
    /// The transport refuses the configuration.
    #[error("endpoint {endpoint}: {reason}")]
    Transport {
        /// Where to.
        endpoint: String,
        /// Why not.
        reason: String,
    },
    /// The spool cannot be used.
    #[error("spool {}: {source}", path.display())]
    Spool {
        /// Its folder.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No thread or no runtime.
    #[error("starting the export thread: {0}")]
    Thread(#[source] io::Error),
}

/// The processes whose account is open, by tag.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<HashMap<u64, Weak<Source>>>);

impl Sources {
    pub(super) fn find(&self, tag: u64) -> Option<Arc<Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&tag)?.upgrade()
    }

    fn add(&self, source: &Arc<Source>) {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|_, source| source.strong_count() > 0);
        sources.insert(source.tag, Arc::downgrade(source));
    }
}

/// Sends spans to one endpoint.
pub struct Exporter {
    endpoint: Endpoint,
    queue: Arc<Queue>,
    closing: watch::Sender<Option<Instant>>,
    finished: mpsc::Receiver<()>,
    shared: Arc<Shared>,
    sources: Arc<Sources>,
    next_tag: AtomicU64,
}

impl Exporter {
    /// Starts the export thread. An endpoint that cannot be reached is no error: see
    /// [`Exporter::take_notices`].
    ///
    /// # Errors
    /// The transport refuses the configuration, the spool cannot be used, or no thread can be
    /// had.
    pub fn start(endpoint: Endpoint, options: ExportOptions) -> Result<Self, StartError> {
        let ExportOptions { limits, spool } = options;
        let spool = match spool {
            None => None,
            Some(config) => {
                let path = config.dir.clone();
                Some(Spool::open(config).map_err(|source| StartError::Spool { path, source })?)
            }
        };
        let queue = Arc::new(Queue::new(&limits));
        let (closing, closed) = watch::channel(None);
        let (finish, finished) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let sources = Arc::new(Sources::default());
        let thread = {
            let (endpoint, shared) = (endpoint.clone(), Arc::clone(&shared));
            let intake = Intake::new(Arc::clone(&queue), limits.clone());
            let sources = Arc::clone(&sources);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = ready.send(Err(StartError::Thread(error)));
                        return;
                    }
                };
                runtime.block_on(async {
                    let transport = match Transport::new(&endpoint) {
                        Ok(transport) => transport,
                        Err(reason) => {
                            let endpoint = endpoint.display();
                            let _ = ready.send(Err(StartError::Transport { endpoint, reason }));
                            return;
                        }
                    };
                    let _ = ready.send(Ok(()));
                    let worker = Worker::new(endpoint, limits, shared, sources, closed, spool);
                    worker.run(transport, intake).await;
                });
                let _ = finish.send(());
                // A name lookup under way must not hold up the end of the process.
                runtime.shutdown_background();
            }
        };
        thread::Builder::new()
            .name("export".to_owned())
            .spawn(thread)
            .map_err(StartError::Thread)?;
        match started.recv() {
            Ok(result) => result?,
            Err(_) => return Err(StartError::Thread(io::Error::other("the export thread died"))),
        }
        // A tag outlives this run in the spool: it must not meet one of the next.
        let first = RandomState::new().hash_one(0_u8) << 16;
        let next_tag = AtomicU64::new(first | 1);
        Ok(Self { endpoint, queue, closing, finished, shared, sources, next_tag })
    }

    /// Where the spans go.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Opens the account of one traced process. It is closed when the sender is dropped.
    pub fn sender(&self, resource: &ResourceInfo, anchor: ClockAnchor) -> Sender {
        let source = Arc::new(Source {
            tag: self.next_tag.fetch_add(1, Relaxed),
            origin: Arc::new(Origin { attributes: resource.attributes(), anchor }),
            counters: Default::default(),
        });
        self.sources.add(&source);
        Sender {
            source,
            queue: Arc::clone(&self.queue),
            shared: Arc::clone(&self.shared),
            latest: AtomicU64::new(0),
        }
    }

    /// The account so far, of all processes together.
    pub fn stats(&self) -> ExportStats {
        self.shared.stats()
    }

    /// What there is to tell the user since the last call.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.shared.take_notices()
    }

    /// Sends what is waiting, for at most `deadline`, and gives the final account. What was not
    /// sent by then stays in the spool for the next run; without a spool it is dropped and
    /// counted.
    pub fn shutdown(self, deadline: Duration) -> ExportStats {
        let Self { closing, finished, shared, queue, .. } = self;
        let _ = closing.send(Some(Instant::now() + deadline));
        queue.close();
        // The thread keeps the deadline itself; should it hang, it is left behind.
        let _ = finished.recv_timeout(deadline + Duration::from_secs(1));
        shared.closed.store(true, Relaxed);
        shared.stats()
    }
}

/// Sends the spans of one process.
pub struct Sender {
    source: Arc<Source>,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    /// The latest instant in any span: where a running one ends for want of better.
    latest: AtomicU64,
}

impl Sender {
    /// Queues a span, or counts it as dropped when the queue is full. Never blocks.
    ///
    /// A span that is still running is given the latest instant seen as its end; use
    /// [`Sender::send_open`] where a better one is known.
    pub fn send(&self, span: &Span) {
        let seen = span.end.unwrap_or(span.start).0;
        let latest = self.latest.fetch_max(seen, Relaxed).max(seen);
        self.send_open(span, MonoNs(latest));
    }

    /// [`Sender::send`] with `until` as the end of a span that is still running.
    pub fn send_open(&self, span: &Span, until: MonoNs) {
        let counters = [&self.source.counters, &self.shared.counters];
        let accepted = || {
            for counters in counters {
                counters.accepted.fetch_add(1, Relaxed);
            }
        };
        let cause = match self.queue.push(&self.source, span, until, accepted) {
            Ok(()) => return,
            Err(Refused::Full) => DropCause::QueueFull,
            Err(Refused::Closed) => {
                accepted();
                DropCause::NotFlushed
            }
        };
        for counters in counters {
            counters.lost(cause, 1);
        }
    }

    /// The account of this process so far.
    pub fn stats(&self) -> ExportStats {
        self.shared.complete(&self.source.counters)
    }
}
