//! Everything behind the assembler, for many processes and endpoints: sampling, then exporters.

use std::thread;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::exporter::{ExportOptions, Exporter, Sender, StartError};
use super::queue::Limits;
use super::resource::ResourceInfo;
use super::spool::SpoolConfig;
use super::stats::{ExportStats, Notice};
use crate::assemble::Output;
use crate::sampling::{Policy, Sampler, SamplingStats};
use crate::span::{ClockAnchor, MonoNs, Span};

/// One exporter for each of several endpoints, shared by all traced processes.
#[derive(Default)]
pub struct Exporters(Vec<Exporter>);

impl Exporters {
    /// Starts them. In the folder of `spool` each endpoint gets a folder of its own, so that what
    /// waits for one is never sent to another; the size is each one's.
    ///
    /// # Errors
    /// As [`Exporter::start`].
    pub fn start(
        endpoints: impl IntoIterator<Item = Endpoint>,
        limits: &Limits,
        spool: Option<&SpoolConfig>,
    ) -> Result<Self, StartError> {
        let start = |endpoint| start(endpoint, limits, spool);
        endpoints.into_iter().map(start).collect::<Result<_, _>>().map(Self)
    }

    /// From now on these are the endpoints. Exporters whose endpoint is among them go on; those
    /// that are of no use any more are given back, to be shut down once their outlets are
    /// redirected; and so is why others could not be started. Where a spool cannot be used (it
    /// may still be in use by the one before), spans wait in memory only.
    pub fn change(
        &mut self,
        endpoints: &[Endpoint],
        limits: &Limits,
        spool: Option<&SpoolConfig>,
    ) -> (Self, Vec<StartError>) {
        let (mut kept, old): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|exporter| endpoints.contains(exporter.endpoint()));
        let mut failed = vec![];
        for endpoint in endpoints {
            if kept.iter().any(|exporter| exporter.endpoint() == endpoint) {
                continue;
            }
            let mut started = start(endpoint.clone(), limits, spool);
            if matches!(started, Err(StartError::Spool { .. })) {
                failed.extend(started.err());
                started = start(endpoint.clone(), limits, None);
            }
            match started {
                Ok(exporter) => kept.push(exporter),
                Err(error) => failed.push(error),
            }
        }
        self.0 = kept;
        (Self(old), failed)
    }

    /// There are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The way out for the spans of one process.
    pub fn outlet(&self, resource: &ResourceInfo, anchor: ClockAnchor, policy: &Policy) -> Outlet {
        Outlet {
            sampler: (!policy.is_all()).then(|| Sampler::new(policy.clone())),
            all: SamplingStats::default(),
            senders: self.senders(resource, anchor),
            policy: policy.clone(),
            passing: vec![],
        }
    }

    fn senders(&self, resource: &ResourceInfo, anchor: ClockAnchor) -> Vec<Sender> {
        self.0.iter().map(|exporter| exporter.sender(resource, anchor)).collect()
    }

    /// The single ones, in the order of their endpoints.
    pub fn iter(&self) -> impl Iterator<Item = &Exporter> {
        self.0.iter()
    }

    /// What there is to tell the user since the last call.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.0.iter().flat_map(Exporter::take_notices).collect()
    }

    /// [`Exporter::shutdown`] of all at once.
    pub fn shutdown(self, deadline: Duration) -> Vec<(Endpoint, ExportStats)> {
        let flushing: Vec<_> = self
            .0
            .into_iter()
            .map(|exporter| {
                let endpoint = exporter.endpoint().clone();
                (endpoint, thread::spawn(move || exporter.shutdown(deadline)))
            })
            .collect();
        flushing
            .into_iter()
            .map(|(endpoint, thread)| (endpoint, thread.join().unwrap_or_default()))
            .collect()
    }
}

/// Starts one, in a folder of its own below that of `spool`.
fn start(
    endpoint: Endpoint,
    limits: &Limits,
    spool: Option<&SpoolConfig>,
) -> Result<Exporter, StartError> {
    let spool = spool.map(|SpoolConfig { dir, max_bytes }| SpoolConfig {
        dir: dir.join(folder(&endpoint)),
        max_bytes: *max_bytes,
    });
    Exporter::start(endpoint, ExportOptions { limits: limits.clone(), spool })
}

/// A name that an endpoint keeps from run to run, and that shows no credentials.
fn folder(endpoint: &Endpoint) -> String {
    let hash = crc32fast::hash(endpoint.url().as_str().as_bytes());
    format!("{}-{hash:08x}", endpoint.protocol().replace('/', "-"))
}

/// Takes what the assembler hands out for one process.
pub struct Outlet {
    /// `None`: everything passes.
    sampler: Option<Sampler>,
    all: SamplingStats,
    senders: Vec<Sender>,
    policy: Policy,
    /// Kept for its capacity.
    passing: Vec<Span>,
}

impl Outlet {
    /// Takes in one output. A span that is still running when tracing ends has lasted until
    /// `now`. Never blocks.
    pub fn offer(&mut self, output: &Output, now: MonoNs) {
        if self.senders.is_empty() {
            return;
        }
        match (&mut self.sampler, output) {
            (Some(sampler), output) => {
                sampler.offer(output, now, &mut self.passing);
                self.send(now);
            }
            (None, Output::Started(_)) => {}
            (None, Output::Ended(span)) => {
                self.all.offered += 1;
                self.all.passed += 1;
                for sender in &self.senders {
                    sender.send_open(span, now);
                }
            }
        }
    }

    /// Time has passed. To be called about once a second, or more often.
    pub fn advance(&mut self, now: MonoNs) {
        if let Some(sampler) = &mut self.sampler {
            sampler.advance(now, &mut self.passing);
            self.send(now);
        }
    }

    /// Nothing more will be offered.
    pub fn finish(&mut self, now: MonoNs) {
        if let Some(sampler) = &mut self.sampler {
            sampler.finish(now, &mut self.passing);
            self.send(now);
        }
    }

    /// From now on what passes goes to these. What waits for its trace to be complete goes on
    /// waiting, unless other traces are to pass now.
    pub fn redirect(
        &mut self,
        to: &Exporters,
        resource: &ResourceInfo,
        anchor: ClockAnchor,
        policy: &Policy,
        now: MonoNs,
    ) {
        if self.policy != *policy {
            self.finish(now);
            self.all = self.sampling();
            *self = Self { all: self.all, ..to.outlet(resource, anchor, policy) };
            return;
        }
        self.senders = to.senders(resource, anchor);
    }

    /// What passed and what did not.
    pub fn sampling(&self) -> SamplingStats {
        self.sampler.as_ref().map_or(self.all, Sampler::stats)
    }

    /// The accounts of this process, in the order of the endpoints.
    pub fn stats(&self) -> Vec<ExportStats> {
        self.senders.iter().map(Sender::stats).collect()
    }

    fn send(&mut self, now: MonoNs) {
        for span in self.passing.drain(..) {
            for sender in &self.senders {
                sender.send_open(&span, now);
            }
        }
    }
}
