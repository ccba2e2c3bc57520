//! What is to be done with spans, in the words that users of `orchestrate` know: exporters, their
//! endpoints, a service name, a sample rate.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use crate::export::DEFAULT_JAEGER_ENDPOINT;
use crate::export::{DEFAULT_ENDPOINT, Protocol};
use crate::sampling::{KeepRule, Ratio};

/// Where OTLP goes when nobody says otherwise.
pub const DEFAULT_OTLP_ENDPOINT: &str = DEFAULT_ENDPOINT;

/// Where spans go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TracingExporter {
    /// A Jaeger collector.
    Jaeger,
    /// An OTLP endpoint: the OpenTelemetry Collector, Jaeger, Tempo…
    Otlp,
    /// Nowhere.
    None,
}

impl TracingExporter {
    /// The word that users and scripts see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jaeger => "jaeger",
            Self::Otlp => "otlp",
            Self::None => "none",
        }
    }
}

impl fmt::Display for TracingExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TracingExporter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "jaeger" => Ok(Self::Jaeger),
            "otlp" => Ok(Self::Otlp),
            "none" => Ok(Self::None),
            other => Err(format!("'{other}' is not an exporter; use jaeger, otlp or none")),
        }
    }
}

/// What is to be done with spans. What is left out falls back to `OTEL_*` variables, a
/// configuration file and defaults, depending on who uses it.
///
/// ```
/// use tracer::config::{TracingConfig, TracingExporter};
///
/// let config = TracingConfig::new(TracingExporter::Jaeger)
///     .with_service_name("my-service")
///     .with_sample_rate(0.5)
///     .with_jaeger_endpoint("http://jaeger:14268/api/traces");
/// assert_eq!(config.exporters, [TracingExporter::Jaeger]);
/// assert_eq!(config.sample_rate, Some(0.5));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingConfig {
    /// Where spans go; empty: not said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exporters: Vec<TracingExporter>,
    /// `service.name` of the spans.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// Which part of the traces is kept, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<f64>,
    /// No more traces than this begin to be exported in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_traces_per_second: Option<u32>,
    /// Traces that are exported all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<KeepRule>,
    /// URL of the Jaeger collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jaeger_endpoint: Option<String>,
    /// URL of the OTLP endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// How OTLP is carried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_protocol: Option<Protocol>,
}

impl TracingConfig {
    /// One exporter, everything else as it is by default.
    pub fn new(exporter: TracingExporter) -> Self {
        Self { exporters: vec![exporter], ..Self::default() }
    }

    /// One more exporter.
    #[must_use]
    pub fn with_exporter(mut self, exporter: TracingExporter) -> Self {
        if !self.exporters.contains(&exporter) {
            self.exporters.push(exporter);
        }
        self
    }

    /// With the name that spans are exported under.
    #[must_use]
    pub fn with_service_name(mut self, name: impl Into<String>) -> Self {
        self.service_name = Some(name.into());
        self
    }

    /// With the part of the traces that is kept; clamped to 0–1.
    #[must_use]
    pub fn with_sample_rate(mut self, rate: f64) -> Self {
        self.sample_rate = Some(Ratio::clamped(rate).0.get());
        self
    }

    /// With a limit of traces that begin to be exported in a second.
    #[must_use]
    pub fn with_max_traces_per_second(mut self, traces: u32) -> Self {
        self.max_traces_per_second = Some(traces);
        self
    }

    /// With one more rule for traces that are exported all the same.
    #[must_use]
    pub fn with_keep_rule(mut self, rule: KeepRule) -> Self {
        self.keep.push(rule);
        self
    }

    /// With the URL of the Jaeger collector.
    #[must_use]
    pub fn with_jaeger_endpoint(mut self, url: impl Into<String>) -> Self {
        self.jaeger_endpoint = Some(url.into());
        self
    }

    /// With the URL of the OTLP endpoint.
    #[must_use]
    pub fn with_otlp_endpoint(mut self, url: impl Into<String>) -> Self {
        self.otlp_endpoint = Some(url.into());
        self
    }

    /// With the protocol that carries OTLP.
    #[must_use]
    pub fn with_otlp_protocol(mut self, protocol: Protocol) -> Self {
        self.otlp_protocol = Some(protocol);
        self
    }
}

/// A rate as people read it: `100%`, `12.5%`.
pub fn percent(rate: f64) -> String {
    let text = format!("{:.4}", rate * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (given, kept) in [(0.5, 0.5), (-1.0, 0.0), (7.0, 1.0), (f64::NAN, 1.0)] {
            let config = TracingConfig::new(TracingExporter::None).with_sample_rate(given);
            assert_eq!(config.sample_rate, Some(kept), "{given}");
        }
        let shown = [(1.0, "100%"), (0.5, "50%"), (0.125, "12.5%"), (0.0, "0%"), (0.001, "0.1%")];
        for (rate, text) in shown {
            assert_eq!(percent(rate), text);
        }
    }

    #[test]
    fn exporters_by_name() {
        for exporter in [TracingExporter::Jaeger, TracingExporter::Otlp, TracingExporter::None] {
            assert_eq!(exporter.to_string().parse(), Ok(exporter));
        }
        assert!("zipkin".parse::<TracingExporter>().unwrap_err().contains("jaeger, otlp or none"));
        let two = TracingConfig::new(TracingExporter::Otlp)
            .with_exporter(TracingExporter::Jaeger)
            .with_exporter(TracingExporter::Otlp);
        assert_eq!(two.exporters, [TracingExporter::Otlp, TracingExporter::Jaeger]);
    }
}
