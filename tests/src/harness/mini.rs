//! The miniature orchestrate and the stand-in for the API that it talks to.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{PATIENCE, Process, Programs};

/// A Messages API of our own, over HTTPS.
#[derive(Debug)]
pub struct Standin {
    /// The process.
    pub process: Process,
    ca: PathBuf,
    port: u16,
    log: PathBuf,
}

impl Standin {
    /// Starts it in `dir` and waits until it listens.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(programs: &Programs, dir: &Path) -> Result<Self> {
        let [ca, port, log] = ["ca.pem", "api.port", "api.jsonl"].map(|name| dir.join(name));
        let mut command = Command::new(programs.standin());
        command.arg("--ca-out").arg(&ca).arg("--port-file").arg(&port).arg("--log").arg(&log);
        let mut process = Process::start(&mut command, "standin", dir)?;
        let port = process.wait_until("its port", PATIENCE, |_| {
            Ok(fs::read_to_string(&port).ok().and_then(|text| text.trim().parse().ok()))
        })?;
        Ok(Self { process, ca, port, log })
    }

    /// Where it writes down what it was asked.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct MiniOptions {
    /// How many.
    pub agents: u32,
    /// At once.
    pub concurrency: u32,
    /// `plain` or `faults`.
    pub mix: String,
    /// Goes on when all agents are done.
    pub stay: bool,
    /// A program and arguments that it is run by, such as a tracer's `run --`.
    pub under: Vec<OsString>,
}

impl Default for MiniOptions {
    fn default() -> Self {
        Self { agents: 6, concurrency: 3, mix: "plain".into(), stay: false, under: vec![] }
    }
}

/// A miniature orchestrate that waits for its gate.
#[derive(Debug)]
pub struct Mini {
    /// The process.
    pub process: Process,
    gate: PathBuf,
    record: PathBuf,
    port: u16,
}

impl Mini {
    /// Starts it in `dir` against `standin`, with a new database, and waits until it is up.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(
        programs: &Programs,
        standin: &Standin,
        options: &MiniOptions,
        dir: &Path,
    ) -> Result<Self> {
        let MiniOptions { agents, concurrency, mix, stay, under } = options;
        let [gate, record, port] = ["gate", "record.jsonl", "mini.port"].map(|n| dir.join(n));
        let work = dir.join("work");
        fs::create_dir_all(&work)?;
        let mut command = match &under[..] {
            [] => Command::new(programs.mini()),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(programs.mini());
                command
            }
        };
        command
            .arg("daemon")
            .arg("--db")
            .arg(dir.join("mini.db"))
            .args(["--api-url", &format!("https://localhost:{}/v1", standin.port)])
            .args(["--agents", &agents.to_string(), "--concurrency", &concurrency.to_string()])
            .args(["--mix", mix, "-q"])
            .arg("--truth")
            .arg(&record)
            .arg("--start-gate")
            .arg(&gate)
            .arg("--port-file")
            .arg(&port)
            .arg("--workdir")
            .arg(&work)
            .env("SSL_CERT_FILE", &standin.ca)
            .env_remove("RUST_BACKTRACE")
            .env_remove("RUST_LOG");
        if *stay {
            command.arg("--stay");
        }
        let mut process = Process::start(&mut command, "mini", dir)?;
        let port = process.wait_until("its port", PATIENCE, |_| {
            Ok(fs::read_to_string(&port).ok().and_then(|text| text.trim().parse().ok()))
        })?;
        Ok(Self { process, gate, record, port })
    }

    /// Its process id, or that of the program that runs it.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The port of its web API, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets its agents run.
    ///
    /// # Errors
    /// The gate cannot be opened.
    pub fn open(&self) -> Result<()> {
        Ok(fs::write(&self.gate, "")?)
    }

    /// What it recorded of itself.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn record(&self) -> Result<String> {
        fs::read_to_string(&self.record).with_context(|| self.record.display().to_string())
    }
}
