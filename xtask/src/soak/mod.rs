//! `cargo xtask soak`: what must hold for long, or many times. One scenario, one file.

mod outage;

use std::process::ExitCode;

use anyhow::Result;

/// What to endure.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, clap::Subcommand)]
enum Scenario {
    /// An endpoint takes no spans for ten minutes; none of them may be lost
    Outage(outage::Args),
}

/// Runs a scenario. The exit status says whether what must hold did.
///
/// # Errors
/// Something is missing, does not build, or does not run.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.scenario {
        Scenario::Outage(args) => outage::run(args),
    }
}
