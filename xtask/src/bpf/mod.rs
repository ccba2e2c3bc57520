//! `cargo xtask build-ebpf`: the eBPF object, from source.
//!
//! The object is committed, so that users need stable Rust alone. Two toolchains never give equal
//! bytes, so what is compared is the hash of the sources.

mod pins;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sh;
use pins::Pins;
use toolchain::Toolchain;

/// What to do with the object.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Replace the committed object with the new one
    #[arg(long, conflicts_with = "check")]
    bless: bool,

    /// Build nothing: compare the sources with those that the committed object was built from
    #[arg(long)]
    check: bool,

    /// For which processor
    #[arg(long, value_enum, default_value_t = Arch::host())]
    arch: Arch,
}

/// Processors that the programs are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Arch {
    /// 64-bit x86.
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// The one of this machine.
    pub fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The build failed, or the committed object is stale.
pub fn run(args: &Args) -> Result<()> {
    let &Args { bless, check, arch } = args;
    if check {
        return check_committed(arch);
    }
    let object = build(arch)?;
    if bless {
        let committed = committed(arch);
        fs::create_dir_all(prebuilt_dir())?;
        fs::copy(&object, &committed).with_context(|| committed.display().to_string())?;
        Pins::load(&pins_file())?
            .unwrap_or_default()
            .bless(
                arch.name(),
                pins::Build {
                    sources: pins::source_hash(sh::root())?,
                    object: pins::file_hash(&committed)?,
                    toolchain: Toolchain::find_or_install()?.versions()?,
                },
            )
            .store(&pins_file())?;
        println!("{}", committed.display());
    } else {
        println!("{}", object.display());
    }
    Ok(())
}

/// Builds the object from source and returns where it is.
///
/// # Errors
/// No toolchain can be found or installed, or the build failed.
pub fn build(arch: Arch) -> Result<PathBuf> {
    let toolchain = Toolchain::find_or_install()?;
    sh::say(format_args!("building the eBPF programs with {toolchain}"));
    let target_dir = sh::target_dir().join("bpf");
    let mut cargo = toolchain.cargo(arch.name())?;
    cargo
        .args(["build", "--release", "--package", "tracer-ebpf", "--bin", "tracer"])
        .args(["--no-default-features", "--features", "bpf", "--locked"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&target_dir);
    sh::run(&mut cargo)?;
    let built = target_dir.join("bpfel-unknown-none/release/tracer");
    let object = target_dir.join(format!("tracer.{}.bpf.o", arch.name()));
    fs::copy(&built, &object).with_context(|| built.display().to_string())?;
    toolchain.strip(&object)?;
    Ok(object)
}

fn check_committed(arch: Arch) -> Result<()> {
    let again = "run `cargo xtask build-ebpf --bless` and commit the result";
    let pins = Pins::load(&pins_file())?
        .with_context(|| format!("{} is missing; {again}", pins_file().display()))?;
    let build = pins
        .build(arch.name())
        .with_context(|| format!("no object for {} has been committed; {again}", arch.name()))?;
    if build.sources != pins::source_hash(sh::root())? {
        bail!("the committed eBPF object is older than its sources; {again}");
    }
    if build.object != pins::file_hash(&committed(arch))? {
        bail!("the committed eBPF object is not the one that PINS describes; {again}");
    }
    println!("{} is up to date", committed(arch).display());
    Ok(())
}

fn prebuilt_dir() -> PathBuf {
    sh::root().join("tracer-ebpf/prebuilt")
}

fn pins_file() -> PathBuf {
    prebuilt_dir().join("PINS")
}

fn committed(arch: Arch) -> PathBuf {
    Path::new(&prebuilt_dir()).join(format!("tracer.{}.bpf.o", arch.name()))
}
