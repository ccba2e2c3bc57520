//! Whoever observes the target: ours, the floor, bpftrace.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::harness::{Attach, PATIENCE, Process, Programs, Tracer, wait_for};
use serde_json::Value;

use super::floor::Floor;
use super::kernel;
use super::target::{Target, pin};

/// `orchestrate-trace attach --quiet`: everything but showing.
#[derive(Debug)]
pub struct Ours {
    tracer: Tracer,
    interrupted: bool,
}

impl Ours {
    /// Attaches to `pid`.
    ///
    /// # Errors
    /// It could not attach.
    pub fn attach(
        programs: &Programs,
        pid: u32,
        functions: &[&str],
        more: &[&str],
        dir: &Path,
    ) -> Result<Self> {
        let mut attach = Attach::default().arg("--quiet");
        attach.functions = functions.iter().map(|&function| function.to_owned()).collect();
        attach.more.extend(more.iter().map(|&word| word.to_owned()));
        let tracer = attach.start(programs, pid, "tracer", dir)?;
        pin(tracer.0.pid(), false);
        Ok(Self { tracer, interrupted: false })
    }

    /// Attaches to every process of that name, of which there are `count`.
    ///
    /// # Errors
    /// It could not attach to all.
    pub fn attach_all(
        programs: &Programs,
        name: &str,
        count: usize,
        functions: &[&str],
        dir: &Path,
    ) -> Result<Self> {
        let mut command = Command::new(&programs.tracer);
        command.args(["attach", name, "--json", "--quiet"]);
        for function in functions {
            command.args(["--function", function]);
        }
        let mut process = Process::start(&mut command, "tracer", dir)?;
        process.wait_until("being attached to all", PATIENCE, |process| {
            let attached = process.stdout().matches(r#""attached""#).count();
            Ok((attached >= count).then_some(()))
        })?;
        Ok(Self { tracer: Tracer(process), interrupted: false })
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.tracer.0.pid()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.tracer.0
    }

    /// Asks it to detach, once: a second time would end it without an account.
    pub fn interrupt(&mut self) {
        if !self.interrupted {
            self.interrupted = true;
            self.tracer.0.signal(libc::SIGINT);
        }
    }

    /// Detaches and returns the summary.
    ///
    /// # Errors
    /// It failed.
    pub fn finish(mut self) -> Result<Account> {
        self.interrupt();
        self.tracer.0.succeed(PATIENCE)?;
        let out = self.tracer.0.stdout();
        let line = out.lines().rfind(|line| line.contains(r#""type":"summary""#));
        let summary = line.with_context(|| format!("no summary in what it printed: {out}"))?;
        Ok(Account(serde_json::from_str(summary)?))
    }
}

/// The summary at the end.
#[derive(Clone, Debug)]
pub struct Account(Value);

impl Account {
    /// One of its numbers.
    ///
    /// # Errors
    /// It has no such number.
    pub fn number(&self, name: &str) -> Result<u64> {
        let Self(summary) = self;
        summary[name].as_u64().with_context(|| format!("no `{name}` in the summary: {summary}"))
    }

    /// What was lost, by name.
    pub fn lost(&self) -> Vec<(String, u64)> {
        let drops = self.0["drops"].as_object().into_iter().flatten();
        let drops = drops.filter_map(|(name, n)| Some((name.clone(), n.as_u64()?)));
        drops.filter(|&(_, n)| n != 0).collect()
    }

    /// Fails where anything was lost: what was measured would be too good.
    ///
    /// # Errors
    /// Something was lost.
    pub fn must_be_whole(&self) -> Result<()> {
        let lost = self.lost();
        if !lost.is_empty() {
            bail!("the tracer lost something, so this figure would be too good: {lost:?}");
        }
        Ok(())
    }
}

/// Where there are probes in a file.
///
/// # Errors
/// The kernel does not say, or there are none.
pub fn probe_sites(path: &Path) -> Result<Vec<u64>> {
    let links = kernel::links()?;
    let here = links.into_iter().filter(|link| link.path.file_name() == path.file_name());
    let mut sites: Vec<u64> = here.flat_map(|link| link.offsets).collect();
    if sites.is_empty() {
        bail!("no probes in {}", path.display());
    }
    sites.sort_unstable();
    sites.dedup();
    Ok(sites)
}

/// The floor on the same instructions that ours has its probes on.
///
/// # Errors
/// The kernel refuses.
pub fn floor(target: &Target, sites: &[u64]) -> Result<Floor> {
    Floor::attach(target.program(), sites, target.pid())
}

/// bpftrace at work.
#[derive(Debug)]
pub struct Bpftrace(Process);

impl Bpftrace {
    /// Starts it with a probe at the entry and one at the return of each function.
    ///
    /// # Errors
    /// It does not start.
    pub fn attach(target: &Target, symbols: &[String], style: Style, dir: &Path) -> Result<Self> {
        let mut script = String::from("BEGIN { printf(\"attached\\n\"); }\n");
        let path = target.program().display();
        for symbol in symbols {
            let (entry, exit) = style.actions();
            script.push_str(&format!("uprobe:{path}:\"{symbol}\" {{ {entry} }}\n"));
            script.push_str(&format!("uretprobe:{path}:\"{symbol}\" {exit}\n"));
        }
        let mut command = Command::new("bpftrace");
        command.args(["-p", &target.pid().to_string(), "-e", &script]).stdin(Stdio::null());
        command.env("BPFTRACE_PERF_RB_PAGES", "4096");
        let mut process = Process::start(&mut command, "bpftrace", dir)?;
        process.wait_until("its probes", Duration::from_secs(60), |process| {
            Ok(process.stdout().contains("attached").then_some(()))
        })?;
        pin(process.pid(), false);
        Ok(Self(process))
    }

    /// Ends it, and returns what it printed.
    ///
    /// # Errors
    /// It does not end.
    pub fn finish(mut self) -> Result<String> {
        self.0.signal(libc::SIGINT);
        wait_for("bpftrace to end", Duration::from_secs(60), || self.0.status())?;
        Ok(self.0.stdout())
    }
}

/// What bpftrace is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A histogram of durations, kept in the kernel.
    Histogram,
    /// One line for each call.
    Events,
}

impl Style {
    const fn actions(self) -> (&'static str, &'static str) {
        match self {
            Self::Histogram => (
                "@start[tid] = nsecs;",
                "/@start[tid]/ { @ns = hist(nsecs - @start[tid]); delete(@start[tid]); }",
            ),
            Self::Events => (
                "@start[tid] = nsecs;",
                "/@start[tid]/ { printf(\"%d %lld %lld\\n\", tid, @start[tid], nsecs); \
                 delete(@start[tid]); }",
            ),
        }
    }
}
