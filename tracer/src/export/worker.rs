//! The export thread: batches, retries, and who is told what.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::config::OtlpConfig;
use super::otlp::{self, Failure};
use super::queue::{DropCause, Limits, Notice, Shared};
use crate::span::{ClockAnchor, MonoNs, Span, Value};

/// Takes spans from the queue and sends them.
pub(super) struct Worker {
    pub(super) transport: SpanExporter,
    pub(super) config: OtlpConfig,
    pub(super) anchor: ClockAnchor,
    pub(super) limits: Limits,
    pub(super) shared: Arc<Shared>,
    pub(super) closed: watch::Receiver<Option<Instant>>,
    /// The user has been told that the endpoint cannot be reached.
    pub(super) down: bool,
    /// The user has been told that the endpoint refuses.
    pub(super) rejected: bool,
}

impl Worker {
    /// Sends until the queue is closed and empty, or the time for the last flush is over.
    pub(super) async fn run(mut self, mut spans: mpsc::Receiver<(Span, MonoNs)>) {
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
        Value::Texts(all) => all.iter().map(|text| text.len() + 4).sum(),
    };
    let own: usize = span.attributes.iter().map(|(key, value)| key.len() + text(value) + 8).sum();
    256 + span.name.len() + span.function.len() + own
}
