//! The configuration file: TOML, every key optional, unknown keys refused.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use super::GROUP;
use crate::config::TracingConfig;

/// The file that `config init` prints.
pub const TEMPLATE: &str = include_str!("config.toml");

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which processes are traced.
    pub discovery: Discovery,
    /// What is looked for in them.
    pub tracing: Tracing,
    /// Where spans go, unless `enable` or the environment say otherwise.
    pub export: TracingConfig,
    /// Where spans wait that cannot be sent.
    pub spool: Spool,
    /// Who may steer the service.
    pub control: Control,
    /// The service's own health.
    pub health: Health,
}

/// `[discovery]`: a process that fits any of these is traced.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Discovery {
    /// File names of executables.
    pub executables: Vec<String>,
    /// Globs on the path of the executable, as the process sees it.
    pub paths: Vec<String>,
    /// Process ids.
    pub pids: Vec<u32>,
    /// systemd units, such as `orchestrate.service`.
    pub units: Vec<String>,
    /// Globs on the path of the cgroup.
    pub cgroups: Vec<String>,
    /// Container ids, or the beginning of one (12 digits or more).
    pub containers: Vec<String>,
    /// Milliseconds between two looks at the processes.
    pub scan_interval_ms: u64,
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            executables: vec!["orchestrate".to_owned()],
            paths: vec![],
            pids: vec![],
            units: vec![],
            cgroups: vec![],
            containers: vec![],
            scan_interval_ms: 250,
        }
    }
}

impl Discovery {
    /// Time between two looks, within bounds.
    pub fn scan_interval(&self) -> Duration {
        Duration::from_millis(self.scan_interval_ms.clamp(50, 60_000))
    }
}

/// `[tracing]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tracing {
    /// Profile to use instead of the built-in one.
    pub profile: Option<PathBuf>,
    /// Functions to trace beside the profile's.
    pub functions: Vec<String>,
    /// Bytes of each process's ring buffer.
    pub ring_bytes: u32,
    /// Processes traced at once.
    pub max_targets: usize,
}

impl Default for Tracing {
    fn default() -> Self {
        // Less than `attach` takes: there may be dozens of processes.
        Self { profile: None, functions: vec![], ring_bytes: 4 << 20, max_targets: 64 }
    }
}

/// `[spool]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// Bytes on disk for each endpoint; 0: none.
    pub max_bytes: u64,
}

impl Default for Spool {
    fn default() -> Self {
        // An outage of ten minutes at a thousand spans a second, with room to spare.
        Self { max_bytes: 1 << 30 }
    }
}

/// `[control]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Members of this group may steer the service, beside root.
    pub group: String,
}

impl Default for Control {
    fn default() -> Self {
        Self { group: GROUP.to_owned() }
    }
}

/// `[health]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Loopback address for `/metrics` and `/healthz`; off without.
    pub listen: Option<SocketAddr>,
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("configuration {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is not a configuration.
    #[error(
        "configuration {}, line {line}: {message}; `orchestrate-trace config init` prints every key",
        path.display()
    )]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value that cannot be used.
    #[error("configuration {}: {key}: {reason}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// A configuration longer than this is a mistake.
const MAX_BYTES: u64 = 1 << 20;

impl Config {
    /// Reads the file. Where it does not exist and need not, everything is as by default.
    ///
    /// # Errors
    /// It cannot be read, or is not a configuration; with the line.
    pub fn read(path: &Path, must_exist: bool) -> Result<Self, ConfigError> {
        let read = || {
            let size = std::fs::metadata(path)?.len();
            if size > MAX_BYTES {
                return Err(io::Error::other(format!("{size} bytes are too many")));
            }
            std::fs::read_to_string(path)
        };
        match read() {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// Parses a configuration's text; `path` is for messages.
    ///
    /// # Errors
    /// It is not a configuration; with the line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: line_of(text, error.span()),
            message: error.message().to_owned(),
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let refuse =
            |key, reason: String| Err(ConfigError::Value { path: path.to_owned(), key, reason });
        for (key, globs) in [
            ("discovery.paths", &self.discovery.paths),
            ("discovery.cgroups", &self.discovery.cgroups),
        ] {
            for text in globs {
                if let Err(error) = glob::Pattern::new(text) {
                    return refuse(key, format!("'{text}' is not a glob: {error}"));
                }
            }
        }
        for id in &self.discovery.containers {
            if id.len() < 12 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
                let reason = format!("'{id}' is not a container's id: give 12 or more hex digits");
                return refuse("discovery.containers", reason);
            }
        }
        for name in &self.discovery.executables {
            if name.is_empty() || name.contains('/') {
                let reason = format!("'{name}' is not a file name; globs go to discovery.paths");
                return refuse("discovery.executables", reason);
            }
        }
        if !(1..=1024).contains(&self.tracing.max_targets) {
            return refuse("tracing.max_targets", "give a number from 1 to 1024".to_owned());
        }
        if !(4096..=1 << 30).contains(&self.tracing.ring_bytes) {
            return refuse(
                "tracing.ring_bytes",
                "give a number from 4096 to 1073741824".to_owned(),
            );
        }
        for text in &self.tracing.functions {
            if let Err(why) = text.parse::<crate::plan::Pattern>() {
                return refuse("tracing.functions", format!("'{text}': {why}"));
            }
        }
        if let Some(address) = self.health.listen
            && !address.ip().is_loopback()
        {
            let reason = format!("{address} is not a loopback address; use 127.0.0.1:9464");
            return refuse("health.listen", reason);
        }
        Ok(())
    }
}

fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let at = span.map_or(0, |span| span.start).min(text.len());
    text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("c.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_template_is_the_default() {
        assert_eq!(parse(TEMPLATE), Ok(Config::default()));
        // What is commented out is right, too.
        let all: String = TEMPLATE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = ") && !key.contains("  ") => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = parse(&all).unwrap();
        assert_ne!(config, Config::default(), "{all}");
        assert!(config.health.listen.is_some() && !config.export.exporters.is_empty());
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        let error = parse("[discovery]\nexecutables = []\nexecutable = []\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("executable"), "{error}");
        assert!(error.contains("config init"), "{error}");
        assert!(parse("[nonsense]\n").unwrap_err().contains("line 1"));
    }

    #[test]
    fn values_are_checked() {
        for (text, word) in [
            ("[discovery]\npaths = ['/opt/[']", "discovery.paths"),
            ("[discovery]\ncontainers = ['abc']", "12 or more"),
            ("[discovery]\nexecutables = ['/usr/bin/x']", "discovery.paths"),
            ("[tracing]\nmax_targets = 0", "1 to 1024"),
            ("[tracing]\nring_bytes = 1", "ring_bytes"),
            ("[health]\nlisten = '0.0.0.0:9464'", "loopback"),
            ("[health]\nlisten = 'here'", "line 2"),
            ("[export]\nexporters = ['zipkin']", "line 2"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        let config = parse("[export]\nexporters = ['otlp']\nsample_rate = 0.5\n").unwrap();
        assert_eq!(config.export.sample_rate, Some(0.5));
    }

    #[test]
    fn a_missing_file_is_an_error_only_when_it_was_named() {
        let path = Path::new("/nonexistent/config.toml");
        assert_eq!(Config::read(path, false).unwrap(), Config::default());
        assert!(Config::read(path, true).unwrap_err().to_string().contains("/nonexistent"));
    }
}
