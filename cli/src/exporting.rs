//! From flags and environment to exporters.

use std::time::Duration;

use tracer::export::{Exporter, Notice, OtlpConfig, Protocol, ResourceInfo};
use tracer::plan::TargetMeta;
use tracer::span::ClockAnchor;

use crate::args::{ExportArgs, ExporterKind};
use crate::exit::CliError;
use crate::render::summary::Exported;
use crate::render::text;

/// How long the last flush may take.
pub const FLUSH: Duration = Duration::from_secs(5);

/// Where spans are to be sent, checked before anything is attached.
#[derive(Clone, Debug, Default)]
pub struct Destinations {
    endpoints: Vec<OtlpConfig>,
    service_name: Option<String>,
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
        let mut endpoints: Vec<OtlpConfig> = vec![];
        for kind in kinds {
            let config = match kind {
                ExporterKind::None => continue,
                ExporterKind::Otlp => {
                    let endpoint = args.otlp_endpoint.as_deref();
                    OtlpConfig::resolve(endpoint, args.otlp_protocol, &env)
                        .map_err(CliError::usage)?
                }
                ExporterKind::Jaeger => jaeger(args.jaeger_endpoint.as_deref())?,
            };
            if !endpoints.contains(&config) {
                endpoints.push(config);
            }
        }
        Ok(Self { endpoints, service_name: args.service_name.clone() })
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
                "none" => Ok(ExporterKind::None),
                _ => Err(CliError::usage(format_args!(
                    "OTEL_TRACES_EXPORTER: '{name}' is not supported; use otlp or none"
                ))),
            })
            .collect()
    }

    /// Starts one exporter for each endpoint.
    pub fn start(
        &self,
        target: &TargetMeta,
        anchor: ClockAnchor,
    ) -> Result<Vec<Exporter>, CliError> {
        let resource = ResourceInfo::local(self.service_name.clone(), target.clone());
        self.endpoints
            .iter()
            .map(|config| {
                Exporter::start(config.clone(), resource.clone(), anchor).map_err(CliError::failed)
            })
            .collect()
    }
}

/// Jaeger's URL is taken for OTLP by port 4318 or the path `/v1/traces` only; 4317 is its gRPC
/// receiver, but nothing in the URL says so.
fn jaeger(endpoint: Option<&str>) -> Result<OtlpConfig, CliError> {
    const NEXT: &str = "use --exporter otlp --otlp-endpoint http://localhost:4317, where Jaeger \
                        receives OTLP, or give --jaeger-endpoint with port 4318";
    let Some(endpoint) = endpoint else {
        return Err(CliError::usage(format_args!(
            "--exporter jaeger: sending to Jaeger's own port 14268 is not supported yet; {NEXT}"
        )));
    };
    let config = OtlpConfig::resolve(Some(endpoint), None, |_| None)
        .map_err(|error| error.to_string().replace("--otlp-endpoint", "--jaeger-endpoint"));
    match config {
        Ok(config) if config.protocol == Protocol::HttpProtobuf => Ok(config),
        Ok(_) => Err(CliError::usage(format_args!(
            "--jaeger-endpoint {endpoint}: only its OTLP receiver is supported yet; {NEXT}"
        ))),
        Err(error) if error.contains("gRPC") => Err(CliError::usage(format_args!(
            "--jaeger-endpoint {endpoint}: only its OTLP receiver is supported yet; {NEXT}"
        ))),
        Err(error) => Err(CliError::usage(error)),
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
    }
}

/// Flushes all at once, within one deadline, and gives their accounts.
pub fn shutdown(exporters: Vec<Exporter>) -> Vec<Exported> {
    let flushing: Vec<_> = exporters
        .into_iter()
        .map(|exporter| {
            let endpoint = exporter.config().display_endpoint();
            let protocol = exporter.config().protocol.as_str();
            let thread = std::thread::spawn(move || exporter.shutdown(FLUSH));
            (endpoint, protocol, thread)
        })
        .collect();
    flushing
        .into_iter()
        .map(|(endpoint, protocol, thread)| {
            let stats = thread.join().unwrap_or_default();
            Exported { endpoint, protocol, stats }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(args: &ExportArgs, env: &[(&str, &str)]) -> Result<Vec<String>, String> {
        Destinations::resolve(args, |name| {
            env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        })
        .map(|to| to.endpoints.iter().map(OtlpConfig::display_endpoint).collect())
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
    fn jaeger_through_otlp_only() {
        let with = |url: Option<&str>| {
            let args = ExportArgs {
                exporters: vec![ExporterKind::Jaeger],
                jaeger_endpoint: url.map(str::to_owned),
                ..ExportArgs::default()
            };
            resolve(&args, &[])
        };
        assert_eq!(with(Some("http://j:4318")), Ok(vec!["http://j:4318/v1/traces".to_owned()]));
        for url in [None, Some("http://j:14268/api/traces"), Some("http://j:4317")] {
            assert!(with(url).unwrap_err().contains("http://localhost:4317"), "{url:?}");
        }
    }
}
