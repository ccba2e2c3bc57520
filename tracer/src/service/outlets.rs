//! The ways out: one exporter for each endpoint, shared by all processes, and for each process an
//! account with every one of them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::report::ExportReport;
use super::settings::Settings;
use crate::export::{
    Endpoint, ExportOptions, ExportStats, Exporter, Notice, ResourceInfo, Sender, SpoolConfig,
    StartError,
};
use crate::plan::TraceMeta;
use crate::span::{MonoNs, Span};

/// Where the spans of one process go.
#[derive(Default)]
pub(super) struct Ways(Vec<(Endpoint, Sender)>);

impl Ways {
    /// Sends a span everywhere; `until` ends one that is still running.
    pub(super) fn send(&self, span: &Span, until: MonoNs) {
        for (_, sender) in &self.0 {
            sender.send_open(span, until);
        }
    }

    /// The account of each.
    pub(super) fn reports(&self) -> Vec<ExportReport> {
        self.0
            .iter()
            .map(|(endpoint, sender)| ExportReport::of(endpoint, &sender.stats()))
            .collect()
    }
}

/// All exporters.
pub(super) struct Outlets {
    exporters: Vec<Exporter>,
    service_name: String,
    spool_dir: PathBuf,
    spool_bytes: u64,
}

impl Outlets {
    /// None yet. What cannot be sent waits below `spool_dir`, at most `spool_bytes` per endpoint.
    pub(super) fn new(spool_dir: PathBuf, spool_bytes: u64) -> Self {
        Self { exporters: vec![], service_name: String::new(), spool_dir, spool_bytes }
    }

    /// From now on spans go where the settings say. Gives the exporters that are of no use any
    /// more, to be closed once nobody sends to them, and what went wrong.
    pub(super) fn change(
        &mut self,
        endpoints: &[Endpoint],
        settings: &Settings,
    ) -> (Vec<Exporter>, Vec<String>) {
        self.service_name.clone_from(&settings.service_name);
        let (kept, old): (Vec<_>, Vec<_>) = std::mem::take(&mut self.exporters)
            .into_iter()
            .partition(|exporter| endpoints.contains(exporter.endpoint()));
        self.exporters = kept;
        let mut failed = vec![];
        for endpoint in endpoints {
            if self.exporters.iter().any(|exporter| exporter.endpoint() == endpoint) {
                continue;
            }
            match self.start(endpoint) {
                Ok(exporter) => {
                    info!(endpoint = endpoint.display(), protocol = endpoint.protocol(), "sending");
                    self.exporters.push(exporter);
                }
                Err(error) => failed.push(error.to_string()),
            }
        }
        (old, failed)
    }

    fn start(&self, endpoint: &Endpoint) -> Result<Exporter, StartError> {
        let with = |spool| ExportOptions { spool, ..ExportOptions::default() };
        if self.spool_bytes == 0 {
            return Exporter::start(endpoint.clone(), with(None));
        }
        let dir = self.spool_dir.join(folder(endpoint));
        let spool = SpoolConfig { dir, max_bytes: self.spool_bytes };
        Exporter::start(endpoint.clone(), with(Some(spool))).or_else(|error| match error {
            // Better without than not at all: it may still be in use by the one before.
            StartError::Spool { .. } => {
                warn!("spans that cannot be sent wait in memory only: {error}");
                Exporter::start(endpoint.clone(), with(None))
            }
            error => Err(error),
        })
    }

    /// Opens the accounts of a process.
    pub(super) fn ways(&self, meta: &TraceMeta) -> Ways {
        let resource = ResourceInfo::local(Some(self.service_name.clone()), meta.target.clone());
        let way = |exporter: &Exporter| {
            (exporter.endpoint().clone(), exporter.sender(&resource, meta.anchor))
        };
        Ways(self.exporters.iter().map(way).collect())
    }

    /// The account of each endpoint, all processes together.
    pub(super) fn reports(&self) -> Vec<ExportReport> {
        let report = |exporter: &Exporter| ExportReport::of(exporter.endpoint(), &exporter.stats());
        self.exporters.iter().map(report).collect()
    }

    /// The same in numbers.
    pub(super) fn stats(&self) -> Vec<ExportStats> {
        self.exporters.iter().map(Exporter::stats).collect()
    }

    /// What there is to tell since the last call.
    pub(super) fn notices(&self) -> Vec<Notice> {
        self.exporters.iter().flat_map(Exporter::take_notices).collect()
    }

    /// Gives all of them away, to be closed.
    pub(super) fn take(&mut self) -> Vec<Exporter> {
        std::mem::take(&mut self.exporters)
    }

    /// There are none.
    pub(super) fn is_empty(&self) -> bool {
        self.exporters.is_empty()
    }
}

/// A folder's name for an endpoint: the same in every run, and it says which.
fn folder(endpoint: &Endpoint) -> PathBuf {
    let url = endpoint.url();
    let mut hash = DefaultHasher::new();
    (url.as_str(), endpoint.protocol()).hash(&mut hash);
    let host: String = url
        .host_str()
        .unwrap_or("host")
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
        .take(64)
        .collect();
    let port = url.port_or_known_default().unwrap_or(0);
    Path::new(&format!("{host}-{port}-{:016x}", hash.finish())).to_owned()
}

/// Logs what an exporter has to tell.
pub(super) fn log(notice: &Notice) {
    match notice {
        Notice::Unreachable { endpoint, error } => {
            warn!("{endpoint} cannot be reached ({error}); spans are kept and tried again");
        }
        Notice::Recovered { endpoint } => info!("{endpoint} can be reached again"),
        Notice::Rejected { endpoint, error } => warn!("{endpoint} refuses spans ({error})"),
        Notice::LossBegan { endpoint, cause } => warn!("spans for {endpoint} are lost: {cause}"),
        Notice::LossEnded { endpoint, lost } => {
            info!("spans for {endpoint} are not lost any more; {lost} were");
        }
        Notice::SpoolFailed { spool, error } => {
            warn!("spool {spool}: {error}; spans wait in memory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TracingConfig, TracingExporter};
    use crate::service::{Choice, Config};

    fn settings(urls: &[&str], name: &str) -> (Settings, Vec<Endpoint>) {
        let mut flags = TracingConfig::new(TracingExporter::None).with_service_name(name);
        for url in urls {
            if url.ends_with("/api/traces") {
                flags = flags.with_exporter(TracingExporter::Jaeger).with_jaeger_endpoint(*url);
            } else {
                flags = flags.with_exporter(TracingExporter::Otlp).with_otlp_endpoint(*url);
            }
        }
        let choice = Choice { flags, ..Choice::default() };
        let settings =
            Settings::resolve(true, &choice, &Default::default(), &Config::default()).unwrap();
        let endpoints = settings.endpoints().unwrap();
        (settings, endpoints)
    }

    #[test]
    fn only_what_changes_is_started_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut outlets = Outlets::new(dir.path().join("spool"), 1 << 20);
        let (one, endpoints) = settings(&["http://127.0.0.1:1"], "a");
        assert!(outlets.change(&endpoints, &one).0.is_empty());
        let (both, endpoints) =
            settings(&["http://127.0.0.1:1", "http://127.0.0.1:2/api/traces"], "b");
        let (old, failed) = outlets.change(&endpoints, &both);
        assert!(old.is_empty() && failed.is_empty(), "{failed:?}");
        assert_eq!(outlets.reports().len(), 2);
        let (other, endpoints) = settings(&["http://127.0.0.1:3"], "b");
        let (old, _) = outlets.change(&endpoints, &other);
        assert_eq!((old.len(), outlets.reports().len()), (2, 1));
        // One folder for each endpoint that was ever sent to.
        assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 3);
        assert_eq!(outlets.take().len(), 1);
        assert!(outlets.is_empty());
    }
}
