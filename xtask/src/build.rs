//! Building what tests, demo and truth run: the tracer, the workloads, the fresh object.

use std::path::{Path, PathBuf};

use anyhow::Result;
use e2e::harness::Programs;

use crate::{bpf, host, sh};

/// What the workloads link with: reqwest's native-tls is the system's OpenSSL.
const WORKLOAD_PACKAGES: [&str; 2] = ["pkg-config", "libssl-dev"];

/// Programs that runs are made of.
#[derive(Clone, Debug)]
pub struct Built {
    /// `orchestrate-trace`.
    pub tracer: PathBuf,
    /// Where the workloads are.
    pub workloads: PathBuf,
    /// Where the same with debuginfo are.
    pub debuginfo: PathBuf,
    /// The eBPF object that the tracer embeds.
    pub object: PathBuf,
}

/// Builds everything from source, as users would: `--release`. The tracer embeds an eBPF object
/// that is built now.
///
/// # Errors
/// Something is missing that cannot be installed, or does not build.
pub fn all() -> Result<Built> {
    let object = bpf::build(bpf::Arch::host())?;
    let (workloads, debuginfo) = (workloads()?, workloads_with_debuginfo()?);
    Ok(Built { tracer: tracer(Some(&object))?, workloads, debuginfo, object })
}

/// The tracer with the committed object, and the workloads: those that `ORCHESTRATE_TRACE_BIN`
/// and `ORCHESTRATE_TRACE_WORKLOADS` name, else built now.
///
/// # Errors
/// As [`all`].
pub fn programs() -> Result<Programs> {
    let tracer = named("ORCHESTRATE_TRACE_BIN").map_or_else(|| tracer(None), Ok)?;
    let workloads = named("ORCHESTRATE_TRACE_WORKLOADS").map_or_else(workloads, Ok)?;
    Ok(Programs { tracer, workloads })
}

/// The tracer, and what it is measured with.
///
/// # Errors
/// As [`all`].
pub fn benchmarks() -> Result<Programs> {
    let tracer = named("ORCHESTRATE_TRACE_BIN").map_or_else(|| tracer(None), Ok)?;
    let all = || workload_packages(&["--workspace"]);
    let workloads = named("ORCHESTRATE_TRACE_WORKLOADS").map_or_else(all, Ok)?;
    Ok(Programs { tracer, workloads })
}

/// The tracer alone, likewise.
///
/// # Errors
/// It does not build.
pub fn tracer_only() -> Result<Programs> {
    let tracer = named("ORCHESTRATE_TRACE_BIN").map_or_else(|| tracer(None), Ok)?;
    Ok(Programs { tracer, workloads: PathBuf::new() })
}

fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn tracer(object: Option<&Path>) -> Result<PathBuf> {
    sh::say("building orchestrate-trace");
    let mut cargo = sh::cargo();
    cargo.args(["build", "--release", "--locked", "--package", "orchestrate-trace"]);
    embed(&mut cargo, object);
    sh::run(&mut cargo)?;
    Ok(sh::target_dir().join("release/orchestrate-trace"))
}

/// Makes a build embed `object`.
pub fn embed(cargo: &mut std::process::Command, object: Option<&Path>) {
    match object {
        Some(object) => cargo.env("ORCHESTRATE_TRACE_BPF_OBJECT", object),
        None => cargo.env_remove("ORCHESTRATE_TRACE_BPF_OBJECT"),
    };
}

/// Builds the workloads and returns where they are.
///
/// # Errors
/// OpenSSL's headers are missing and cannot be installed, or the build failed.
pub fn workloads() -> Result<PathBuf> {
    // What is only compared with takes longer to build than all the rest.
    workload_packages(&TESTED)
}

/// The workloads that tests run.
const TESTED: [&str; 3] = ["--workspace", "--exclude", "bench-instrumented"];

fn workload_packages(which: &[&str]) -> Result<PathBuf> {
    sh::say("building the workloads");
    build_workloads("workloads", which, &[])
}

/// Builds the same with debuginfo, as a user would who wants to describe a program that runs
/// without, and returns where they are. All of them: with other features of their dependencies,
/// types are laid out otherwise.
fn workloads_with_debuginfo() -> Result<PathBuf> {
    sh::say("building the workloads with debuginfo");
    let debuginfo = ("CARGO_PROFILE_RELEASE_DEBUG", "2");
    build_workloads("workloads-debuginfo", &TESTED, &[debuginfo])
}

fn build_workloads(folder: &str, which: &[&str], environment: &[(&str, &str)]) -> Result<PathBuf> {
    host::apt_install(&WORKLOAD_PACKAGES, "build the workloads")?;
    let target_dir = sh::target_dir().join(folder);
    let mut cargo = sh::cargo();
    cargo.envs(environment.iter().copied());
    // The folder decides which configuration cargo reads, and the workloads are to have none.
    cargo.current_dir(sh::root().join("tests/workloads"));
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        cargo.env_remove(name);
    }
    cargo.args(["build", "--release", "--locked"]).args(which).arg("--target-dir").arg(&target_dir);
    sh::run(&mut cargo)?;
    Ok(target_dir.join("release"))
}
