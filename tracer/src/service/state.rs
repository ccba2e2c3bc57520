//! What survives a restart: `state.json`, replaced atomically, and the locks that keep a second
//! daemon away.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::settings::Choice;

/// What `enable` and `disable` leave behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Version of the file.
    pub v: u8,
    /// Tracing is on.
    pub enabled: bool,
    /// What `enable` asked for last.
    pub choice: Choice,
}

/// Version of the file that this build writes.
const VERSION: u8 = 1;
/// A longer file is not one of ours.
const MAX_BYTES: u64 = 4 << 20;

impl Default for State {
    fn default() -> Self {
        Self { v: VERSION, enabled: false, choice: Choice::default() }
    }
}

/// Why the state cannot be kept.
#[derive(Debug, Error)]
pub enum StateError {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a state.
    #[error(
        "{}: not a state of this version ({reason}); move it away, and `enable` writes a new one",
        path.display()
    )]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another daemon is at work.
    #[error(
        "another daemon is running (it holds {}); `orchestrate-trace status` asks it, \
         `systemctl stop orchestrate-trace` stops it", path.display()
    )]
    Locked {
        /// The lock.
        path: PathBuf,
    },
}

impl StateError {
    /// Whether the file is there and may not be looked at.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

/// Where the state is in its folder.
pub fn file(dir: &Path) -> PathBuf {
    dir.join("state.json")
}

impl State {
    /// Reads it; the default where there is none yet.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(dir: &Path) -> Result<Self, StateError> {
        let path = file(dir);
        let text = match fs::metadata(&path) {
            Ok(found) if found.len() > MAX_BYTES => {
                let reason = format!("{} bytes", found.len());
                return Err(StateError::Malformed { path, reason });
            }
            Ok(_) => fs::read_to_string(&path).map_err(io_error(&path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io_error(&path)(error)),
        };
        let malformed = |reason| StateError::Malformed { path: path.clone(), reason };
        let state: Self = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        if state.v != VERSION {
            return Err(malformed(format!("version {}", state.v)));
        }
        Ok(state)
    }

    /// Replaces it: whoever reads sees the old one or the new one, also after a power cut.
    ///
    /// # Errors
    /// The old one is still there.
    pub fn write(&self, dir: &Path) -> Result<(), StateError> {
        let path = file(dir);
        let temporary = dir.join("state.json.new");
        let write = || {
            let mut text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
            text.push(b'\n');
            // A leftover of a crash may have been linked elsewhere.
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // The caller's variables may hold credentials: for the owner's group at most.
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o640).open(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(io_error(&path))
    }
}

/// Held as long as the daemon lives; the kernel lets go of it however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Somebody else has it.
    pub fn take(path: &Path) -> Result<Self, StateError> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(io_error(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io_error(path)(source)),
        }
    }
}

/// Makes a folder of ours where it is missing.
///
/// # Errors
/// It cannot be made.
pub fn make_dir(dir: &Path, mode: u32) -> Result<(), StateError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir)
        .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(mode)))
        .map_err(io_error(dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TracingConfig, TracingExporter};

    #[test]
    fn a_state_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), State::default());
        let flags = TracingConfig::new(TracingExporter::Otlp).with_sample_rate(0.5);
        let mut state = State { enabled: true, ..State::default() };
        state.choice.flags = flags;
        state.choice.environment.insert("OTEL_X".to_owned(), "y".to_owned());
        // A leftover of a crash is no obstacle.
        fs::write(dir.path().join("state.json.new"), "{").unwrap();
        state.write(dir.path()).unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), state);
        let mode = fs::metadata(file(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o027, 0, "{mode:o}");
        assert!(!dir.path().join("state.json.new").exists());
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "[]", r#"{"v":2,"enabled":true,"choice":{}}"#, r#"{"v":1,"x":1}"#] {
            fs::write(file(dir.path()), text).unwrap();
            let error = State::read(dir.path()).unwrap_err();
            assert!(matches!(error, StateError::Malformed { .. }), "{text}: {error}");
        }
        // The old one stays where the new one cannot be written.
        let state = State::default();
        assert!(state.write(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn one_lock_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::take(&path).unwrap();
        assert!(matches!(Lock::take(&path), Err(StateError::Locked { .. })));
        drop(first);
        Lock::take(&path).unwrap();
    }
}
