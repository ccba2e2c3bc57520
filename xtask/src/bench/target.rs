//! The process that is measured, and its tracers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A program that obeys commands on standard input; dropping it ends it.
#[derive(Debug)]
pub struct Target {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    program: PathBuf,
}

/// What a command took, as the target measured it.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Took {
    /// Operations.
    pub ops: u64,
    /// Nanoseconds while operations ran.
    pub wall_ns: u64,
    /// CPU time of the process.
    pub process_cpu_ns: u64,
    /// Nanoseconds from beginning to end.
    pub elapsed_ns: u64,
}

impl Took {
    /// Nanoseconds that passed for an operation.
    pub fn per_op(&self) -> f64 {
        self.wall_ns as f64 / self.ops.max(1) as f64
    }

    /// CPU time that the process used for an operation, whichever of its threads: a thread that
    /// waits for its CPU because something else runs there is no matter of the tracer's.
    pub fn cpu_per_op(&self) -> f64 {
        self.process_cpu_ns as f64 / self.ops.max(1) as f64
    }
}

#[derive(Deserialize)]
struct Hello {
    pid: u32,
}

impl Target {
    /// Starts `program`, and ties it to the last CPU: tracers get the others.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(program: &Path) -> Result<Self> {
        let mut target = Self::start_with(Command::new(program), program)?;
        let hello: Hello = target.answer()?;
        if hello.pid != target.pid() {
            bail!("{} says it is pid {}", program.display(), hello.pid);
        }
        Ok(target)
    }

    /// Starts a command that prints one line for each of its input.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_with(mut command: Command, program: &Path) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let from = BufReader::new(from.context("its output")?);
        Ok(Self { child, to, from, program: program.to_owned() })
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Sends a command and waits for the answer.
    ///
    /// # Errors
    /// The target has ended, or does not know the command.
    pub fn ask<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        self.tell(command)?;
        self.answer().with_context(|| format!("`{command}`"))
    }

    /// Sends a command, whose answer is to be fetched later.
    ///
    /// # Errors
    /// The target has ended.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        let to = self.to.as_mut().context("its input is closed")?;
        writeln!(to, "{command}").and_then(|()| to.flush()).context("the target has ended")
    }

    /// Runs a command.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn run(&mut self, command: &str) -> Result<Took> {
        self.ask(command)
    }

    /// The next line of its output.
    ///
    /// # Errors
    /// There is none, or it is something else.
    pub fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("{} has ended: {:?}", self.program.display(), self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("not an answer: {line}"))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.to = None;
        // It ends with its input; one that hangs is not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ties a process to the last CPU, or to all but that one.
pub fn pin(pid: u32, to_last: bool) {
    tie(pid, |cpu, cpus| (cpu == cpus - 1) == to_last);
}

/// Lets a process run anywhere.
pub fn unpin(pid: u32) {
    tie(pid, |_, _| true);
}

fn tie(pid: u32, to: impl Fn(usize, usize) -> bool) {
    // SAFETY: the set is plain data that the calls read and write within its size.
    unsafe {
        let cpus = libc::sysconf(libc::_SC_NPROCESSORS_ONLN).max(1) as usize;
        if cpus < 2 {
            return;
        }
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in (0..cpus).filter(|&cpu| to(cpu, cpus)) {
            libc::CPU_SET(cpu, &mut set);
        }
        // Where it is not allowed the figures are only less steady.
        libc::sched_setaffinity(pid as i32, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}
