//! A bounded queue, batches, retries, and an account of everything that did not get through.
//!
//! The tracing loop calls [`Exporter::send`], which never blocks; a thread with a runtime of its
//! own does the rest.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::config::OtlpConfig;
use super::otlp;
use super::resource::ResourceInfo;
use super::worker::Worker;
use crate::span::{ClockAnchor, MonoNs, Span};

/// Bounds of the queue and of patience.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Spans waiting; more are dropped and counted.
    pub queue_spans: usize,
    /// Spans in one request.
    pub batch_spans: usize,
    /// Estimated bytes in one request: receivers refuse messages of more than 4 MiB.
    pub batch_bytes: usize,
    /// How long a span waits for others to join its request.
    pub batch_delay: Duration,
    /// How long one batch is tried before it is dropped.
    pub retry_for: Duration,
    /// The first pause between two tries; it doubles, with jitter.
    pub backoff_min: Duration,
    /// The longest pause between two tries.
    pub backoff_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_spans: 32_768,
            batch_spans: 512,
            batch_bytes: 1 << 20,
            batch_delay: Duration::from_secs(1),
            retry_for: Duration::from_secs(60),
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// Why a span was not exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropCause {
    /// The queue was full.
    QueueFull,
    /// The endpoint did not answer for as long as a batch is tried.
    Unreachable,
    /// The endpoint refused it.
    Rejected,
    /// It was still waiting when the time for the last flush was over.
    NotFlushed,
}

impl DropCause {
    /// All causes, in the order of [`ExportStats::dropped`].
    pub const ALL: [Self; 4] =
        [Self::QueueFull, Self::Unreachable, Self::Rejected, Self::NotFlushed];

    /// The name that users and scripts see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "export_queue_full",
            Self::Unreachable => "export_unreachable",
            Self::Rejected => "export_rejected",
            Self::NotFlushed => "export_not_flushed",
        }
    }
}

/// Something to tell the user. There is one per change of state, not one per failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The endpoint cannot be reached; spans are kept and tried again.
    Unreachable {
        /// Where to.
        endpoint: String,
        /// Why not.
        error: String,
    },
    /// The endpoint answers again.
    Recovered {
        /// Where to.
        endpoint: String,
    },
    /// The endpoint refuses what we send.
    Rejected {
        /// Where to.
        endpoint: String,
        /// What it says.
        error: String,
    },
}

/// A moment's account: `accepted = exported + dropped + waiting`; a span that found the queue
/// full was not accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportStats {
    /// Spans that entered the queue.
    pub accepted: u64,
    /// Spans the endpoint has taken.
    pub exported: u64,
    /// Spans lost, by cause, in the order of [`DropCause::ALL`].
    pub dropped: [(&'static str, u64); 4],
    /// Tries beyond the first.
    pub retries: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

impl ExportStats {
    /// Spans lost, whatever the cause.
    pub fn lost(&self) -> u64 {
        self.dropped.iter().map(|(_, count)| count).sum()
    }
}

/// The exporter could not even be set up.
#[derive(Debug, Error)]
pub enum StartError {
    /// The transport refuses the configuration.
    #[error("OTLP endpoint {endpoint}: {reason}")]
    Transport {
        /// Where to.
        endpoint: String,
        /// Why not.
        reason: String,
    },
    /// No thread or no runtime.
    #[error("starting the export thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// What the tracing loop and the export thread both know.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) accepted: AtomicU64,
    pub(super) exported: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) dropped: [AtomicU64; 4],
    /// The latest instant in any span: where a running one ends for want of better.
    pub(super) latest: AtomicU64,
    pub(super) last_error: Mutex<Option<String>>,
    pub(super) notices: Mutex<VecDeque<Notice>>,
}

/// More notices than this are of no use to anybody.
const MAX_NOTICES: usize = 16;

impl Shared {
    pub(super) fn lost(&self, cause: DropCause, count: usize) {
        self.dropped[cause as usize].fetch_add(count as u64, Relaxed);
    }

    pub(super) fn notice(&self, notice: Notice) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.len() < MAX_NOTICES {
            notices.push_back(notice);
        }
    }

    pub(super) fn failed(&self, error: &str) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        // The HTTP transport does not say more than this; an earlier error may.
        if last.is_none() || error != otlp::NO_DETAIL {
            *last = Some(error.to_owned());
        }
    }

    fn stats(&self) -> ExportStats {
        ExportStats {
            accepted: self.accepted.load(Relaxed),
            exported: self.exported.load(Relaxed),
            dropped: DropCause::ALL
                .map(|cause| (cause.name(), self.dropped[cause as usize].load(Relaxed))),
            retries: self.retries.load(Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Sends spans to one OTLP endpoint on behalf of one traced process.
pub struct Exporter {
    config: OtlpConfig,
    queue: mpsc::Sender<(Span, MonoNs)>,
    closing: watch::Sender<Option<Instant>>,
    finished: std_mpsc::Receiver<()>,
    shared: Arc<Shared>,
}

impl Exporter {
    /// Starts the export thread. An endpoint that cannot be reached is no error: see
    /// [`Exporter::take_notices`].
    ///
    /// # Errors
    /// The transport refuses the configuration, or no thread can be had.
    pub fn start(
        config: OtlpConfig,
        resource: ResourceInfo,
        anchor: ClockAnchor,
    ) -> Result<Self, StartError> {
        Self::start_with(config, resource, anchor, Limits::default())
    }

    /// [`Exporter::start`] with limits of one's own.
    ///
    /// # Errors
    /// As [`Exporter::start`].
    pub fn start_with(
        config: OtlpConfig,
        resource: ResourceInfo,
        anchor: ClockAnchor,
        limits: Limits,
    ) -> Result<Self, StartError> {
        let (queue, spans) = mpsc::channel(limits.queue_spans.max(1));
        let (closing, closed) = watch::channel(None);
        let (finish, finished) = std_mpsc::channel();
        let (ready, started) = std_mpsc::channel();
        let shared = Arc::new(Shared::default());
        let worker_config = config.clone();
        let worker_shared = Arc::clone(&shared);
        thread::Builder::new()
            .name("otlp-export".to_owned())
            .spawn(move || {
                let runtime =
                    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                        Ok(runtime) => runtime,
                        Err(error) => {
                            let _ = ready.send(Err(StartError::Thread(error)));
                            return;
                        }
                    };
                runtime.block_on(async {
                    let transport = match otlp::transport(&worker_config, &resource) {
                        Ok(transport) => transport,
                        Err(error) => {
                            let _ = ready.send(Err(StartError::Transport {
                                endpoint: worker_config.display_endpoint(),
                                reason: error.to_string(),
                            }));
                            return;
                        }
                    };
                    let _ = ready.send(Ok(()));
                    let worker = Worker {
                        transport,
                        config: worker_config,
                        anchor,
                        limits,
                        shared: worker_shared,
                        closed,
                        down: false,
                        rejected: false,
                    };
                    worker.run(spans).await;
                });
                let _ = finish.send(());
                // A name lookup under way must not hold up the end of the process.
                runtime.shutdown_background();
            })
            .map_err(StartError::Thread)?;
        match started.recv() {
            Ok(result) => result?,
            Err(_) => {
                return Err(StartError::Thread(std::io::Error::other("the export thread died")));
            }
        }
        Ok(Self { config, queue, closing, finished, shared })
    }

    /// Where the spans go.
    pub fn config(&self) -> &OtlpConfig {
        &self.config
    }

    /// Queues a span, or counts it as dropped when the queue is full. Never blocks.
    ///
    /// A span that is still running is given the latest instant seen as its end; use
    /// [`Exporter::send_open`] where a better one is known.
    pub fn send(&self, span: &Span) {
        let seen = span.end.unwrap_or(span.start).0;
        let latest = self.shared.latest.fetch_max(seen, Relaxed).max(seen);
        self.send_open(span, MonoNs(latest));
    }

    /// [`Exporter::send`] with `until` as the end of a span that is still running.
    pub fn send_open(&self, span: &Span, until: MonoNs) {
        match self.queue.try_send((span.clone(), until)) {
            Ok(()) => {
                self.shared.accepted.fetch_add(1, Relaxed);
            }
            Err(_) => self.shared.lost(DropCause::QueueFull, 1),
        }
    }

    /// The account so far.
    pub fn stats(&self) -> ExportStats {
        self.shared.stats()
    }

    /// What there is to tell the user since the last call.
    pub fn take_notices(&self) -> Vec<Notice> {
        let mut notices = self.shared.notices.lock().unwrap_or_else(PoisonError::into_inner);
        notices.drain(..).collect()
    }

    /// Sends what is waiting, for at most `deadline`, and gives the final account: what was not
    /// sent by then is dropped and counted.
    pub fn shutdown(self, deadline: Duration) -> ExportStats {
        let Self { config: _, queue, closing, finished, shared } = self;
        let _ = closing.send(Some(Instant::now() + deadline));
        drop(queue);
        // The thread keeps the deadline itself; should it hang, it is left behind.
        let _ = finished.recv_timeout(deadline + Duration::from_millis(500));
        let mut stats = shared.stats();
        let accounted = stats.exported + stats.dropped.iter().map(|(_, count)| count).sum::<u64>()
            - stats.dropped[DropCause::QueueFull as usize].1;
        stats.dropped[DropCause::NotFlushed as usize].1 += stats.accepted.saturating_sub(accounted);
        stats
    }
}
