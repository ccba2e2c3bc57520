//! A miniature of `orchestrate`: the same stack, the same module paths, its own record of what it
//! did. The README of the workloads describes the flags and the record.

mod agents;
mod daemon;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};
use workload_record::KeepSpans;

#[derive(Parser)]
#[command(version, about = "A miniature of orchestrate that records its own truth")]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Log with colours
    #[arg(long, global = true)]
    ansi: bool,

    /// Log less (-q: warnings, -qq: errors); RUST_LOG overrides
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    quiet: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agents of a database
    Daemon(DaemonArgs),
}

/// What the agents are told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mix {
    /// All succeed
    Plain,
    /// Some are blocked, get errors from the API, are stopped half-way, or panic
    Faults,
}

#[derive(Args)]
struct DaemonArgs {
    /// The database; created and filled if it has no agents
    #[arg(long)]
    db: PathBuf,

    /// The Messages API, with its version: https://localhost:PORT/v1
    #[arg(long, default_value = "https://api.anthropic.com/v1")]
    api_url: String,

    /// How many agents a new database gets
    #[arg(long, default_value_t = 4)]
    agents: usize,

    /// How many agents run at once
    #[arg(long, default_value_t = 3)]
    concurrency: usize,

    /// What the agents of a new database are told to do
    #[arg(long, value_enum, default_value_t = Mix::Plain)]
    mix: Mix,

    /// Where to write the record
    #[arg(long)]
    truth: Option<PathBuf>,

    /// Where the web API listens
    #[arg(long, default_value = "127.0.0.1:0")]
    web_listen: SocketAddr,

    /// Where to write the port of the web API, once it listens
    #[arg(long)]
    port_file: Option<PathBuf>,

    /// Run no agent until this file exists
    #[arg(long)]
    start_gate: Option<PathBuf>,

    /// Where the tools work [default: the directory of the database]
    #[arg(long)]
    workdir: Option<PathBuf>,

    /// The model of all agents [default: by their type]
    #[arg(long)]
    model: Option<String>,

    /// How often to look for new agents
    #[arg(long, default_value_t = 200)]
    poll_ms: u64,

    /// Go on when all agents are done
    #[arg(long)]
    stay: bool,

    /// Sent to the Messages API
    #[arg(long, env = "ANTHROPIC_API_KEY", default_value = "none", hide_env_values = true)]
    api_key: String,
}

fn init_logging(ansi: bool, quiet: u8) {
    let level = match quiet {
        0 => "info",
        1 => "warn",
        _ => "error",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt::layer().with_ansi(ansi).with_target(false);
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(KeepSpans::layer()).init();
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    init_logging(cli.ansi, cli.quiet);
    match cli.command {
        Command::Daemon(args) => {
            let record = match &args.truth {
                Some(path) => {
                    let record = workload_record::init(path);
                    Some(record.with_context(|| format!("creating {}", path.display()))?)
                }
                None => None,
            };
            let result = daemon::run_daemon(args).await;
            if let Some(record) = record {
                record.finish().context("writing the record")?;
            }
            result
        }
    }
}
