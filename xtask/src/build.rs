//! Building what tests, demo and truth run: the tracer, the workloads, the fresh object.

use std::path::{Path, PathBuf};

use anyhow::Result;

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
    /// The eBPF object that the tracer embeds, if it is not the committed one.
    pub object: Option<PathBuf>,
}

/// Which eBPF object the tracer is to embed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// The one in the tree.
    Committed,
    /// A new build from source.
    Fresh,
}

/// Builds the tracer and the workloads as users would: `--release`.
///
/// # Errors
/// Something is missing that cannot be installed, or does not build.
pub fn all(object: Object) -> Result<Built> {
    let object = match object {
        Object::Committed => None,
        Object::Fresh => Some(bpf::build(bpf::Arch::host())?),
    };
    Ok(Built { tracer: tracer(object.as_deref())?, workloads: workloads()?, object })
}

/// Builds `orchestrate-trace` with the committed object.
///
/// # Errors
/// It does not build.
pub fn tracer_only() -> Result<PathBuf> {
    tracer(None)
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
    host::apt_install(&WORKLOAD_PACKAGES, "build the workloads")?;
    sh::say("building the workloads");
    let target_dir = sh::target_dir().join("workloads");
    let mut cargo = sh::cargo();
    // The folder decides which configuration cargo reads, and the workloads are to have none.
    cargo.current_dir(sh::root().join("tests/workloads"));
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        cargo.env_remove(name);
    }
    cargo.args(["build", "--release", "--locked", "--workspace", "--target-dir"]).arg(&target_dir);
    sh::run(&mut cargo)?;
    Ok(target_dir.join("release"))
}
