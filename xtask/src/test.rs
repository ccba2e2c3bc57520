//! `cargo xtask test`: every test there is, those that need root and a kernel with eBPF included.

use anyhow::{Result, bail};

use crate::{build, host, sh};

/// How to test.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// Installs, builds and runs. Ends with what `cargo test` prints last.
///
/// # Errors
/// Something is missing, does not build, or fails.
pub fn run(args: &Args) -> Result<()> {
    host::require_tracing()?;
    let built = build::all()?;
    let cargo = || {
        let mut cargo = sh::cargo();
        cargo.args(["test", "--workspace", "--locked"]);
        build::embed(&mut cargo, Some(&built.object));
        cargo.env("ORCHESTRATE_TRACE_BIN", &built.tracer);
        cargo.env("ORCHESTRATE_TRACE_WORKLOADS", &built.workloads);
        cargo.env("ORCHESTRATE_TRACE_DEBUGINFO_WORKLOADS", &built.debuginfo);
        // Thousands of panics are planned in the workloads; each would print a backtrace.
        cargo.env_remove("RUST_BACKTRACE");
        cargo
    };
    if args.filter.is_none() {
        sh::say("documentation tests");
        sh::run(cargo().arg("--doc"))?;
    }
    sh::say("all other tests");
    let mut tests = cargo();
    // `--include-ignored`: a plain `cargo test` leaves out what needs root, this does not.
    tests.args(["--lib", "--bins", "--tests", "--no-fail-fast"]).args(args.filter.as_ref());
    tests.args(["--", "--include-ignored"]);
    if sh::run(&mut tests).is_err() {
        // What failed is on the screen already, and the summaries are to be the last lines.
        bail!(sh::Failed);
    }
    Ok(())
}
