//! The export thread: what is sent next, when it is tried again, where it waits meanwhile.

use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::batch::{Batch, Source};
use super::endpoint::Endpoint;
use super::exporter::Sources;
use super::notices::Notices;
use super::queue::{Intake, Limits};
use super::spool::{Place, Spool};
use super::spooling;
use super::stats::{Counters, DropCause, Shared};
use super::transport::{Failure, Receipt, Transport};

/// The batch that is being sent.
struct Current {
    batch: Batch,
    /// Where it is on disk.
    place: Option<Place>,
    give_up: Instant,
    pause: Duration,
    /// When it is tried next.
    at: Instant,
    /// The receiver asked for the wait, so that not even the last flush cuts it short.
    asked: bool,
}

/// Takes batches and sends them.
pub(super) struct Worker {
    endpoint: Endpoint,
    limits: Limits,
    shared: Arc<Shared>,
    sources: Arc<Sources>,
    closed: watch::Receiver<Option<Instant>>,
    spool: Option<Spool>,
    notices: Notices,
    /// Refusals of the queue that have been noticed.
    queue_full: u64,
}

/// How long the first try of a batch may take before what arrives meanwhile goes to the disk.
const SLOW: Duration = Duration::from_millis(250);

/// How one try ended.
enum Tried {
    Answer(Result<Receipt, Failure>),
    /// The time for the last flush is over.
    Expired,
}

impl Worker {
    pub(super) fn new(
        endpoint: Endpoint,
        limits: Limits,
        shared: Arc<Shared>,
        sources: Arc<Sources>,
        closed: watch::Receiver<Option<Instant>>,
        spool: Option<Spool>,
    ) -> Self {
        let notices = Notices::new(endpoint.display(), limits.loss_quiet);
        let worker =
            Self { endpoint, limits, shared, sources, closed, spool, notices, queue_full: 0 };
        if let Some(spool) = &worker.spool {
            let found = spool.unread();
            worker.shared.counters.accepted.fetch_add(found, Relaxed);
            worker.shared.counters.spooled.fetch_add(found, Relaxed);
        }
        worker
    }

    /// Sends until the queue is closed and empty, or the time for the last flush is over.
    pub(super) async fn run(mut self, mut transport: Transport, mut intake: Intake) {
        self.probe().await;
        while let Some(mut current) = self.next(&mut intake).await {
            if !self.deliver(&mut transport, &mut intake, &mut current).await {
                self.put_away(current, &mut intake).await;
                break;
            }
        }
        self.notice_queue_full();
        self.notices.end(&self.shared);
        if let Some(spool) = &mut self.spool {
            spool.sync();
        }
    }

    /// What is to be sent next: the oldest on disk, else from the queue.
    async fn next(&mut self, intake: &mut Intake) -> Option<Current> {
        loop {
            self.notice_queue_full();
            if let Some((batch, place)) = self.unspool_batch() {
                return Some(self.current(batch, Some(place)));
            }
            let mut closed = self.closed.clone();
            tokio::select! {
                batch = intake.next() => return batch.map(|batch| self.current(batch, None)),
                () = self.notices.quiet() => self.notices.tick(&self.shared),
                () = expired(&mut closed) => return None,
            }
        }
    }

    fn current(&self, batch: Batch, place: Option<Place>) -> Current {
        let now = Instant::now();
        Current {
            batch,
            place,
            give_up: now + self.limits.retry_for,
            pause: self.limits.backoff_min,
            at: now,
            asked: false,
        }
    }

    /// Tries until it is through, refused or given up; `false` when the time for that is over.
    async fn deliver(
        &mut self,
        transport: &mut Transport,
        intake: &mut Intake,
        current: &mut Current,
    ) -> bool {
        loop {
            let answer = match self.attempt(transport, intake, current).await {
                Tried::Answer(answer) => answer,
                Tried::Expired => return false,
            };
            self.notice_queue_full();
            let count = current.batch.len();
            match answer {
                Ok(Receipt { refused, message }) => {
                    let refused = refused.min(count);
                    self.notices.reached(&self.shared);
                    if refused > 0 {
                        self.notices.rejected(&self.shared, &message);
                        self.lost(current.batch.source.as_ref(), DropCause::Rejected, refused);
                    }
                    self.count(current.batch.source.as_ref(), |counters| {
                        counters.exported.fetch_add(count - refused, Relaxed);
                    });
                    self.done_with(current);
                    return true;
                }
                Err(Failure::Rejected(error)) => {
                    self.notices.rejected(&self.shared, &error);
                    self.lost(current.batch.source.as_ref(), DropCause::Rejected, count);
                    self.done_with(current);
                    return true;
                }
                Err(Failure::Retry { error, after }) => {
                    self.notices.unreached(&self.shared, &error);
                    if current.place.is_none() {
                        current.place = self.hold(&current.batch);
                    }
                    if current.place.is_none() && Instant::now() >= current.give_up {
                        self.lost(current.batch.source.as_ref(), DropCause::Unreachable, count);
                        return true;
                    }
                    let pause = after.unwrap_or_default().max(jittered(current.pause));
                    current.asked = after.is_some_and(|after| after > current.pause);
                    current.at = Instant::now() + pause;
                    current.pause = (current.pause * 2).min(self.limits.backoff_max);
                    self.shared.retries.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// Waits as long as is due and tries once. Where there is a spool, what arrives while the
    /// endpoint is slow goes to the disk, behind the batch that is being sent.
    async fn attempt(
        &mut self,
        transport: &mut Transport,
        intake: &mut Intake,
        current: &mut Current,
    ) -> Tried {
        let Current { batch, place, at, asked, .. } = current;
        let (at, batch) = (*at, &*batch);
        let mut closing = self.closed.clone();
        // One second more than the transport allows itself: whatever it does, this thread goes on.
        let patience = self.endpoint.timeout() + Duration::from_secs(1);
        let mut attempt = pin!(async {
            if *asked || closing.borrow().is_some() {
                sleep_until(at).await;
            } else {
                // When the last flush begins, there is no time for long pauses.
                tokio::select! {
                    () = sleep_until(at) => {}
                    _ = closing.wait_for(Option::is_some) => {}
                }
            }
            let sent = timeout(patience, transport.send(batch)).await;
            sent.unwrap_or_else(|_| Err(Failure::retry("no answer in time")))
        });
        let mut closed = self.closed.clone();
        let mut spill = place.is_some();
        let spill_at = Instant::now() + SLOW;
        let mut more = self.spool.is_some();
        loop {
            tokio::select! {
                answer = &mut attempt => return Tried::Answer(answer),
                () = sleep_until(spill_at), if more && !spill => spill = true,
                arrived = intake.next(), if more && spill => {
                    if place.is_none() {
                        *place = self.hold(batch);
                    }
                    more = match arrived {
                        Some(arrived) if place.is_some() && self.spool_batch(&arrived) => true,
                        Some(arrived) => {
                            // The disk does not take it: let it wait in memory.
                            intake.put_back(arrived);
                            false
                        }
                        None => false,
                    };
                }
                () = self.notices.quiet() => self.notices.tick(&self.shared),
                () = expired(&mut closed) => return Tried::Expired,
            }
        }
    }

    /// The time is over: what was not sent stays on disk. Without a spool, the account at the end
    /// counts it.
    async fn put_away(&mut self, current: Current, intake: &mut Intake) {
        if self.spool.is_none() {
            return;
        }
        let kept = |spool: &Option<Spool>, place: Place| {
            spool.as_ref().is_some_and(|spool| spool.holds(place))
        };
        match current.place {
            // Its segment had to go meanwhile, and it was not counted then: it was in our hands.
            Some(place) if !kept(&self.spool, place) => {
                self.count(current.batch.source.as_ref(), |counters| {
                    counters.unspooled(current.batch.len());
                });
            }
            Some(_) => {}
            None => {
                self.spool_batch(&current.batch);
            }
        }
        // The queue is closed, so this ends.
        while let Some(batch) = intake.next().await {
            if !self.spool_batch(&batch) {
                break;
            }
        }
    }

    /// Keeps a batch on disk.
    fn spool_batch(&mut self, batch: &Batch) -> bool {
        let Some(spool) = self.spool.as_mut() else { return false };
        if let Err(error) = spooling::append(spool, batch) {
            self.notices.spool_failed(&self.shared, spool.dir(), &error);
            return false;
        }
        self.count(batch.source.as_ref(), |counters| {
            counters.spooled.fetch_add(batch.len(), Relaxed);
        });
        self.count_lost_in_spool();
        true
    }

    /// Keeps the batch that is being sent on disk and says where. The spool is empty: else its
    /// oldest would be sent. So the batch is its first, and it is taken out as one that is being
    /// sent.
    fn hold(&mut self, batch: &Batch) -> Option<Place> {
        if !self.spool_batch(batch) {
            return None;
        }
        let record = self.spool.as_mut()?.next();
        self.count_lost_in_spool();
        record.map(|record| record.place)
    }

    fn unspool_batch(&mut self) -> Option<(Batch, Place)> {
        let spool = self.spool.as_mut()?;
        let mut found = None;
        while let Some(record) = spool.next() {
            let source = self.sources.find(record.tag);
            match spooling::restore(&record, source) {
                Some(batch) => {
                    found = Some((batch, record.place));
                    break;
                }
                None => {
                    spool.damaged(&record);
                    spool.done(record.place);
                }
            }
        }
        self.count_lost_in_spool();
        found
    }

    fn done_with(&mut self, current: &Current) {
        let Some(place) = current.place else { return };
        self.count(current.batch.source.as_ref(), |counters| {
            counters.unspooled(current.batch.len());
        });
        if let Some(spool) = &mut self.spool {
            spool.done(place);
        }
    }

    fn count_lost_in_spool(&mut self) {
        let Some(spool) = &mut self.spool else { return };
        let lost = spool.take_lost();
        let known = [(lost.evicted, DropCause::SpoolFull), (lost.corrupt, DropCause::SpoolCorrupt)];
        for (by_tag, cause) in known {
            for (tag, spans) in by_tag {
                let source = self.sources.find(tag);
                self.count(source.as_ref(), |counters| counters.unspooled(spans));
                self.lost(source.as_ref(), cause, spans);
            }
        }
        if lost.unknown > 0 {
            self.shared.counters.accepted.fetch_add(lost.unknown, Relaxed);
            self.lost(None, DropCause::SpoolCorrupt, lost.unknown);
        }
    }

    /// The queue refuses spans on the tracing loop's thread; the user is told from here.
    fn notice_queue_full(&mut self) {
        let full = self.shared.counters.lost_by(DropCause::QueueFull);
        let new = full.saturating_sub(self.queue_full);
        if new > 0 {
            self.queue_full = full;
            self.notices.lost(&self.shared, DropCause::QueueFull, new);
        }
    }

    fn lost(&mut self, source: Option<&Arc<Source>>, cause: DropCause, spans: u64) {
        self.count(source, |counters| counters.lost(cause, spans));
        self.notices.lost(&self.shared, cause, spans);
    }

    fn count(&self, source: Option<&Arc<Source>>, change: impl Fn(&Counters)) {
        change(&self.shared.counters);
        if let Some(source) = source {
            change(&source.counters);
        }
    }

    /// Warns at the start of an endpoint that nobody listens on, before there is a span to send.
    async fn probe(&mut self) {
        let proxied = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"]
            .into_iter()
            .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        let url = self.endpoint.url();
        let (Some(host), Some(port), false) =
            (url.host_str(), url.port_or_known_default(), proxied)
        else {
            return;
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let patience = Duration::from_secs(2).min(self.endpoint.timeout());
        let mut closed = self.closed.clone();
        let result = tokio::select! {
            result = timeout(patience, TcpStream::connect((host, port))) => result,
            _ = closed.changed() => return,
        };
        match result {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => self.notices.unreached(&self.shared, &error.to_string()),
            Err(_) => {
                let error = format!("no connection within {patience:?}");
                self.notices.unreached(&self.shared, &error);
            }
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
    let random = RandomState::new().hash_one(0_u8) % 1_000;
    pause / 2 + pause / 2 * u32::try_from(random).unwrap_or(0) / 1_000
}
