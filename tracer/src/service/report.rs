//! What `status` says, on the wire and with `--json`. Fields may be added; none changes its
//! meaning.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::settings::Settings;
use crate::config::TracingExporter;
use crate::export::{Endpoint, ExportStats};
use crate::plan::EntryCoverage;

/// How things are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this format.
    pub v: u8,
    /// The service runs.
    pub running: bool,
    /// Tracing is on.
    pub enabled: bool,
    /// Where spans go; empty: nowhere.
    pub exporters: Vec<TracingExporter>,
    /// `service.name` of the spans.
    pub service_name: String,
    /// Which part of the traces is kept, 0 to 1.
    pub sample_rate: f64,
    /// Jaeger's endpoint, used or not.
    pub jaeger_endpoint: String,
    /// Nobody has named it.
    pub jaeger_endpoint_is_default: bool,
    /// OTLP endpoint, used or not.
    pub otlp_endpoint: String,
    /// Nobody has named it.
    pub otlp_endpoint_is_default: bool,
    /// What `enable` has to say beside: endpoints that cannot be reached.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The service itself; absent where it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceReport>,
    /// Processes that are to be traced.
    #[serde(default)]
    pub targets: Vec<TargetReport>,
}

/// The service itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Seconds since it began.
    pub uptime_s: u64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// CPU time used, user and system, in seconds.
    pub cpu_s: f64,
    /// What went wrong last, and has not been put right.
    pub last_error: Option<String>,
    /// Where spans go, all processes together.
    #[serde(default)]
    pub exporters: Vec<ExportReport>,
    /// Since it began, all processes together, those that have ended included.
    pub totals: Totals,
}

/// Sums over processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Processes attached to.
    pub attached: u64,
    /// Processes that could not be.
    pub refused: u64,
    /// Probe hits.
    pub hits: u64,
    /// Spans handed out.
    pub spans: u64,
    /// Spans that an endpoint has taken.
    pub exported: u64,
    /// Everything lost, by name; empty when nothing was.
    pub drops: BTreeMap<String, u64>,
}

impl Totals {
    /// Adds losses, by name.
    pub fn lost<'a>(&mut self, drops: impl IntoIterator<Item = (&'a str, u64)>) {
        for (name, count) in drops.into_iter().filter(|(_, count)| *count != 0) {
            *self.drops.entry(name.to_owned()).or_default() += count;
        }
    }
}

/// What is done about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// It is being inspected, and probes are being placed.
    Attaching,
    /// It is traced.
    Traced,
    /// Probes are being taken away.
    Detaching,
    /// It cannot be traced; tried again when it executes another program.
    Refused,
}

impl TargetState {
    /// The word that users and scripts see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attaching => "attaching",
            Self::Traced => "traced",
            Self::Detaching => "detaching",
            Self::Refused => "refused",
        }
    }
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetReport {
    /// Its id.
    pub pid: u32,
    /// What is done about it.
    pub state: TargetState,
    /// Its program, as it sees it itself.
    pub executable: PathBuf,
    /// GNU build-id.
    pub build_id: Option<String>,
    /// Why it is refused.
    pub reason: Option<String>,
    /// How probes are placed.
    pub mechanism: Option<String>,
    /// Probes placed.
    pub probes: u64,
    /// Functions probed.
    pub functions_probed: u64,
    /// Bodies known to be inlined.
    pub functions_inlined: u64,
    /// Functions that matched and cannot be probed.
    pub functions_refused: u64,
    /// What the profile asks for and is not there, or not all of it.
    pub missing: Vec<MissingReport>,
    /// Probe hits.
    pub hits: u64,
    /// Records taken in.
    pub records: u64,
    /// Spans handed out.
    pub spans: u64,
    /// Spans under way.
    pub open: u64,
    /// Everything lost, by name; empty when nothing was.
    pub drops: BTreeMap<String, u64>,
    /// Spans that sampling left out, by reason; empty when none were.
    #[serde(default)]
    pub unsampled: BTreeMap<String, u64>,
    /// Where its spans go.
    pub exporters: Vec<ExportReport>,
    /// What went wrong last.
    pub last_error: Option<String>,
}

impl TargetReport {
    /// A process of which no more is known.
    pub fn bare(pid: u32, executable: PathBuf, state: TargetState) -> Self {
        Self {
            pid,
            state,
            executable,
            build_id: None,
            reason: None,
            mechanism: None,
            probes: 0,
            functions_probed: 0,
            functions_inlined: 0,
            functions_refused: 0,
            missing: vec![],
            hits: 0,
            records: 0,
            spans: 0,
            open: 0,
            drops: BTreeMap::new(),
            unsampled: BTreeMap::new(),
            exporters: vec![],
            last_error: None,
        }
    }
}

/// One line of the profile of which not everything is probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingReport {
    /// Name of its spans.
    pub span: String,
    /// Its pattern.
    pub pattern: String,
    /// Why.
    pub reason: String,
}

impl MissingReport {
    /// What is missing of a line of the profile, if anything.
    pub fn of(entry: &EntryCoverage) -> Option<Self> {
        let EntryCoverage { span, pattern, probed: _, refused, inlined, missing } = entry;
        let mut reasons: Vec<String> = missing.iter().cloned().collect();
        if !inlined.is_empty() {
            reasons.push(format!("{} inlined", inlined.len()));
        }
        reasons.extend(refused.iter().map(|function| {
            let (name, reason) = (&function.name, &function.reason);
            format!("{name}: {reason}")
        }));
        (!reasons.is_empty()).then(|| Self {
            span: span.clone(),
            pattern: pattern.clone(),
            reason: reasons.join("; "),
        })
    }
}

/// One way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReport {
    /// Where to.
    pub endpoint: String,
    /// How.
    pub protocol: String,
    /// Spans the endpoint has taken.
    pub exported: u64,
    /// Spans waiting in memory.
    pub queued: u64,
    /// Spans waiting on disk.
    pub spooled: u64,
    /// Spans lost, by cause; empty when nothing was.
    pub drops: BTreeMap<String, u64>,
    /// Tries beyond the first.
    pub retries: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

impl ExportReport {
    /// An account.
    pub fn of(endpoint: &Endpoint, stats: &ExportStats) -> Self {
        let lost = stats.dropped.iter().filter(|(_, count)| *count != 0);
        Self {
            endpoint: endpoint.display(),
            protocol: endpoint.protocol().to_owned(),
            exported: stats.exported,
            queued: stats.waiting(),
            spooled: stats.spooled,
            drops: lost.map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            retries: stats.retries,
            last_error: stats.last_error.clone(),
        }
    }
}

impl Report {
    /// The settings; nothing runs.
    pub fn of_settings(settings: &Settings) -> Self {
        Self {
            v: super::protocol::VERSION,
            running: false,
            enabled: settings.enabled,
            exporters: settings.exporters.clone(),
            service_name: settings.service_name.clone(),
            sample_rate: settings.policy.ratio.get(),
            jaeger_endpoint: settings.shown_jaeger_endpoint(),
            jaeger_endpoint_is_default: settings.is_default_endpoint(TracingExporter::Jaeger),
            otlp_endpoint: settings.shown_otlp_endpoint(),
            otlp_endpoint_is_default: settings.is_default_endpoint(TracingExporter::Otlp),
            warnings: settings.warnings.clone(),
            service: None,
            targets: vec![],
        }
    }
}
