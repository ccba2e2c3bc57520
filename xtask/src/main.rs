//! Everything that is done to this workspace, one command each: `cargo xtask COMMAND`.

mod bpf;
mod build;
mod host;
mod sh;
mod test;

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
    }
    Ok(ExitCode::SUCCESS)
}
