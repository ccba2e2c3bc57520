//! `tracer-ebpf/prebuilt/PINS`: what each committed object was built from and with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const HEAD: &str = "\
# What the objects beside this file were built from and with.
# Written by `cargo xtask build-ebpf --bless`, read by `--check`.
";

/// The file, by architecture.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pins(BTreeMap<String, Build>);

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// [`source_hash`] of what it was built from.
    pub sources: String,
    /// SHA-256 of the object itself.
    pub object: String,
    /// What it was built with: program and version.
    pub toolchain: BTreeMap<String, String>,
}

impl Pins {
    /// Reads the file; `None` if there is none yet.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).map(Some).with_context(|| path.display().to_string())
    }

    /// What is known of the object for `arch`.
    pub fn build(&self, arch: &str) -> Option<&Build> {
        self.0.get(arch)
    }

    /// With a new object for `arch`.
    pub fn bless(mut self, arch: &str, build: Build) -> Self {
        self.0.insert(arch.to_owned(), build);
        self
    }

    /// Writes the file.
    pub fn store(&self, path: &Path) -> Result<()> {
        let text = format!("{HEAD}\n{}", toml::to_string(self)?);
        fs::write(path, text).with_context(|| path.display().to_string())
    }
}

/// SHA-256 of a file, in hex.
pub fn file_hash(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(hex(&Sha256::digest(bytes)))
}

/// SHA-256 over everything in the workspace at `root` that decides what the programs are: the
/// crate's manifest and sources, and the locked versions of what it is built upon.
pub fn source_hash(root: &Path) -> Result<String> {
    let krate = root.join("tracer-ebpf");
    let mut files = vec![krate.join("Cargo.toml")];
    sources(&krate.join("src"), &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    // Lengths keep one file's end from passing for the next one's beginning.
    let mut add = |name: &str, bytes: &[u8]| {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for file in files {
        let name = file.strip_prefix(root)?.to_string_lossy().into_owned();
        let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
        add(&name, &bytes);
    }
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("Cargo.lock")?;
    for (name, version) in locked(&lock, "tracer-ebpf")? {
        add(&name, version.as_bytes());
    }
    Ok(hex(&hash.finalize()))
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, into)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// Name and version of everything that `package` depends on, directly or not, itself left out.
fn locked(lock: &str, package: &str) -> Result<BTreeSet<(String, String)>> {
    let Lock { package: packages } = toml::from_str(lock).context("Cargo.lock")?;
    let mut found = BTreeSet::new();
    let mut waiting = vec![package.to_owned()];
    while let Some(wanted) = waiting.pop() {
        // "name", or "name version" where two versions are locked.
        let mut words = wanted.split(' ');
        let (name, version) = (words.next(), words.next());
        let matches = |p: &&Locked| {
            Some(p.name.as_str()) == name && version.is_none_or(|version| version == p.version)
        };
        for Locked { name, version, dependencies } in packages.iter().filter(matches) {
            if found.insert((name.clone(), version.clone())) {
                waiting.extend(dependencies.iter().cloned());
            }
        }
    }
    found.retain(|(name, _)| name != package);
    Ok(found)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"
        version = 4
        [[package]]
        name = "tracer-ebpf"
        version = "0.1.0"
        dependencies = ["a", "b 2.0.0"]
        [[package]]
        name = "a"
        version = "1.0.0"
        dependencies = ["c"]
        [[package]]
        name = "b"
        version = "1.0.0"
        [[package]]
        name = "b"
        version = "2.0.0"
        [[package]]
        name = "c"
        version = "3.0.0"
        dependencies = ["a"]
        [[package]]
        name = "stranger"
        version = "9.0.0"
    "#;

    fn tree(main: &str, lock: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tracer-ebpf/src/deep")).unwrap();
        fs::write(dir.path().join("tracer-ebpf/Cargo.toml"), "[package]").unwrap();
        fs::write(dir.path().join("tracer-ebpf/src/main.rs"), main).unwrap();
        fs::write(dir.path().join("tracer-ebpf/src/deep/a.rs"), "a").unwrap();
        fs::write(dir.path().join("Cargo.lock"), lock).unwrap();
        let hash = source_hash(dir.path()).unwrap();
        (dir, hash)
    }

    #[test]
    fn the_hash_follows_the_sources_and_nothing_else() {
        let (dir, hash) = tree("x", LOCK);
        assert_eq!(tree("x", LOCK).1, hash);
        assert_ne!(tree("y", LOCK).1, hash);
        assert_ne!(tree("x", &LOCK.replace("3.0.0", "3.0.1")).1, hash);
        assert_eq!(tree("x", &LOCK.replace("9.0.0", "9.0.1")).1, hash);
        fs::create_dir(dir.path().join("tracer-ebpf/prebuilt")).unwrap();
        fs::write(dir.path().join("tracer-ebpf/prebuilt/PINS"), "p").unwrap();
        assert_eq!(source_hash(dir.path()).unwrap(), hash);
        fs::rename(
            dir.path().join("tracer-ebpf/src/deep/a.rs"),
            dir.path().join("tracer-ebpf/src/a.rs"),
        )
        .unwrap();
        assert_ne!(source_hash(dir.path()).unwrap(), hash);
    }

    #[test]
    fn the_lock_is_followed_to_the_end() {
        let found: Vec<_> = locked(LOCK, "tracer-ebpf").unwrap().into_iter().collect();
        let pair = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        assert_eq!(found, [pair("a", "1.0.0"), pair("b", "2.0.0"), pair("c", "3.0.0")]);
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("PINS");
        assert!(Pins::load(&file).unwrap().is_none());
        let build = Build {
            sources: "s".into(),
            object: "o".into(),
            toolchain: BTreeMap::from([("rustc".into(), "rustc 1.96.0 (x \"y\")".into())]),
        };
        let pins = Pins::default().bless("x86_64", build.clone());
        pins.store(&file).unwrap();
        assert_eq!(Pins::load(&file).unwrap(), Some(pins));
        assert_eq!(Pins::load(&file).unwrap().unwrap().build("x86_64"), Some(&build));
    }
}
