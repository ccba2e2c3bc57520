//! One process that is being traced: its session and the ways out for its spans.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::discovery::Identity;
use super::outlets::Outlets;
use super::rates::Rates;
use super::report::{MissingReport, TargetReport, TargetState};
use crate::assemble::Output;
use crate::export::Outlet;
use crate::plan::{Coverage, TraceMeta};
use crate::session::{self, Progress, Session, SessionError, Status, Summary};
use crate::span::MonoNs;
use tracer_ebpf::counters::Counter;

/// A process that is being traced, or was until just now.
pub(super) struct Traced {
    /// `None` while it is being detached.
    session: Option<Box<Session>>,
    pub(super) identity: Identity,
    pub(super) meta: Arc<TraceMeta>,
    /// Where its spans go.
    pub(super) outlet: Outlet,
    mechanism: &'static str,
    probes: u64,
    coverage: Coverage,
    /// What was known last.
    progress: Progress,
    last_error: Option<String>,
}

impl Traced {
    /// A session that has just begun.
    pub(super) fn new(session: Box<Session>, identity: Identity, outlet: Outlet) -> Self {
        Self {
            meta: Arc::clone(session.meta()),
            mechanism: session.mechanism().as_str(),
            probes: session.probes() as u64,
            coverage: session.coverage().clone(),
            progress: Progress::default(),
            last_error: None,
            session: Some(session),
            identity,
            outlet,
        }
    }

    /// Takes in what happened since the last call and passes it on; `true`: there was something.
    ///
    /// # Errors
    /// The session cannot go on.
    pub(super) fn poll(
        &mut self,
        out: &mut Vec<Output>,
        now: MonoNs,
        rates: &mut Rates,
    ) -> Result<(Status, bool), SessionError> {
        let Some(session) = &mut self.session else { return Ok((Status::Running, false)) };
        let status = session.poll(out);
        let busy = !out.is_empty();
        self.hand_out(out, now, rates);
        Ok((status?, busy))
    }

    /// Passes spans on to whoever is to have them.
    pub(super) fn hand_out(&mut self, out: &mut Vec<Output>, now: MonoNs, rates: &mut Rates) {
        for output in out.drain(..) {
            if let Output::Ended(span) = &output {
                rates.count(span);
            }
            self.outlet.offer(&output, now);
        }
        self.outlet.advance(now);
    }

    /// Gives the session away, to be ended.
    pub(super) fn release(&mut self) -> Option<Box<Session>> {
        let session = self.session.take()?;
        if let Ok(progress) = session.progress() {
            self.progress = progress;
        }
        Some(session)
    }

    /// What went wrong last.
    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// What went wrong, for `status`.
    pub(super) fn failed(&mut self, error: String) {
        self.last_error = Some(error);
    }

    /// How it is doing.
    pub(super) fn report(&mut self, outlets: &Outlets) -> TargetReport {
        if let Some(session) = &self.session
            && let Ok(progress) = session.progress()
        {
            self.progress = progress;
        }
        let Progress { counters, spans, malformed } = &self.progress;
        let state =
            if self.session.is_some() { TargetState::Traced } else { TargetState::Detaching };
        let target = &self.meta.target;
        let sampling = self.outlet.sampling();
        let unsampled = sampling.unsampled.iter().filter(|(_, count)| *count != 0);
        let unsampled = unsampled.map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let (probed, inlined, refused) = self.coverage.counts();
        TargetReport {
            build_id: target.build_id.clone(),
            mechanism: Some(self.mechanism.to_owned()),
            probes: self.probes,
            functions_probed: probed as u64,
            functions_inlined: inlined as u64,
            functions_refused: refused as u64,
            missing: self.coverage.entries.iter().filter_map(MissingReport::of).collect(),
            hits: counters.get(Counter::Hits),
            records: counters.get(Counter::Records),
            spans: spans.ended,
            open: spans.open,
            drops: by_name(session::losses(counters, spans, *malformed)),
            unsampled: by_name(unsampled),
            exporters: outlets.reports_of(&self.outlet),
            last_error: self.last_error.clone(),
            ..TargetReport::bare(target.pid, target.executable.clone(), state)
        }
    }
}

/// Losses of a session that is over.
pub(super) fn losses(summary: &Summary) -> BTreeMap<String, u64> {
    by_name(summary.drops())
}

fn by_name(drops: Vec<(String, u64)>) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (name, count) in drops {
        *all.entry(name).or_default() += count;
    }
    all
}
