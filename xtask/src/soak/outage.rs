//! Spans at a steady rate while the endpoint fails, and then does not any more.

use std::process::ExitCode;

use anyhow::Result;

use crate::sh;

/// How long, how much, how bad.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For how long the endpoint fails, in seconds
    #[arg(long, default_value_t = 600)]
    seconds: u64,

    /// Spans in a second
    #[arg(long, default_value_t = 1_000)]
    rate: u64,

    /// How it fails: killed, hanging, 429, 503, 400 (which loses by design, and counts), garbage;
    /// repeatable, one run each
    #[arg(long = "fault", default_values_t = [String::from("killed")])]
    faults: Vec<String>,

    /// Restart the exporter in the middle
    #[arg(long)]
    restart: bool,
}

/// Builds the load and runs it once for each fault.
///
/// # Errors
/// It does not build.
pub fn run(args: &Args) -> Result<ExitCode> {
    let Args { seconds, rate, faults, restart } = args;
    sh::say("building the load");
    let package = ["--locked", "--release", "-p", "orchestrate-tracer", "--example", "outage"];
    sh::run(sh::cargo().arg("build").args(package))?;
    let program = sh::target_dir().join("release/examples/outage");
    let mut good = true;
    for fault in faults {
        sh::say(format_args!("{rate} spans/s, {fault} for {seconds} s"));
        let dir = sh::Folder::new(None)?;
        let mut load = std::process::Command::new(&program);
        load.args([&rate.to_string(), &seconds.to_string(), fault, &restart.to_string()]);
        good &= sh::run(load.arg(dir.path())).is_ok();
    }
    println!("soak outage: {}", if good { "ok" } else { "FAILED" });
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
