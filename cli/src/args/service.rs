//! The commands of the service.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tracer::service::{CONFIG_FILE, SOCKET, STATE_DIR};

use super::{EXIT_CODES, SettingArgs};

const ENABLE_EXAMPLES: &str = "\
Examples:
  orchestrate-trace enable --exporter jaeger
  orchestrate-trace enable --exporter otlp --otlp-endpoint http://collector:4317 --sample-rate 0.5
  orchestrate-trace enable --exporter jaeger --exporter otlp --service-name my-service

Without flags: what OTEL_* variables and the service's configuration say. The setting replaces the
one before, and survives a restart. Root and members of the group orchestrate-trace may use it.";

const DAEMON_NOTES: &str = "\
SIGHUP reads the configuration again, without losing spans; SIGTERM and SIGINT detach from
everything, send what is left, and end. Needs root, or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE,
CAP_CHECKPOINT_RESTORE and CAP_DAC_READ_SEARCH. Started by systemd, it says when it is ready.";

/// Where the service listens.
#[derive(Debug, Args)]
pub struct SocketArg {
    /// The service's control socket
    #[arg(
        long,
        value_name = "PATH",
        env = "ORCHESTRATE_TRACE_SOCKET",
        default_value = SOCKET,
        hide_env_values = true,
        help_heading = "Service"
    )]
    pub socket: PathBuf,
}

/// Where the service keeps things.
#[derive(Debug, Args)]
pub struct FilesArgs {
    /// The service's configuration
    #[arg(
        long,
        value_name = "FILE",
        env = "ORCHESTRATE_TRACE_CONFIG",
        hide_env_values = true,
        help_heading = "Service",
        long_help = format!("The service's configuration [default: {CONFIG_FILE}, if it exists]")
    )]
    pub config: Option<PathBuf>,

    /// Folder of what survives a restart
    #[arg(
        long,
        value_name = "DIR",
        env = "ORCHESTRATE_TRACE_STATE_DIR",
        default_value = STATE_DIR,
        hide_env_values = true,
        help_heading = "Service"
    )]
    pub state_dir: PathBuf,
}

impl FilesArgs {
    /// The configuration file, and whether it must exist.
    pub fn config(&self) -> (PathBuf, bool) {
        match &self.config {
            Some(path) => (path.clone(), true),
            None => (PathBuf::from(CONFIG_FILE), false),
        }
    }
}

/// `enable`.
#[derive(Debug, Args)]
#[command(after_help = ENABLE_EXAMPLES, after_long_help = format!("{ENABLE_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Enable {
    #[command(flatten)]
    pub setting: SettingArgs,

    #[command(flatten)]
    pub socket: SocketArg,
}

/// `disable`.
#[derive(Debug, Args)]
pub struct Disable {
    #[command(flatten)]
    pub socket: SocketArg,
}

/// `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub socket: SocketArg,

    #[command(flatten)]
    pub files: FilesArgs,
}

/// `daemon`.
#[derive(Debug, Args)]
#[command(after_help = DAEMON_NOTES)]
pub struct Daemon {
    #[command(flatten)]
    pub socket: SocketArg,

    #[command(flatten)]
    pub files: FilesArgs,
}

/// `config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a commented configuration, everything as it is by default
    Init,
}

/// `install-service`.
#[derive(Debug, Args)]
pub struct InstallService {
    /// Install below this folder, as for an image, and start nothing
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// Take away again what was installed; settings and configuration stay
    #[arg(long)]
    pub remove: bool,
}
