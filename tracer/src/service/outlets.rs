//! Where spans go: the exporters that the settings in force ask for, shared by all processes.

use tracing::{info, warn};

use super::report::ExportReport;
use super::settings::Settings;
use crate::export::{
    Endpoint, ExportStats, Exporters, Limits, Notice, Outlet, ResourceInfo, SpoolConfig,
};
use crate::plan::TraceMeta;
use crate::sampling::Policy;
use crate::span::MonoNs;

/// All exporters, and what each process's spans go through before.
pub(super) struct Outlets {
    exporters: Exporters,
    service_name: String,
    policy: Policy,
    spool: Option<SpoolConfig>,
}

impl Outlets {
    /// None yet. What cannot be sent waits in `spool`.
    pub(super) fn new(spool: Option<SpoolConfig>) -> Self {
        Self {
            exporters: Exporters::default(),
            service_name: String::new(),
            policy: Policy::default(),
            spool,
        }
    }

    /// From now on spans go where the settings say. Gives the exporters that are of no use any
    /// more, to be closed once outlets are redirected, and what went wrong.
    pub(super) fn change(
        &mut self,
        endpoints: &[Endpoint],
        settings: &Settings,
    ) -> (Exporters, Vec<String>) {
        self.service_name.clone_from(&settings.service_name);
        self.policy.clone_from(&settings.policy);
        let (old, failed) =
            self.exporters.change(endpoints, &Limits::default(), self.spool.as_ref());
        (old, failed.iter().map(ToString::to_string).collect())
    }

    fn resource(&self, meta: &TraceMeta) -> ResourceInfo {
        ResourceInfo::local(Some(self.service_name.clone()), meta.target.clone())
    }

    /// The way out for a process.
    pub(super) fn outlet(&self, meta: &TraceMeta) -> Outlet {
        self.exporters.outlet(&self.resource(meta), meta.anchor, &self.policy)
    }

    /// What has changed holds for this process, too.
    pub(super) fn redirect(&self, outlet: &mut Outlet, meta: &TraceMeta) {
        let resource = self.resource(meta);
        outlet.redirect(&self.exporters, &resource, meta.anchor, &self.policy, MonoNs::now());
    }

    /// The account of each endpoint, all processes together.
    pub(super) fn reports(&self) -> Vec<ExportReport> {
        let each = self.exporters.iter();
        each.map(|exporter| ExportReport::of(exporter.endpoint(), &exporter.stats())).collect()
    }

    /// The accounts of a process, in the order of the endpoints.
    pub(super) fn reports_of(&self, outlet: &Outlet) -> Vec<ExportReport> {
        let both = self.exporters.iter().zip(outlet.stats());
        both.map(|(exporter, stats)| ExportReport::of(exporter.endpoint(), &stats)).collect()
    }

    /// The accounts in numbers.
    pub(super) fn stats(&self) -> Vec<ExportStats> {
        self.exporters.iter().map(|exporter| exporter.stats()).collect()
    }

    /// What there is to tell since the last call.
    pub(super) fn notices(&self) -> Vec<Notice> {
        self.exporters.take_notices()
    }

    /// Gives all of them away, to be closed.
    pub(super) fn take(&mut self) -> Exporters {
        std::mem::take(&mut self.exporters)
    }

    /// There are none.
    pub(super) fn is_empty(&self) -> bool {
        self.exporters.is_empty()
    }
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
        let spool = SpoolConfig { dir: dir.path().join("spool"), max_bytes: 1 << 20 };
        let mut outlets = Outlets::new(Some(spool));
        let (one, endpoints) = settings(&["http://127.0.0.1:1"], "a");
        assert!(outlets.change(&endpoints, &one).0.is_empty());
        let (both, endpoints) =
            settings(&["http://127.0.0.1:1", "http://127.0.0.1:2/api/traces"], "b");
        let (old, failed) = outlets.change(&endpoints, &both);
        assert!(old.is_empty() && failed.is_empty(), "{failed:?}");
        assert_eq!(outlets.reports().len(), 2);
        let (other, endpoints) = settings(&["http://127.0.0.1:3"], "b");
        let (old, _) = outlets.change(&endpoints, &other);
        assert_eq!((old.iter().count(), outlets.reports().len()), (2, 1));
        // One folder for each endpoint that was ever sent to.
        assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 3);
        assert_eq!(outlets.take().iter().count(), 1);
        assert!(outlets.is_empty());
    }
}
