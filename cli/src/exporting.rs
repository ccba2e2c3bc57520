//! From flags and environment to exporters.

use std::time::Duration;

use tracer::export::{
    Endpoint, ExportStats, Exporters, Limits, Notice, Outlet, ResourceInfo, SpoolConfig,
};
use tracer::plan::TargetMeta;
use tracer::sampling::{Policy, Ratio};
use tracer::span::ClockAnchor;

use crate::args::{ExportArgs, ExporterKind};
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
    /// Reads the flags, and the environment where they are silent.
    pub fn resolve(
        args: &ExportArgs,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, CliError> {
        let mut kinds = args.exporters.clone();
        if kinds.is_empty() {
            kinds = Self::implied(args, &env)?;
        }
        let mut endpoints: Vec<Endpoint> = vec![];
        for kind in kinds {
            let endpoint = match kind {
                ExporterKind::None => continue,
                ExporterKind::Otlp => {
                    Endpoint::otlp(args.otlp_endpoint.as_deref(), args.otlp_protocol, &env)
                }
                ExporterKind::Jaeger => Endpoint::jaeger(args.jaeger_endpoint.as_deref(), &env),
            };
            let endpoint = endpoint.map_err(CliError::usage)?;
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        let mut warnings = vec![];
        let (ratio, warning) = ratio(args.sample_rate, &env)?;
        warnings.extend(warning);
        let policy = Policy {
            ratio,
            traces_per_second: args.max_traces_per_second,
            keep: args.keep.clone(),
            ..Policy::default()
        };
        let max_bytes = args.spool_size;
        let spool = args.spool.clone().map(|dir| SpoolConfig { dir, max_bytes });
        let service_name = args.service_name.clone();
        Ok(Self { endpoints, service_name, policy, spool, warnings })
    }

    fn implied(
        args: &ExportArgs,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<ExporterKind>, CliError> {
        // Who names an endpoint wants it used.
        let mut kinds = vec![];
        if args.otlp_endpoint.is_some() {
            kinds.push(ExporterKind::Otlp);
        }
        if args.jaeger_endpoint.is_some() {
            kinds.push(ExporterKind::Jaeger);
        }
        if !kinds.is_empty() {
            return Ok(kinds);
        }
        let value = env("OTEL_TRACES_EXPORTER").unwrap_or_default();
        value
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(|name| match name {
                "otlp" => Ok(ExporterKind::Otlp),
                "jaeger" => Ok(ExporterKind::Jaeger),
                "none" => Ok(ExporterKind::None),
                _ => Err(CliError::usage(format_args!(
                    "OTEL_TRACES_EXPORTER: '{name}' is not supported; use otlp, jaeger or none"
                ))),
            })
            .collect()
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

/// The share of traces: the flag, else `OTEL_TRACES_SAMPLER` and its argument. What is outside of
/// 0 to 1 is clamped, with a warning.
fn ratio(
    flag: Option<f64>,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<(Ratio, Option<String>), CliError> {
    let env = |name: &str| env(name).filter(|value| !value.trim().is_empty());
    let clamp = |source: &str, rate: f64| {
        let (ratio, clamped) = Ratio::clamped(rate);
        let warning = clamped.then(|| {
            format!("warning: {source} {rate} is not between 0 and 1; using {}", ratio.get())
        });
        (ratio, warning)
    };
    if let Some(rate) = flag {
        return Ok(clamp("--sample-rate", rate));
    }
    let Some(sampler) = env("OTEL_TRACES_SAMPLER") else {
        return Ok((Ratio::ALL, None));
    };
    let sampler = sampler.trim();
    match sampler.strip_prefix("parentbased_").unwrap_or(sampler) {
        "always_on" => Ok((Ratio::ALL, None)),
        "always_off" => Ok((Ratio::NONE, None)),
        "traceidratio" => {
            let Some(text) = env("OTEL_TRACES_SAMPLER_ARG") else {
                return Ok((Ratio::ALL, None));
            };
            let rate: f64 = text.trim().parse().map_err(|_| {
                CliError::usage(format_args!(
                    "OTEL_TRACES_SAMPLER_ARG: '{text}' is not a number from 0 to 1"
                ))
            })?;
            Ok(clamp("OTEL_TRACES_SAMPLER_ARG", rate))
        }
        other => Err(CliError::usage(format_args!(
            "OTEL_TRACES_SAMPLER: '{other}' is not supported; use traceidratio, always_on or \
             always_off, with parentbased_ in front or without"
        ))),
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

    fn resolve(args: &ExportArgs, env: &[(&str, &str)]) -> Result<Vec<String>, String> {
        Destinations::resolve(args, |name| {
            env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        })
        .map(|to| to.endpoints.iter().map(Endpoint::display).collect())
        .map_err(|error| error.message)
    }

    #[test]
    fn which_exporters() {
        let mut args = ExportArgs::default();
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
            let args = ExportArgs {
                exporters: kinds.to_vec(),
                jaeger_endpoint: url.map(str::to_owned),
                ..ExportArgs::default()
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
            let args = ExportArgs { sample_rate: rate, ..ExportArgs::default() };
            let to = Destinations::resolve(&args, |name| {
                env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
            });
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
