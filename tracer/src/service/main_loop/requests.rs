//! What is done when somebody asks for it.

use procfs::process::Process;
use tracing::{info, warn};

use super::{Reply, Service};
use crate::config::TracingExporter;
use crate::export::Endpoint;
use crate::service::protocol::{Refusal, Refused, Request};
use crate::service::report::{Report, ServiceReport};
use crate::service::settings::{Choice, Settings};
use crate::service::state::State;

impl Service {
    pub(super) fn request(&mut self, request: Request, reply: Reply) {
        let result = match request {
            Request::Status { v: _ } => Ok((self.report(), vec![])),
            Request::Enable { v: _, choice } => self.enable(choice),
            Request::Disable { v: _ } => match self.disable() {
                // Answered when nothing is attached any more.
                Ok(()) => {
                    self.disabling.push(reply);
                    return;
                }
                Err(refused) => Err(refused),
            },
        };
        let _ = reply.send(result);
    }

    fn enable(&mut self, choice: Choice) -> Result<(Report, Vec<Endpoint>), Refused> {
        let usage = |why: String| Refused::new(Refusal::Usage, why);
        let settings =
            Settings::resolve(true, &choice, &self.own_environment, &self.config).map_err(usage)?;
        let said_none = choice.flags.exporters.contains(&TracingExporter::None);
        if settings.exporters.is_empty() && !said_none {
            return Err(usage(
                "nowhere to send spans to: give --exporter otlp or --exporter jaeger (or \
                 --exporter none to trace without sending)"
                    .to_owned(),
            ));
        }
        let endpoints = settings.endpoints().map_err(|error| usage(error.to_string()))?;
        let state = State { enabled: true, choice, ..self.state.clone() };
        self.keep(state)?;
        let exporters = &settings.exporters;
        info!(?exporters, service = settings.service_name, "tracing is on");
        self.apply(settings, &endpoints);
        let mut report = self.report();
        report.warnings.extend(self.last_error.clone());
        Ok((report, endpoints))
    }

    fn disable(&mut self) -> Result<(), Refused> {
        let state = State { enabled: false, ..self.state.clone() };
        self.keep(state)?;
        let settings = Settings { enabled: false, ..self.settings.clone() };
        info!("tracing is off");
        self.apply(settings, &[]);
        Ok(())
    }

    /// Persists first: what is said to be in force survives whatever happens next.
    fn keep(&mut self, state: State) -> Result<(), Refused> {
        state.write(&self.options.state_dir).map_err(|error| {
            warn!(%error, "the setting cannot be kept");
            let message = format!("the setting cannot be kept, and nothing has changed: {error}");
            Refused::new(Refusal::Failed, message)
        })?;
        self.state = state;
        Ok(())
    }

    pub(super) fn report(&mut self) -> Report {
        let (rss_bytes, cpu_s) = usage();
        let mut report = Report::of_settings(&self.settings);
        report.running = true;
        report.targets = self.targets.report();
        report.service = Some(ServiceReport {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.began.elapsed().as_secs(),
            rss_bytes,
            cpu_s,
            last_error: self.last_error.clone().or_else(|| self.targets.last_error()),
            exporters: self.targets.exports(),
            totals: self.targets.totals_with(&report.targets),
        });
        report
    }
}

/// Our own resident memory and CPU time.
fn usage() -> (u64, f64) {
    let Ok(stat) = Process::myself().and_then(|own| own.stat()) else { return (0, 0.0) };
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    (stat.rss * rustix::param::page_size() as u64, (stat.utime + stat.stime) as f64 / ticks)
}
