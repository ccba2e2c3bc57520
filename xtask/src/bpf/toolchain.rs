//! Finds, or installs, a compiler that can build for `bpfel-unknown-none`: one that has the
//! sources of `core` and an LLVM that bpf-linker was built with.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{host, sh};

/// Debian's compiler for browsers, new enough for the workspace, and what belongs to it.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_RUSTC_AT_LEAST: (u32, u32) = (1, 96);
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "llvm-22-dev"];
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
const BPF_LINKER: &str = "0.13.0";

/// A compiler for the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// Debian's rustc-web with rust-web-src; stable, so that nightly features are unlocked by
    /// `RUSTC_BOOTSTRAP`.
    Debian,
    /// rustup's nightly with the component rust-src.
    Nightly,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian => "Debian's rustc-web",
            Self::Nightly => "rustup's nightly",
        })
    }
}

impl Toolchain {
    /// What this machine has; else, on Debian and as root, installs it.
    ///
    /// # Errors
    /// Neither is possible; the message says what to install.
    pub fn find_or_install() -> Result<Self> {
        let found = if debian_is_there() {
            Self::Debian
        } else if has_library_source(nightly_rustc().arg("--print").arg("sysroot")) {
            Self::Nightly
        } else if host::is_debian() && host::is_root() {
            host::apt_install(&DEBIAN_PACKAGES, "build the eBPF programs")?;
            if !debian_is_there() {
                bail!("{DEBIAN_RUSTC} is too old, or another one: rustc-web 1.96 is needed");
            }
            Self::Debian
        } else {
            bail!(
                "no compiler here can build eBPF programs; install one of\n  \
                 rustup toolchain install nightly --component rust-src\n  \
                 (as root, on Debian) apt-get install {}",
                DEBIAN_PACKAGES.join(" ")
            );
        };
        found.linker()?;
        Ok(found)
    }

    /// Installs bpf-linker if it is missing. It must bring, or be built with, an LLVM that is at
    /// least as new as the compiler's.
    fn linker(self) -> Result<()> {
        if sh::output(self.env(&mut Command::new("bpf-linker"))?.arg("--version")).is_ok() {
            return Ok(());
        }
        sh::say(format_args!("installing bpf-linker {BPF_LINKER}, which takes a minute or two"));
        let mut install = sh::cargo();
        install.args(["install", "--locked", "bpf-linker", "--version", BPF_LINKER]);
        if self == Self::Debian {
            install.env("LLVM_PREFIX", DEBIAN_LLVM);
            install.args(["--no-default-features", "--features", "llvm-22"]);
        }
        sh::run(&mut install).context("bpf-linker is needed to build eBPF programs")
    }

    /// A cargo that builds for `arch`.
    pub fn cargo(self, arch: &str) -> Result<Command> {
        let mut cargo = match self {
            Self::Debian => {
                let mut cargo = sh::cargo();
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
            Self::Nightly => {
                let mut cargo = rustup_run();
                cargo.arg("cargo").current_dir(sh::root());
                cargo.env_remove("RUSTC");
                cargo
            }
        };
        self.env(&mut cargo)?;
        // Not for these: whatever the caller wants of the host's code.
        for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"]
        {
            cargo.env_remove(name);
        }
        let mut flags = vec![
            // The kernel wants BTF; it is made from debuginfo.
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            format!("--cfg=bpf_target_arch=\"{arch}\""),
        ];
        // Names in the BTF should not depend on who built it.
        let sysroot = PathBuf::from(sh::output(self.rustc().args(["--print", "sysroot"]))?);
        let homes = [
            (sh::root().to_path_buf(), "."),
            (cargo_home()?, "cargo"),
            (sysroot.join("lib/rustlib/src/rust"), "rust"),
        ];
        for (from, to) in homes {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        }
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        Ok(cargo)
    }

    /// Leaves out of `object` the debuginfo that its BTF was made from: the kernel has no use for
    /// it, and it is most of the bytes. Where no llvm-strip is at hand the object is just larger.
    pub fn strip(self, object: &Path) -> Result<()> {
        let strip = match self {
            Self::Debian => Path::new(DEBIAN_LLVM).join("bin/llvm-strip"),
            Self::Nightly => PathBuf::from("llvm-strip"),
        };
        if sh::output(Command::new(&strip).arg("--version")).is_err() {
            return Ok(());
        }
        sh::run(Command::new(strip).arg("--strip-debug").arg(object))
    }

    /// Program and version of everything that made the object.
    pub fn versions(self) -> Result<BTreeMap<String, String>> {
        let verbose = sh::output(self.rustc().arg("-vV"))?;
        let field = |name: &str| {
            verbose.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned())
        };
        let linker = sh::output(self.env(&mut Command::new("bpf-linker"))?.arg("--version"))?;
        Ok(BTreeMap::from([
            ("rustc".to_owned(), verbose.lines().next().unwrap_or_default().to_owned()),
            ("llvm".to_owned(), field("LLVM version:").unwrap_or_default()),
            ("bpf-linker".to_owned(), linker.trim_start_matches("bpf-linker ").to_owned()),
        ]))
    }

    fn rustc(self) -> Command {
        match self {
            Self::Debian => Command::new(DEBIAN_RUSTC),
            Self::Nightly => nightly_rustc(),
        }
    }

    /// bpf-linker is found where cargo installs it, also when a shell does not look there.
    fn env(self, command: &mut Command) -> Result<&mut Command> {
        let mut dirs = vec![cargo_home()?.join("bin")];
        dirs.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        Ok(command.env("PATH", env::join_paths(dirs)?))
    }
}

fn debian_is_there() -> bool {
    let Ok(version) = sh::output(Command::new(DEBIAN_RUSTC).arg("--version")) else { return false };
    parse_version(&version).is_some_and(|version| version >= DEBIAN_RUSTC_AT_LEAST)
        && has_library_source(Command::new(DEBIAN_RUSTC).arg("--print").arg("sysroot"))
        && Path::new(DEBIAN_LLVM).is_dir()
}

/// Whether the sysroot that `print` prints holds the sources of `core`.
fn has_library_source(print: &mut Command) -> bool {
    sh::output(print).is_ok_and(|sysroot| {
        Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
    })
}

fn nightly_rustc() -> Command {
    let mut rustc = rustup_run();
    rustc.arg("rustc");
    rustc
}

fn rustup_run() -> Command {
    let mut rustup = Command::new("rustup");
    // A rustup that runs this program has chosen the toolchain for everything below; not here.
    rustup.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").args(["run", "nightly"]);
    rustup
}

fn cargo_home() -> Result<PathBuf> {
    let given = env::var_os("CARGO_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home: OsString| PathBuf::from(home).join(".cargo"));
    given.or_else(home).context("neither CARGO_HOME nor HOME is set")
}

/// `rustc 1.96.0 (…)` → (1, 96).
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("rustc ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let old = parse_version("rustc 1.63.0 (4b91a6ea7 2022-08-08)").unwrap();
        let new = parse_version("rustc 1.100.0-nightly (x 2027-01-01)").unwrap();
        assert!(old < DEBIAN_RUSTC_AT_LEAST && DEBIAN_RUSTC_AT_LEAST <= new);
        assert_eq!(parse_version("clang 22.1"), None);
    }
}
