//! From sessions to sinks and exporters, until somebody or something says stop.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracer::export::{Exporters, Outlet};
use tracer::span::MonoNs;

use crate::engine::{CoverageView, EntryStatus, Output, PollStatus, Session, Summary};
use crate::exit::{CliError, Exit};
use crate::exporting::{self, Destinations};
use crate::progress;
use crate::render::json::Event;
use crate::render::style::Role;
use crate::render::summary::Account;
use crate::render::text;
use crate::signals;
use crate::sink::{Sink, Source};

/// How long nothing is read between two rounds, whatever there is to read: forty wakeups a second
/// at any rate of events, and a small part of the ring buffer at the highest.
const IDLE: Duration = Duration::from_millis(25);

/// So much from one session in one round that more may be waiting already.
const PLENTY: usize = 32_768;

/// Whose time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Ours.
    Live,
    /// The recording's: the latest instant in it.
    Recorded,
}

/// What the loop asks between two rounds.
pub trait Companion {
    /// Takes a signal; `true`: stop.
    fn signal(&mut self, signal: i32) -> bool;
    /// `true`: there is nothing more to wait for.
    fn is_over(&mut self) -> bool;
}

/// Nobody but the user.
pub struct Alone;

impl Companion for Alone {
    fn signal(&mut self, _: i32) -> bool {
        true
    }

    fn is_over(&mut self) -> bool {
        false
    }
}

/// Settings of a run.
pub struct Run<'a> {
    /// Where spans are shown.
    pub sink: &'a mut dyn Sink,
    /// Where they are sent.
    pub destinations: &'a Destinations,
    /// When to stop at the latest.
    pub duration: Option<Duration>,
    /// Whose time it is.
    pub clock: Clock,
}

struct Tracked {
    /// `None` once it is detached; then there is a summary.
    session: Option<Box<dyn Session>>,
    summary: Option<Summary>,
    source: Source,
    executable: String,
    outlet: Outlet,
}

/// Traces until the user, the time, the target or the reader of our output ends it; then detaches
/// first, and shows and sends what is left.
pub fn run(
    sessions: Vec<Box<dyn Session>>,
    settings: Run<'_>,
    companion: &mut dyn Companion,
) -> Result<Exit, CliError> {
    let Run { sink, destinations, duration, clock } = settings;
    let until = duration.and_then(|duration| Instant::now().checked_add(duration));
    for warning in destinations.warnings() {
        sink.event(Event::new("warning", None).with("message", &**warning), Role::Warning, warning)
            .map_err(|error| CliError::failed(format_args!("writing spans: {error}")))?;
    }
    let exporters = destinations.start()?;
    let mut tracked = vec![];
    for (index, session) in sessions.into_iter().enumerate() {
        let target = session.target();
        let source = Source { index, pid: target.pid, anchor: session.anchor() };
        let executable = target.executable.to_string_lossy().into_owned();
        let outlet = destinations.outlet(&exporters, target, session.anchor());
        tracked.push(Tracked { session: Some(session), summary: None, source, executable, outlet });
    }
    let mut state = State { tracked, exporters, latest: MonoNs(0), clock, failed: false };
    let shown = state.follow(sink, until, companion);
    let finished = state.finish(sink, destinations);
    match shown.and(finished) {
        Ok(()) => {}
        // Nobody reads any more: that is an end like any other.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => return Err(CliError::failed(format_args!("writing spans: {error}"))),
    }
    Ok(if state.failed { Exit::Failed } else { Exit::Ok })
}

struct State {
    tracked: Vec<Tracked>,
    exporters: Exporters,
    latest: MonoNs,
    clock: Clock,
    failed: bool,
}

impl State {
    fn now(&self) -> MonoNs {
        match self.clock {
            Clock::Recorded => self.latest,
            Clock::Live => MonoNs::now(),
        }
    }

    fn follow(
        &mut self,
        sink: &mut dyn Sink,
        until: Option<Instant>,
        companion: &mut dyn Companion,
    ) -> io::Result<()> {
        for one in &self.tracked {
            sink.source(one.source);
            if let Some(coverage) = one.session.as_ref().and_then(|session| session.coverage()) {
                attached(sink, one, coverage)?;
            }
        }
        let mut out = Vec::new();
        loop {
            if let Some(signal) = signals::take()
                && companion.signal(signal)
            {
                return Ok(());
            }
            if until.is_some_and(|until| Instant::now() >= until) || companion.is_over() {
                return Ok(());
            }
            let mut behind = false;
            for i in 0..self.tracked.len() {
                let Some(session) = &mut self.tracked[i].session else { continue };
                let status = session.poll(&mut out);
                behind |= out.len() >= PLENTY;
                self.hand_out(i, &mut out, sink)?;
                let source = self.tracked[i].source;
                let pid = source.pid;
                let (event, role, message) = match status {
                    Ok(PollStatus::Running) => continue,
                    Ok(PollStatus::EndOfRecording) => return Ok(()),
                    Ok(PollStatus::TargetExited) => (
                        Event::new("target_exited", Some(pid)),
                        Role::Warning,
                        format!("pid {pid} has exited"),
                    ),
                    Ok(PollStatus::TargetExec) => (
                        Event::new("target_exec", Some(pid)),
                        Role::Warning,
                        format!(
                            "pid {pid} runs another program now (exec): its probes are gone; \
                             attach again to trace that one"
                        ),
                    ),
                    Err(error) => {
                        self.failed = true;
                        (
                            Event::new("failed", Some(pid)).with("error", &*error.message),
                            Role::Bad,
                            format!("pid {pid}: {}", text::sanitise(&error.message)),
                        )
                    }
                };
                sink.event(event, role, &message)?;
                self.detach(i, sink)?;
            }
            if self.tracked.iter().all(|one| one.session.is_none()) {
                return Ok(());
            }
            self.notices(sink)?;
            sink.tick(self.now())?;
            if !behind && self.clock == Clock::Live {
                rest(sink.is_stdout())?;
            }
        }
    }

    /// Passes on what a session told. A sink that fails does not keep spans from the exporters.
    fn hand_out(
        &mut self,
        index: usize,
        out: &mut Vec<Output>,
        sink: &mut dyn Sink,
    ) -> io::Result<()> {
        for output in out.iter() {
            let (Output::Started(span) | Output::Ended(span)) = output;
            self.latest = self.latest.max(span.end.unwrap_or(span.start));
        }
        let now = self.now();
        let one = &mut self.tracked[index];
        let mut result = Ok(());
        for output in out.drain(..) {
            one.outlet.offer(&output, now);
            match output {
                Output::Started(span) if result.is_ok() => result = sink.started(one.source, span),
                Output::Started(_) => {}
                Output::Ended(span) if result.is_ok() => result = sink.ended(one.source, span),
                Output::Ended(_) => {}
            }
        }
        one.outlet.advance(now);
        result
    }

    fn detach(&mut self, index: usize, sink: &mut dyn Sink) -> io::Result<()> {
        let one = &mut self.tracked[index];
        let Some(session) = one.session.take() else { return Ok(()) };
        let mut out = Vec::new();
        one.summary = Some(session.finish(&mut out));
        self.hand_out(index, &mut out, sink)
    }

    fn notices(&mut self, sink: &mut dyn Sink) -> io::Result<()> {
        for notice in self.exporters.take_notices() {
            let (good, name, message) = exporting::message(&notice);
            let role = if good { Role::Good } else { Role::Warning };
            let event = Event::new(name, None).with("message", &*message);
            sink.event(event, role, &message)?;
        }
        Ok(())
    }

    /// Detaches everything before anything else: no target pays for a slow reader.
    fn finish(&mut self, sink: &mut dyn Sink, to: &Destinations) -> io::Result<()> {
        let mut result = Ok(());
        for index in 0..self.tracked.len() {
            result = result.and(self.detach(index, sink));
        }
        let now = self.now();
        for one in &mut self.tracked {
            one.outlet.finish(now);
        }
        result = result.and_then(|()| sink.end(now));
        result = result.and(self.notices(sink));
        let exporters = std::mem::take(&mut self.exporters);
        progress::during("sending the last spans", || exporters.shutdown(exporting::FLUSH));
        for one in &mut self.tracked {
            let account = Account {
                pid: one.source.pid,
                executable: std::mem::take(&mut one.executable),
                summary: one.summary.take().unwrap_or_default(),
                sampling: one.outlet.sampling(),
                exported: to.exported(one.outlet.stats()),
            };
            result = result.and(sink.account(&account));
        }
        result
    }
}

fn attached(sink: &mut dyn Sink, one: &Tracked, coverage: &CoverageView) -> io::Result<()> {
    let count = |status: EntryStatus| {
        u64::try_from(coverage.entries.iter().filter(|entry| entry.status == status).count())
            .unwrap_or(u64::MAX)
    };
    let probed = count(EntryStatus::Probed) + count(EntryStatus::Partly);
    let (inlined, missing) = (count(EntryStatus::Inlined), count(EntryStatus::Missing));
    let pid = one.source.pid;
    let event = Event::new("attached", Some(pid))
        .with("executable", &*one.executable)
        .with("probed", probed)
        .with("inlined", inlined)
        .with("missing", missing);
    let mut message =
        format!("attached to pid {pid} ({}): {probed} probed", text::sanitise(&one.executable));
    for (n, word) in [(inlined, "inlined"), (missing, "missing")] {
        if n > 0 {
            message.push_str(&format!(", {n} {word}"));
        }
    }
    if inlined + missing > 0 {
        message.push_str(&format!("; see `orchestrate-trace inspect {pid}`"));
    }
    sink.event(event, Role::Dim, &message)
}

/// Waits a little; less when a signal arrives. A reader of our output that has gone away is
/// noticed although nothing is written.
fn rest(stdout: bool) -> io::Result<()> {
    if !stdout {
        std::thread::sleep(IDLE);
        return Ok(());
    }
    let out = io::stdout();
    let mut fds = [PollFd::new(&out, PollFlags::empty())];
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(IDLE.subsec_nanos()) };
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
        Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        Ok(_) | Err(_) => {
            std::thread::sleep(IDLE);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
