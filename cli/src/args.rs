//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tracer::config::{TracingConfig, TracingExporter};
use tracer::export::Protocol;
use tracer::sampling::KeepRule;
use tracer::semantics::{Captures, Private};

use crate::engine::{Mechanism, Options};

mod service;

pub use service::{ConfigCommand, Daemon, Disable, Enable, InstallService, Status};

const EXIT_CODES: &str = "\
Exit codes:
  0  ok
  1  failed
  2  wrong usage
  3  not permitted
  4  the target cannot be traced (no such process, not an ELF file, nothing to probe)
  5  the service is not running
  `run` exits with the program's status (128+N after signal N), or with 125 when tracing it
  failed, 126 when it could not be executed, 127 when it was not found.";

const EXAMPLES: &str = "\
Examples:
  orchestrate-trace attach 4242                        watch a process, Ctrl-C detaches
  orchestrate-trace attach orchestrate --json          every process of that name, JSON lines
  orchestrate-trace attach 4242 --duration 30s --exporter otlp
  orchestrate-trace run -- orchestrate daemon          trace a program from its first instruction
  orchestrate-trace inspect 4242                       what would be probed, and what it costs
  orchestrate-trace doctor                             can tracing work here?
  orchestrate-trace enable --exporter otlp             have the service trace and send
  orchestrate-trace status                             how the service is doing";

const ATTACH_EXAMPLES: &str = "\
Examples:
  orchestrate-trace attach 4242
  orchestrate-trace attach orchestrate --duration 1m
  orchestrate-trace attach 4242 --json | jq 'select(.outcome == \"panicked\")'
  orchestrate-trace attach 4242 --exporter otlp --otlp-endpoint http://collector:4318
  orchestrate-trace attach 4242 --function 'my_service::handlers::*'
  orchestrate-trace attach 4242 --record trace.rec; orchestrate-trace replay trace.rec

Needs root, or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE. The target runs on as it was afterwards.";

const RUN_EXAMPLES: &str = "\
Examples:
  orchestrate-trace run -- orchestrate daemon
  orchestrate-trace run --json -o spans.jsonl -- ./my-service --port 8080

The program has the terminal to itself: signals go to it, and its status is the exit code.";

/// Watch what the agents of a running `orchestrate` process do — or any async Rust program's
/// functions — without changing, rebuilding or restarting it.
#[derive(Debug, Parser)]
#[command(
    name = "orchestrate-trace",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// When to use colours; NO_COLOR and CLICOLOR_FORCE are honoured
    #[arg(long, value_name = "WHEN", default_value_t = ColorChoice::Auto, global = true)]
    pub color: ColorChoice,

    /// Log more, -vv even more; with `attach` and `run` also what the BPF programs say
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trace a running process until Ctrl-C
    Attach(Attach),
    /// Start a program and trace it from its first instruction
    Run(Run),
    /// Show what would be probed in a process or a program, and what each probe costs
    Inspect(Inspect),
    /// Check whether tracing can work here, and say what to do where it cannot
    Doctor(Doctor),
    /// Rebuild the spans of a recording, anywhere and without privileges
    Replay(Replay),
    /// Turn the service's tracing on, and set where spans go
    Enable(Enable),
    /// Turn the service's tracing off, and detach from everything
    Disable(Disable),
    /// Show whether the service traces, what, and how well
    Status(Status),
    /// Run the service in the foreground
    Daemon(Daemon),
    /// The service's configuration file
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Install the service on a host without the package
    InstallService(InstallService),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Print the manual page
    Man {
        /// Write one page for each command into this folder instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// `attach`.
#[derive(Debug, Args)]
#[command(after_help = ATTACH_EXAMPLES, after_long_help = format!("{ATTACH_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Attach {
    /// A process id, or the name of an executable: then every process that runs it
    #[arg(value_name = "PID|NAME")]
    pub target: String,

    #[command(flatten)]
    pub trace: TraceArgs,

    #[command(flatten)]
    pub view: ViewArgs,

    #[command(flatten)]
    pub export: ExportArgs,
}

/// `run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES, after_long_help = format!("{RUN_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Run {
    /// The program and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<OsString>,

    #[command(flatten)]
    pub trace: TraceArgs,

    #[command(flatten)]
    pub view: ViewArgs,

    #[command(flatten)]
    pub export: ExportArgs,
}

/// `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A process id, or the path of a program
    #[arg(value_name = "PID|FILE")]
    pub target: String,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub what: WhatArgs,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// A recording made with `attach --record`
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    #[command(flatten)]
    pub capture: CaptureArgs,

    #[command(flatten)]
    pub view: ViewArgs,

    #[command(flatten)]
    pub export: ExportArgs,
}

/// Which functions become spans.
#[derive(Debug, Default, Args)]
pub struct WhatArgs {
    /// Which functions become which spans (TOML), instead of the built-in profile
    #[arg(long, value_name = "FILE", help_heading = "What to trace")]
    pub profile: Option<PathBuf>,

    /// Debuginfo of the target: a file, or a folder with one named after it or its build-id. A
    /// release build of the same source with debuginfo will do; repeatable
    #[arg(long, value_name = "FILE|DIR", help_heading = "What to trace")]
    pub debuginfo: Vec<PathBuf>,

    /// Also trace functions whose demangled path matches, such as `my_crate::db::*`; repeatable
    #[arg(long = "function", value_name = "PATTERN", help_heading = "What to trace")]
    pub functions: Vec<String>,
}

/// What to trace, and how.
#[derive(Debug, Default, Args)]
pub struct TraceArgs {
    #[command(flatten)]
    pub what: WhatArgs,

    #[command(flatten)]
    pub capture: CaptureArgs,

    /// Stop after this long: 500ms, 10s, 5m, 1h30m
    #[arg(long, value_name = "TIME", value_parser = crate::duration::parse)]
    pub duration: Option<Duration>,

    /// Record the raw stream for `replay`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// How probes are attached
    #[arg(long, value_enum, default_value_t, help_heading = "Diagnosis")]
    pub mechanism: Mechanism,

    /// Size of the ring buffer: 4M, 512K (a power of two)
    #[arg(long, value_name = "BYTES", value_parser = parse_ring_size, help_heading = "Diagnosis")]
    pub ring_size: Option<u32>,

    /// Futures that can be suspended at once and still be followed [default: 131072]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24),
          help_heading = "Diagnosis")]
    pub max_futures: Option<u32>,
}

impl TraceArgs {
    /// As the engine wants them.
    pub fn options(&self, verbose: bool) -> Options {
        Options {
            profile: self.what.profile.clone(),
            functions: self.what.functions.clone(),
            debuginfo: self.what.debuginfo.clone(),
            mechanism: self.mechanism,
            ring_bytes: self.ring_size,
            max_futures: self.max_futures,
            record: self.record.clone(),
            captures: self.capture.captures(),
            verbose,
        }
    }
}

/// What spans may say about themselves beyond names, sizes and counts.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Privacy")]
pub struct CaptureArgs {
    /// Also show text that is private: prompts (and completions), commands (and arguments of
    /// tools), sql-literals, headers; several with commas. Credentials are never shown
    #[arg(long = "capture", value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Private>,
}

impl CaptureArgs {
    /// As the library wants them.
    pub fn captures(&self) -> Captures {
        self.kinds.iter().copied().collect()
    }
}

/// How spans are shown.
#[derive(Debug, Default, Args)]
pub struct ViewArgs {
    /// Print one JSON object a line: spans, events, and a summary at the end
    #[arg(long)]
    pub json: bool,

    /// Write spans to a file instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Show only traces that took at least this long
    #[arg(long, value_name = "TIME", value_parser = crate::duration::parse)]
    pub min_duration: Option<Duration>,

    /// Show no spans, only messages and the summary: for spans that are exported or recorded
    #[arg(short, long)]
    pub quiet: bool,
}

/// Where spans are sent, and which: also what `enable` sets.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Export")]
pub struct SettingArgs {
    /// Send spans away; repeatable [default: none]
    #[arg(long = "exporter", value_enum, value_name = "KIND")]
    pub exporters: Vec<ExporterKind>,

    /// Where OTLP goes [env: OTEL_EXPORTER_OTLP_ENDPOINT] [default: http://localhost:4317]
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// grpc or http/protobuf [env: OTEL_EXPORTER_OTLP_PROTOCOL] [default: HTTP for port 4318 or
    /// path /v1/traces, else gRPC]
    #[arg(long, value_name = "PROTOCOL")]
    pub otlp_protocol: Option<Protocol>,

    /// Where Jaeger is: Thrift over HTTP, or its OTLP receiver with port 4318 or path /v1/traces
    /// [env: OTEL_EXPORTER_JAEGER_ENDPOINT] [default: http://localhost:14268/api/traces]
    #[arg(long, value_name = "URL")]
    pub jaeger_endpoint: Option<String>,

    /// Name of the service that spans belong to [env: OTEL_SERVICE_NAME] [default: orchestrate]
    #[arg(long, value_name = "NAME")]
    pub service_name: Option<String>,

    /// Export this share of all traces, 0 to 1, chosen by their ids [env: OTEL_TRACES_SAMPLER_ARG]
    /// [default: 1]
    #[arg(long, value_name = "R", value_parser = parse_rate, allow_negative_numbers = true)]
    pub sample_rate: Option<f64>,

    /// Begin to export no more than this many traces in a second
    #[arg(long, value_name = "N")]
    pub max_traces_per_second: Option<u32>,

    /// Export all the same: traces with a span for which all of the rule holds; repeatable. `error`,
    /// `slower=500ms`, `name=tool_*`, `outcome=cancelled`, `attr:key=value`; commas mean "and"
    #[arg(long, value_name = "RULE")]
    pub keep: Vec<KeepRule>,
}

impl SettingArgs {
    /// As the library has it.
    pub fn config(&self) -> TracingConfig {
        let Self {
            exporters,
            otlp_endpoint,
            otlp_protocol,
            jaeger_endpoint,
            service_name,
            sample_rate,
            max_traces_per_second,
            keep,
        } = self.clone();
        TracingConfig {
            exporters: exporters.into_iter().map(TracingExporter::from).collect(),
            service_name,
            sample_rate,
            max_traces_per_second,
            keep,
            jaeger_endpoint,
            otlp_endpoint,
            otlp_protocol,
        }
    }
}

/// What a command that traces by itself does with its spans.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Export")]
pub struct ExportArgs {
    #[command(flatten)]
    pub setting: SettingArgs,

    /// Keep spans in this folder while an endpoint cannot be reached, and send them later, or in
    /// the next run with the same folder
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,

    /// The most that the spool of an endpoint may hold: 64M, 2G
    #[arg(long, value_name = "BYTES", value_parser = parse_spool_size, default_value = "512M")]
    pub spool_size: u64,
}

impl Default for ExportArgs {
    fn default() -> Self {
        Self { setting: SettingArgs::default(), spool: None, spool_size: 512 << 20 }
    }
}

/// Kinds of exporters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExporterKind {
    /// An OTLP endpoint: the OpenTelemetry Collector, Jaeger, Tempo…
    Otlp,
    /// Jaeger, by its own protocol (Thrift over HTTP)
    Jaeger,
    /// Nothing
    None,
}

impl From<ExporterKind> for TracingExporter {
    fn from(kind: ExporterKind) -> Self {
        match kind {
            ExporterKind::Otlp => Self::Otlp,
            ExporterKind::Jaeger => Self::Jaeger,
            ExporterKind::None => Self::None,
        }
    }
}

/// A number; whether it lies within bounds is looked at later.
fn parse_rate(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(rate) if !rate.is_nan() => Ok(rate),
        _ => Err("expected a number from 0 to 1, such as 0.25".to_owned()),
    }
}

/// Bytes with K, M or G.
fn parse_spool_size(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a size such as 64M or 2G, 1M at least";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor: u64 = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(EXPECTED.to_owned()),
    };
    let bytes = text[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    bytes.filter(|bytes| *bytes >= 1 << 20).ok_or_else(|| EXPECTED.to_owned())
}

/// Bytes with K or M, a power of two, as the kernel wants ring buffers.
fn parse_ring_size(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let (digits, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, ""),
    };
    let factor: u32 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        _ => return Err(format!("unknown unit '{unit}'; write 512K or 4M")),
    };
    let bytes = digits
        .parse::<u32>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| "expected a size such as 512K or 4M".to_owned())?;
    if !bytes.is_power_of_two() || !(4096..=1 << 30).contains(&bytes) {
        return Err("expected a power of two between 4K and 1024M".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rates() {
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        assert_eq!(parse_rate("-3"), Ok(-3.0));
        assert_eq!(parse_rate("inf"), Ok(f64::INFINITY));
        for text in ["", "half", "NaN", "50%"] {
            assert!(parse_rate(text).unwrap_err().contains("0 to 1"), "{text}");
        }
    }

    #[test]
    fn ring_sizes() {
        assert_eq!(parse_ring_size("4M"), Ok(4 << 20));
        assert_eq!(parse_ring_size("8192"), Ok(8192));
        assert!(parse_ring_size("3M").unwrap_err().contains("power of two"));
        assert!(parse_ring_size("4G").unwrap_err().contains("unknown unit"));
        assert!(parse_ring_size("M").unwrap_err().contains("expected a size"));
    }

    #[test]
    fn spool_sizes() {
        assert_eq!(parse_spool_size("64M"), Ok(64 << 20));
        assert_eq!(parse_spool_size("2g"), Ok(2 << 30));
        for wrong in ["", "M", "1K", "5T", "-1", "99999999999999999999"] {
            assert!(parse_spool_size(wrong).unwrap_err().contains("64M"), "{wrong}");
        }
    }

    #[test]
    fn run_leaves_the_programs_own_flags_alone() {
        let cli =
            Cli::try_parse_from(["x", "run", "--json", "--", "prog", "--json", "-v"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert!(run.view.json);
        assert_eq!(run.command, ["prog", "--json", "-v"]);
        assert_eq!(cli.verbose, 0);
    }
}
