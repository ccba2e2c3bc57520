//! A bounded queue, batches, retries, and an account of everything that did not get through.
//!
//! The tracing loop calls [`Exporter::send`], which never blocks; a thread with a runtime of its
//! own does the rest.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::config::OtlpConfig;
use super::otlp::{self, Failure};
use super::resource::ResourceInfo;
use crate::span::{ClockAnchor, MonoNs, Span, Value};

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

#[derive(Default)]
struct Shared {
    accepted: AtomicU64,
    exported: AtomicU64,
    retries: AtomicU64,
    dropped: [AtomicU64; 4],
    /// The latest instant in any span: where a running one ends for want of better.
    latest: AtomicU64,
    last_error: Mutex<Option<String>>,
    notices: Mutex<VecDeque<Notice>>,
}

/// More notices than this are of no use to anybody.
const MAX_NOTICES: usize = 16;

impl Shared {
    fn lost(&self, cause: DropCause, count: usize) {
        self.dropped[cause as usize].fetch_add(count as u64, Relaxed);
    }

    fn notice(&self, notice: Notice) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.len() < MAX_NOTICES {
            notices.push_back(notice);
        }
    }

    fn failed(&self, error: &str) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_owned());
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

struct Worker {
    transport: SpanExporter,
    config: OtlpConfig,
    anchor: ClockAnchor,
    limits: Limits,
    shared: Arc<Shared>,
    closed: watch::Receiver<Option<Instant>>,
    /// The user has been told that the endpoint cannot be reached.
    down: bool,
    /// The user has been told that the endpoint refuses.
    rejected: bool,
}

impl Worker {
    async fn run(mut self, mut spans: mpsc::Receiver<(Span, MonoNs)>) {
        self.probe().await;
        let scope = otlp::scope();
        let mut batch = Vec::with_capacity(self.limits.batch_spans);
        while self.collect(&mut spans, &mut batch).await {
            let data: Vec<SpanData> = batch
                .drain(..)
                .map(|(span, until)| otlp::span_data(&span, until, self.anchor, &scope))
                .collect();
            let count = data.len();
            match self.export(data).await {
                None => {
                    self.shared.exported.fetch_add(count as u64, Relaxed);
                }
                Some(DropCause::NotFlushed) => {
                    // Time is over. `shutdown` counts what is left.
                    return;
                }
                Some(cause) => self.shared.lost(cause, count),
            }
        }
    }

    /// Fills `batch`; `false` when there is nothing left and nothing more to come.
    async fn collect(
        &self,
        spans: &mut mpsc::Receiver<(Span, MonoNs)>,
        batch: &mut Vec<(Span, MonoNs)>,
    ) -> bool {
        let Some(first) = spans.recv().await else {
            return false;
        };
        let mut bytes = estimate(&first.0);
        batch.push(first);
        let full_at = Instant::now() + self.limits.batch_delay;
        while batch.len() < self.limits.batch_spans && bytes < self.limits.batch_bytes {
            let next = tokio::select! {
                next = spans.recv() => next,
                () = sleep_until(full_at) => None,
            };
            let Some(next) = next else { break };
            bytes += estimate(&next.0);
            batch.push(next);
        }
        true
    }

    /// Tries until it is through, refused, given up, or until the last flush is over.
    async fn export(&mut self, batch: Vec<SpanData>) -> Option<DropCause> {
        let give_up = Instant::now() + self.limits.retry_for;
        let mut pause = self.limits.backoff_min;
        loop {
            let mut closed = self.closed.clone();
            let result = tokio::select! {
                result = self.transport.export(batch.clone()) => result,
                () = expired(&mut closed) => return Some(DropCause::NotFlushed),
            };
            let error = match result {
                Ok(()) => {
                    self.reached();
                    return None;
                }
                Err(error) => error,
            };
            match otlp::classify(&error) {
                Failure::Rejected(error) => {
                    self.refused(&error);
                    return Some(DropCause::Rejected);
                }
                Failure::Retry(error) => self.unreached(&error),
            }
            if Instant::now() >= give_up {
                return Some(DropCause::Unreachable);
            }
            self.shared.retries.fetch_add(1, Relaxed);
            let closing = self.closed.borrow().is_some();
            tokio::select! {
                () = sleep(jittered(pause)) => {}
                () = expired(&mut closed) => return Some(DropCause::NotFlushed),
                // The last flush begins: no time for long pauses.
                _ = self.closed.changed(), if !closing => pause = self.limits.backoff_min,
            }
            pause = (pause * 2).min(self.limits.backoff_max);
        }
    }

    /// Warns at the start of an endpoint that nobody listens on, before there is a span to send.
    async fn probe(&mut self) {
        let proxied = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"]
            .into_iter()
            .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        let url = &self.config.endpoint;
        let (Some(host), Some(port), false) =
            (url.host_str(), url.port_or_known_default(), proxied)
        else {
            return;
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let patience = Duration::from_secs(2).min(self.config.timeout);
        let mut closed = self.closed.clone();
        let result = tokio::select! {
            result = timeout(patience, TcpStream::connect((host, port))) => result,
            _ = closed.changed() => return,
        };
        match result {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => self.unreached(&error.to_string()),
            Err(_) => self.unreached(&format!("no connection within {patience:?}")),
        }
    }

    fn reached(&mut self) {
        if self.down {
            self.down = false;
            self.shared.notice(Notice::Recovered { endpoint: self.config.display_endpoint() });
        }
    }

    fn unreached(&mut self, error: &str) {
        self.shared.failed(error);
        if !self.down {
            self.down = true;
            self.shared.notice(Notice::Unreachable {
                endpoint: self.config.display_endpoint(),
                error: error.to_owned(),
            });
        }
    }

    fn refused(&mut self, error: &str) {
        self.shared.failed(error);
        if !self.rejected {
            self.rejected = true;
            self.shared.notice(Notice::Rejected {
                endpoint: self.config.display_endpoint(),
                error: error.to_owned(),
            });
        }
    }
}

/// Returns when the time for the last flush is over; never before a shutdown.
async fn expired(closed: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let deadline = *closed.borrow_and_update();
        if let Some(deadline) = deadline {
            return sleep_until(deadline).await;
        }
        if closed.changed().await.is_err() {
            // Dropped without a shutdown: nobody waits, so there is no time left.
            return;
        }
    }
}

/// Between half of `pause` and all of it.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8) % 1_000;
    pause / 2 + pause / 2 * u32::try_from(random).unwrap_or(0) / 1_000
}

/// About how many bytes a span takes in a request.
fn estimate(span: &Span) -> usize {
    let text = |value: &Value| match value {
        Value::Bool(_) | Value::Int(_) => 8,
        Value::Str(s) => s.len(),
    };
    let own: usize = span.attributes.iter().map(|(key, value)| key.len() + text(value) + 8).sum();
    256 + span.name.len() + span.function.len() + own
}
