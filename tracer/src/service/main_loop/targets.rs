//! The processes that are to be traced, and how far that has got.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use crate::assemble::Output;
use crate::attach::AttachedProbes;
use crate::events::StopReason;
use crate::export::{Endpoint, Exporters};
use crate::service::config::Config;
use crate::service::discovery::{self, Identity, Rules, Scanner};
use crate::service::outlets::{self, Outlets};
use crate::service::rates::Rates;
use crate::service::report::{ExportReport, TargetReport, TargetState, Totals};
use crate::service::settings::Settings;
use crate::service::traced::{self, Traced};
use crate::service::workshop::{Done, Job, Workshop};
use crate::session::{SessionOptions, Status};
use crate::span::MonoNs;
use tracer_ebpf::counters::Counter;

enum Target {
    Attaching,
    Traced(Box<Traced>),
    Refused { identity: Identity, reason: String },
}

/// All of them.
pub(super) struct Targets {
    workshop: Workshop,
    scanner: Scanner,
    rules: Rules,
    sessions: SessionOptions,
    all: BTreeMap<u32, Target>,
    outlets: Outlets,
    /// Of those that have ended.
    past: Totals,
    /// Exporters that are sending their last spans.
    closing: usize,
    next_scan: Instant,
    pause: Duration,
    left_out: usize,
    /// Spans between a session and its exporters; kept for its memory.
    out: Vec<Output>,
}

/// Longest time between two looks at sessions in which nothing happens: what a busy moment writes
/// in it must fit the ring buffer.
const IDLE: Duration = Duration::from_millis(50);
/// When to look again at what has just begun.
const SOON: Duration = Duration::from_millis(35);
/// Refusals kept to be shown.
const MAX_REFUSED: usize = 256;

impl Targets {
    pub(super) fn new(
        workshop: Workshop,
        scanner: Scanner,
        rules: Rules,
        sessions: SessionOptions,
        outlets: Outlets,
    ) -> Self {
        Self {
            workshop,
            scanner,
            rules,
            sessions,
            outlets,
            all: BTreeMap::new(),
            past: Totals::default(),
            closing: 0,
            next_scan: Instant::now(),
            pause: IDLE,
            left_out: 0,
            out: Vec::new(),
        }
    }

    /// Nothing is attached, being attached or being detached.
    pub(super) fn is_empty(&self) -> bool {
        self.all.values().all(|target| matches!(target, Target::Refused { .. }))
    }

    pub(super) fn are_traced(&self) -> bool {
        self.all.values().any(|target| matches!(target, Target::Traced(_)))
    }

    /// How many are traced.
    pub(super) fn traced(&self) -> usize {
        self.all.values().filter(|target| matches!(target, Target::Traced(_))).count()
    }

    /// Every exporter has ended.
    pub(super) fn all_sent(&self) -> bool {
        self.closing == 0
    }

    /// How long sessions need not be looked at.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    pub(super) fn until_scan(&self) -> Duration {
        self.next_scan.saturating_duration_since(Instant::now())
    }

    pub(super) fn scan_now(&mut self) {
        self.next_scan = Instant::now();
    }

    /// Takes in what every session has to tell.
    pub(super) fn poll(&mut self, rates: &mut Rates) {
        let now = MonoNs::now();
        let mut busy = false;
        let mut ended = vec![];
        for (&pid, target) in &mut self.all {
            let Target::Traced(traced) = target else { continue };
            match traced.poll(&mut self.out, now, rates) {
                Ok((Status::Running, something)) => busy |= something,
                Ok((Status::Exited, _)) => ended.push((pid, "it has exited")),
                Ok((Status::Replaced, _)) => ended.push((pid, "it executed another program")),
                Err(error) => {
                    error!(pid, "{error}");
                    traced.failed(error.to_string());
                    ended.push((pid, "its session failed"));
                }
            }
        }
        self.pause = if busy { AttachedProbes::DRAIN_INTERVAL } else { (self.pause * 2).min(IDLE) };
        for (pid, why) in ended {
            self.release(pid, why);
            self.scanner.forget(pid);
            // Whoever has the id now, or what it executed, is not to wait.
            self.scan_now();
        }
    }

    /// Looks for processes; attaches to those that are meant, detaches from those that are not
    /// meant any more.
    pub(super) fn scan(&mut self, config: &Config) {
        let found = match self.scanner.scan(&self.rules) {
            Ok(found) => found,
            Err(error) => {
                error!(%error, "looking for processes");
                self.next_scan = Instant::now() + Duration::from_secs(5);
                return;
            }
        };
        let wait = if found.unsettled { SOON } else { config.discovery.scan_interval() };
        self.next_scan = Instant::now() + wait;
        let is_meant = |pid: &u32| found.pids.binary_search(pid).is_ok();
        self.all.retain(|pid, target| !matches!(target, Target::Refused { .. }) || is_meant(pid));
        let lost: Vec<u32> = self.all.keys().copied().filter(|pid| !is_meant(pid)).collect();
        for pid in lost {
            self.release(pid, "it is not meant any more");
        }
        self.left_out = 0;
        for pid in found.pids {
            let Some(identity) = discovery::identity(pid) else { continue };
            match self.all.get(&pid) {
                None => {}
                Some(Target::Refused { identity: then, .. }) if *then != identity => {}
                Some(_) => continue,
            }
            let at_once = |target: &&Target| !matches!(target, Target::Refused { .. });
            if self.all.values().filter(at_once).count() >= config.tracing.max_targets {
                self.left_out += 1;
                continue;
            }
            debug!(pid, "attaching");
            let options = Box::new(self.sessions.clone());
            self.workshop.take(Job::Attach { pid, identity, options });
            self.all.insert(pid, Target::Attaching);
        }
    }

    /// Begins to detach.
    fn release(&mut self, pid: u32, why: &str) {
        let Some(Target::Traced(traced)) = self.all.get_mut(&pid) else { return };
        let Some(session) = traced.release() else { return };
        info!(pid, "detaching: {why}");
        self.workshop.take(Job::Finish { pid, session, why: StopReason::Requested });
    }

    /// Begins to detach from everything.
    pub(super) fn release_all(&mut self) {
        let pids: Vec<u32> = self.all.keys().copied().collect();
        for pid in pids {
            self.release(pid, "tracing is turned off");
        }
        self.all.retain(|_, target| !matches!(target, Target::Refused { .. }));
        self.scanner.forget_all();
    }

    /// Other processes are meant now, or something else is looked for in them.
    pub(super) fn change(&mut self, rules: Rules, sessions: SessionOptions) {
        let same = self.sessions.profile == sessions.profile
            && self.sessions.attach.ring_bytes == sessions.attach.ring_bytes;
        self.rules = rules;
        self.sessions = sessions;
        if same {
            // What was refused is tried again: the user may have put it right.
            self.all.retain(|_, target| !matches!(target, Target::Refused { .. }));
            self.scanner.forget_all();
        } else {
            // They are found again at once.
            self.release_all();
        }
    }

    /// Spans go where the settings say from now on; those that are waiting go where they were to
    /// go.
    ///
    /// # Errors
    /// Some endpoints cannot be sent to; why.
    pub(super) fn send_to(
        &mut self,
        endpoints: &[Endpoint],
        settings: &Settings,
    ) -> Result<(), String> {
        let (old, failed) = self.outlets.change(endpoints, settings);
        for target in self.all.values_mut() {
            if let Target::Traced(traced) = target {
                let meta = std::sync::Arc::clone(&traced.meta);
                self.outlets.redirect(&mut traced.outlet, &meta);
            }
        }
        self.close(old);
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    /// Sends what is left and closes the exporters, when nothing is traced any more.
    pub(super) fn close_idle(&mut self) {
        if self.is_empty() && !self.outlets.is_empty() {
            let exporters = self.outlets.take();
            self.close(exporters);
        }
    }

    fn close(&mut self, exporters: Exporters) {
        if !exporters.is_empty() {
            self.closing += 1;
            self.workshop.close(exporters);
        }
    }

    /// Takes in what the workshop has done.
    pub(super) fn done(&mut self, done: Done, enabled: bool, rates: &mut Rates) {
        match done {
            Done::Attached { pid, identity, result: Ok(session) } => {
                let meta = session.meta();
                let outlet = self.outlets.outlet(meta);
                let executable = meta.target.executable.display();
                info!(pid, %executable, probes = session.probes(), "attached");
                self.past.attached += 1;
                let traced = Box::new(Traced::new(session, identity, outlet));
                self.all.insert(pid, Target::Traced(traced));
                self.pause = AttachedProbes::DRAIN_INTERVAL;
                if !enabled {
                    self.release(pid, "tracing is turned off");
                }
            }
            Done::Attached { pid, identity, result: Err(reason) } => {
                self.all.remove(&pid);
                // It may have ended meanwhile, or executed something else: then it is looked at
                // anew.
                if enabled && discovery::identity(pid) == Some(identity) {
                    warn!(pid, "not traced: {reason}");
                    self.past.refused += 1;
                    self.refuse(pid, identity, reason);
                } else {
                    self.scanner.forget(pid);
                }
            }
            Done::Finished { pid, mut outputs, summary } => {
                let Some(Target::Traced(mut traced)) = self.all.remove(&pid) else { return };
                let now = MonoNs::now();
                traced.hand_out(&mut outputs, now, rates);
                traced.outlet.finish(now);
                match summary {
                    Ok(summary) => {
                        let drops = traced::losses(&summary);
                        info!(pid, spans = summary.spans.ended, ?drops, "detached");
                        self.past.hits += summary.counters.get(Counter::Hits);
                        self.past.spans += summary.spans.ended;
                        self.past.lost(drops.iter().map(|(name, n)| (name.as_str(), *n)));
                    }
                    Err(error) => {
                        warn!(pid, "detached; its account is not known: {error}");
                        self.past.lost([("summary_unavailable", 1)]);
                    }
                }
                if let Some(error) = traced.last_error()
                    && enabled
                    && discovery::identity(pid) == Some(traced.identity)
                {
                    // Again and again would be of no use.
                    self.refuse(pid, traced.identity, error.to_owned());
                }
                if enabled {
                    self.scan_now();
                }
            }
            Done::Closed { stats } => {
                self.closing = self.closing.saturating_sub(1);
                for stats in stats {
                    self.past.exported += stats.exported;
                    self.past.lost(stats.dropped);
                    let (lost, spooled) = (stats.lost(), stats.spooled);
                    if lost > 0 || spooled > 0 {
                        warn!(lost, spooled, "not all spans were sent: {:?}", stats.last_error);
                    }
                }
            }
        }
    }

    fn refuse(&mut self, pid: u32, identity: Identity, reason: String) {
        let refused = |target: &&Target| matches!(target, Target::Refused { .. });
        if self.all.values().filter(refused).count() < MAX_REFUSED {
            self.all.insert(pid, Target::Refused { identity, reason });
        }
    }

    /// Logs what exporters have to tell.
    pub(super) fn notices(&self) {
        self.outlets.notices().iter().for_each(outlets::log);
    }

    /// The account of each endpoint.
    pub(super) fn exports(&self) -> Vec<ExportReport> {
        self.outlets.reports()
    }

    pub(super) fn last_error(&self) -> Option<String> {
        (self.left_out > 0).then(|| {
            format!("{} more processes match than tracing.max_targets allows", self.left_out)
        })
    }

    /// Each process.
    pub(super) fn report(&mut self) -> Vec<TargetReport> {
        let outlets = &self.outlets;
        let each = |(pid, target): (&u32, &mut Target)| match target {
            Target::Attaching => bare(*pid, TargetState::Attaching),
            Target::Traced(traced) => traced.report(outlets),
            Target::Refused { identity: _, reason } => {
                TargetReport { reason: Some(reason.clone()), ..bare(*pid, TargetState::Refused) }
            }
        };
        self.all.iter_mut().map(each).collect()
    }

    /// Of those that have ended.
    pub(super) fn totals(self) -> Totals {
        self.past
    }

    /// Of those that have ended, and of these.
    pub(super) fn totals_with(&self, present: &[TargetReport]) -> Totals {
        let mut totals = self.past.clone();
        for target in present {
            totals.hits += target.hits;
            totals.spans += target.spans;
            totals.lost(target.drops.iter().map(|(name, n)| (name.as_str(), *n)));
        }
        for stats in self.outlets.stats() {
            totals.exported += stats.exported;
            totals.lost(stats.dropped);
        }
        totals
    }
}

fn bare(pid: u32, state: TargetState) -> TargetReport {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let executable = discovery::executable(Path::new(&process)).unwrap_or_default();
    TargetReport::bare(pid, executable, state)
}
