//! The service in a folder of its own: the daemon, and the commands that steer it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{PATIENCE, Process, Programs};

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A running daemon.
#[derive(Debug)]
pub struct Service {
    /// The process.
    pub process: Process,
    tracer: PathBuf,
    dir: PathBuf,
}

impl Service {
    /// Starts it in `dir` with this configuration, and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start(programs: &Programs, dir: &Path, config: &str) -> Result<Self> {
        fs::write(dir.join("config.toml"), config)?;
        let mut command = command(&programs.tracer, dir, &["daemon"]);
        let process = Process::start(&mut command, "daemon", dir)?;
        let tracer = programs.tracer.clone();
        let mut service = Self { process, tracer, dir: dir.to_owned() };
        let ask = service.command(&["status"]);
        let asked = std::cell::RefCell::new(ask);
        service.process.wait_until("an answer", PATIENCE, |_| {
            Ok((said(&mut asked.borrow_mut())?.code == Some(0)).then_some(()))
        })?;
        Ok(service)
    }

    /// A command that asks this service.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        command(&self.tracer, &self.dir, args)
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/control.sock")
    }

    /// Runs a command that asks this service.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Said> {
        said(&mut self.command(args))
    }

    /// Runs one that is to succeed.
    ///
    /// # Errors
    /// It does not.
    pub fn succeed<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Said> {
        let said = self.run(args)?;
        ensure!(said.code == Some(0), "{said:?}\n{}", self.process.stderr());
        Ok(said)
    }

    /// `status --json`.
    ///
    /// # Errors
    /// It failed.
    pub fn status(&self) -> Result<Value> {
        let said = self.succeed(&["status", "--json"])?;
        serde_json::from_str(&said.out).with_context(|| said.out.clone())
    }

    /// What `status` says of a process.
    ///
    /// # Errors
    /// It failed.
    pub fn target(&self, pid: u32) -> Result<Option<Value>> {
        let status = self.status()?;
        let targets = status["targets"].as_array().context("targets")?;
        Ok(targets.iter().find(|target| target["pid"] == pid).cloned())
    }

    /// Waits until a process is in this state.
    ///
    /// # Errors
    /// It is not for too long.
    pub fn wait_for_state(&self, pid: u32, state: &str) -> Result<Value> {
        super::wait_for(&format!("pid {pid} to be {state}"), PATIENCE, || {
            Ok(self.target(pid)?.filter(|target| target["state"] == state))
        })
        .with_context(|| self.process.stderr())
    }

    /// Changes the configuration, and waits until it has been read.
    ///
    /// # Errors
    /// It is not.
    pub fn reconfigure(&mut self, config: &str) -> Result<()> {
        fs::write(self.dir.join("config.toml"), config)?;
        let said = |log: String| log.matches("reading the configuration again").count();
        let before = said(self.process.stderr());
        self.process.signal(libc::SIGHUP);
        self.process.wait_until("having read its configuration", PATIENCE, |process| {
            Ok((said(process.stderr()) > before).then_some(()))
        })
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It did not end well.
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(libc::SIGTERM);
        self.process.succeed(PATIENCE)
    }
}

fn command<S: AsRef<OsStr>>(tracer: &Path, dir: &Path, args: &[S]) -> Command {
    let mut command = Command::new(tracer);
    command
        .args(args)
        .env("ORCHESTRATE_TRACE_SOCKET", dir.join("run/control.sock"))
        .env("ORCHESTRATE_TRACE_STATE_DIR", dir.join("state"))
        .env("ORCHESTRATE_TRACE_CONFIG", dir.join("config.toml"))
        .env_remove("NOTIFY_SOCKET")
        .env_remove("JOURNAL_STREAM");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command
}

fn said(command: &mut Command) -> Result<Said> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
