//! Everything that is done to this workspace, one command each: `cargo xtask COMMAND`.

mod bench;
mod bpf;
mod build;
mod demo;
mod dist;
mod host;
mod interop;
mod live;
mod sh;
mod soak;
mod systemd;
mod test;
mod truth;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What is done to this workspace, one command each.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the eBPF programs from source and print where the object is
    BuildEbpf(bpf::Args),
    /// Run every test, as root: installs and builds what they need
    Test(test::Args),
    /// Measure: what tracing costs, beside what else could be used
    Bench(bench::Args),
    /// Trace a miniature orchestrate that is already running, and hold what was seen against its
    /// own record
    Demo(demo::Args),
    /// Build the Debian package and print where it is
    Dist(dist::Args),
    /// Boot a systemd in namespaces, install the package in it, and use the service
    Systemd(systemd::Args),
    /// Trace a miniature orchestrate into a real Jaeger, directly and through a real OpenTelemetry
    /// Collector, and compare what arrives
    Interop(interop::Args),
    /// What must hold for long, or many times
    Soak(soak::Args),
    /// Hold a trace against the truth: of the truth workload, or of a live orchestrate
    Truth(truth::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            if !error.is::<sh::Failed>() {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::BuildEbpf(args) => bpf::run(&args)?,
        Command::Test(args) => test::run(&args)?,
        Command::Dist(args) => println!("{}", dist::run(&args)?.display()),
        Command::Systemd(args) => systemd::run(&args)?,
        Command::Bench(args) => return bench::run(&args),
        Command::Demo(args) => return demo::run(&args),
        Command::Interop(args) => return interop::run(&args),
        Command::Soak(args) => return soak::run(&args),
        Command::Truth(args) => return truth::run(&args),
    }
    Ok(ExitCode::SUCCESS)
}
