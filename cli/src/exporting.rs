//! From flags and environment to exporters.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use tracer::export::{
    Endpoint, ExportStats, Exporters, Limits, Notice, Outlet, ResourceInfo, SpoolConfig,
};
use tracer::plan::TargetMeta;
use tracer::sampling::Policy;
use tracer::service::{
    CONFIG_FILE, Choice, Config, ConfigError as ServiceConfigError, Environment, Settings,
};
use tracer::span::ClockAnchor;

use crate::args::ExportArgs;
use crate::exit::CliError;
use crate::render::summary::Exported;
use crate::render::text;

/// How long the last flush may take.
pub const FLUSH: Duration = Duration::from_secs(5);

/// Where spans are to be sent, and which, checked before anything is attached.
#[derive(Clone, Debug, Default)]
pub struct Destinations {
    endpoints: Vec<Endpoint>,
    service_name: Option<String>,
    policy: Policy,
    spool: Option<SpoolConfig>,
    warnings: Vec<String>,
}

impl Destinations {
    /// The flags, then this process's environment, then the configuration file, where there is
    /// one that we may read.
    pub fn of_command(args: &ExportArgs) -> Result<Self, CliError> {
        let named = std::env::var_os("ORCHESTRATE_TRACE_CONFIG");
        let path = named.as_deref().map_or_else(|| Path::new(CONFIG_FILE), Path::new);
        let config = match Config::read(path, named.is_some()) {
            Err(ServiceConfigError::Read { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied && named.is_none() =>
            {
                Config::default()
            }
            config => config.map_err(CliError::failed)?,
        };
        Self::resolve(args, Environment::own(), &config)
    }

    fn resolve(
        args: &ExportArgs,
        environment: BTreeMap<String, String>,
        config: &Config,
    ) -> Result<Self, CliError> {
        let choice = Choice { flags: args.setting.config(), environment };
        let settings =
            Settings::resolve(true, &choice, &BTreeMap::new(), config).map_err(CliError::usage)?;
        let endpoints = settings.endpoints().map_err(CliError::usage)?;
        let max_bytes = args.spool_size;
        Ok(Self {
            endpoints,
            service_name: Some(settings.service_name),
            policy: settings.policy,
            spool: args.spool.clone().map(|dir| SpoolConfig { dir, max_bytes }),
            warnings: settings.warnings.iter().map(|text| format!("warning: {text}")).collect(),
        })
    }

    /// Something about the settings that the user should know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Starts one exporter for each endpoint.
    pub fn start(&self) -> Result<Exporters, CliError> {
        Exporters::start(self.endpoints.clone(), &Limits::default(), self.spool.as_ref())
            .map_err(CliError::failed)
    }

    /// The way out for the spans of one process.
    pub fn outlet(&self, to: &Exporters, target: &TargetMeta, anchor: ClockAnchor) -> Outlet {
        let resource = ResourceInfo::local(self.service_name.clone(), target.clone());
        to.outlet(&resource, anchor, &self.policy)
    }

    /// What became of one process's spans at each endpoint.
    pub fn exported(&self, stats: Vec<ExportStats>) -> Vec<Exported> {
        let both = self.endpoints.iter().zip(stats);
        both.map(|(endpoint, stats)| Exported {
            endpoint: endpoint.display(),
            protocol: endpoint.protocol(),
            stats,
        })
        .collect()
    }
}

/// A notice in the user's words; `true` when it is good news.
pub fn message(notice: &Notice) -> (bool, &'static str, String) {
    match notice {
        Notice::Unreachable { endpoint, error } => (
            false,
            "export_unreachable",
            format!(
                "warning: {endpoint} cannot be reached ({}); spans are kept and tried again",
                text::sanitise(error)
            ),
        ),
        Notice::Recovered { endpoint } => {
            (true, "export_recovered", format!("{endpoint} can be reached again"))
        }
        Notice::Rejected { endpoint, error } => (
            false,
            "export_rejected",
            format!("warning: {endpoint} refuses spans ({})", text::sanitise(error)),
        ),
        Notice::LossBegan { endpoint, cause } => (
            false,
            "export_loss_began",
            format!("warning: spans for {endpoint} are being lost ({cause})"),
        ),
        Notice::LossEnded { endpoint, lost } => (
            true,
            "export_loss_ended",
            format!("no more spans for {endpoint} are being lost; {} were", text::count(*lost)),
        ),
        Notice::SpoolFailed { spool, error } => (
            false,
            "export_spool_failed",
            format!(
                "warning: spool {}: {}; spans wait in memory",
                text::sanitise(spool),
                text::sanitise(error)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{ExporterKind, SettingArgs};

    fn of(setting: SettingArgs, env: &[(&str, &str)]) -> Result<Destinations, CliError> {
        let args = ExportArgs { setting, ..ExportArgs::default() };
        let env = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Destinations::resolve(&args, env, &Config::default())
    }

    fn resolve(args: &SettingArgs, env: &[(&str, &str)]) -> Result<Vec<String>, String> {
        of(args.clone(), env)
            .map(|to| to.endpoints.iter().map(Endpoint::display).collect())
            .map_err(|error| error.message)
    }

    #[test]
    fn which_exporters() {
        let mut args = SettingArgs::default();
        assert_eq!(resolve(&args, &[]), Ok(vec![]));
        let env = [("OTEL_TRACES_EXPORTER", "otlp")];
        assert_eq!(resolve(&args, &env), Ok(vec!["http://localhost:4317".to_owned()]));
        assert!(resolve(&args, &[("OTEL_TRACES_EXPORTER", "zipkin")]).is_err());
        args.exporters = vec![ExporterKind::None];
        assert_eq!(resolve(&args, &env), Ok(vec![]));
        args.exporters = vec![ExporterKind::Otlp, ExporterKind::Otlp];
        assert_eq!(resolve(&args, &[]), Ok(vec!["http://localhost:4317".to_owned()]));
        args.exporters = vec![];
        args.otlp_endpoint = Some("http://c:4318".to_owned());
        assert_eq!(resolve(&args, &[]), Ok(vec!["http://c:4318/v1/traces".to_owned()]));
    }

    #[test]
    fn jaeger_by_its_own_protocol_or_otlp() {
        let with = |url: Option<&str>, kinds: &[ExporterKind]| {
            let args = SettingArgs {
                exporters: kinds.to_vec(),
                jaeger_endpoint: url.map(str::to_owned),
                ..SettingArgs::default()
            };
            resolve(&args, &[])
        };
        let ok = |urls: &[&str]| Ok(urls.iter().map(|url| (*url).to_owned()).collect());
        let jaeger = [ExporterKind::Jaeger];
        assert_eq!(with(None, &jaeger), ok(&["http://localhost:14268/api/traces"]));
        assert_eq!(with(Some("http://j:14268"), &[]), ok(&["http://j:14268/api/traces"]));
        assert_eq!(with(Some("http://j:4318"), &jaeger), ok(&["http://j:4318/v1/traces"]));
        let both = [ExporterKind::Jaeger, ExporterKind::Otlp, ExporterKind::None];
        let urls = ["http://localhost:14268/api/traces", "http://localhost:4317"];
        assert_eq!(with(None, &both), ok(&urls));
        assert!(with(Some("j:14268"), &jaeger).unwrap_err().contains("--jaeger-endpoint"));
    }

    #[test]
    fn which_share() {
        let with = |rate, env: &[(&str, &str)]| {
            let args = SettingArgs { sample_rate: rate, ..SettingArgs::default() };
            let to = of(args, env);
            to.map(|to| (to.policy.ratio.get(), to.warnings.len())).map_err(|error| error.message)
        };
        let env = [
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ];
        assert_eq!(with(None, &[]), Ok((1.0, 0)));
        assert_eq!(with(None, &env), Ok((0.25, 0)));
        assert_eq!(with(Some(0.5), &env), Ok((0.5, 0)));
        assert_eq!(with(Some(7.0), &[]), Ok((1.0, 1)));
        assert_eq!(with(Some(-7.0), &[]), Ok((0.0, 1)));
        assert_eq!(with(None, &[("OTEL_TRACES_SAMPLER", "always_off")]), Ok((0.0, 0)));
        assert!(with(None, &[("OTEL_TRACES_SAMPLER", "xray")]).unwrap_err().contains("'xray'"));
        let env = [env[0], ("OTEL_TRACES_SAMPLER_ARG", "half")];
        assert!(with(None, &env).unwrap_err().contains("'half'"));
    }
}
