//! Running other programs, and where things are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root.
pub fn root() -> &'static Path {
    // xtask is always run by cargo from a checkout; the manifest's parent is the root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where the workspace's own crates are built.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cargo that runs this program, so that one toolchain builds everything.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // Set by cargo for this program; they would describe the wrong package to what runs below.
    for (key, _) in env::vars_os() {
        let text = key.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&key);
        }
    }
    cargo
}

/// Something failed, and what it was has been said.
#[derive(Debug)]
pub struct Failed;

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failed")
    }
}

impl std::error::Error for Failed {}

/// Where a run writes: a folder that goes with it, or one that is kept.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Folder {
    /// `keep`, which must be empty or not exist, or else a temporary folder.
    ///
    /// # Errors
    /// It cannot be made, or holds something: what an earlier run left would be taken for this
    /// one's.
    pub fn new(keep: Option<&Path>) -> Result<Self> {
        let Some(keep) = keep else {
            let temporary = tempfile::tempdir()?;
            return Ok(Self { path: temporary.path().to_owned(), _temporary: Some(temporary) });
        };
        fs::create_dir_all(keep).with_context(|| keep.display().to_string())?;
        if fs::read_dir(keep)?.next().is_some() {
            bail!("{} is not empty", keep.display());
        }
        Ok(Self { path: fs::canonicalize(keep)?, _temporary: None })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Says what is about to be done, for a person who waits.
pub fn say(what: impl std::fmt::Display) {
    eprintln!("==> {what}");
}

/// Runs `command` on this terminal.
///
/// # Errors
/// It could not be started, or failed.
pub fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs `command` and returns what it printed, without the line's end.
///
/// # Errors
/// It could not be started, or failed.
pub fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let out =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{line}`"))?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr);
        bail!("`{line}` failed: {}\n{}", out.status, why.trim_end());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
