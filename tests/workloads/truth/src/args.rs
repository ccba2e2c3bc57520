//! The command line, and the settings that bodies ask for.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::bodies::Mix;

/// One line of help per option.
pub const USAGE: &str = "\
usage: truth-workload --out FILE [options]
  --seed S           seed of all plans (1)
  --agents N         how many agents run (10)
  --concurrent C     how many of them at once (all)
  --workers W        worker threads of the runtime (8)
  --mix NAME         calls, concurrent, tasks, cancel, panic, boxed, local, tiny, all (all)
  --out FILE         where the truth goes
  --gate FILE        wait until FILE exists before the runtime is built
  --hold FILE        wait until FILE exists before exiting
  --polls P          every leaf is polled P times
  --runtime KIND     multi or current (multi)
  --no-guards        the same plans, nothing recorded, no truth file";

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Args {
    /// Seed of all plans.
    pub seed: u64,
    /// Number of agents.
    pub agents: u32,
    /// Agents at work at any time.
    pub concurrent: u32,
    /// Worker threads.
    pub workers: usize,
    /// Which bodies take part.
    pub mix: Mix,
    /// Where the truth goes.
    pub out: Option<PathBuf>,
    /// Start when this file exists.
    pub gate: Option<PathBuf>,
    /// Exit when this file exists.
    pub hold: Option<PathBuf>,
    /// Polls of every leaf, 0 for random.
    pub polls: u32,
    /// Multi-thread runtime.
    pub multi: bool,
    /// Whether to record.
    pub guards: bool,
}

impl Args {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// What is wrong, for the user.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            seed: 1,
            agents: 10,
            concurrent: 0,
            workers: 8,
            mix: Mix::All,
            out: None,
            gate: None,
            hold: None,
            polls: 0,
            multi: true,
            guards: true,
        };
        while let Some(word) = words.next() {
            if word == "--no-guards" {
                args.guards = false;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word}: unknown, or lacks a value"))?;
            match word.as_str() {
                "--seed" => args.seed = number(&word, &value)?,
                "--agents" => args.agents = number(&word, &value)?,
                "--concurrent" => args.concurrent = number(&word, &value)?,
                "--workers" => args.workers = number(&word, &value)?,
                "--polls" => args.polls = number(&word, &value)?,
                "--mix" => args.mix = Mix::named(&value).ok_or(format!("no mix `{value}`"))?,
                "--out" => args.out = Some(value.into()),
                "--gate" => args.gate = Some(value.into()),
                "--hold" => args.hold = Some(value.into()),
                "--runtime" => match value.as_str() {
                    "multi" => args.multi = true,
                    "current" => args.multi = false,
                    _ => return Err(format!("no runtime `{value}`")),
                },
                _ => return Err(format!("no option `{word}`")),
            }
        }
        if args.guards && args.out.is_none() {
            return Err("--out FILE is missing".into());
        }
        if args.concurrent == 0 {
            args.concurrent = args.agents;
        }
        args.workers = args.workers.max(1);
        Ok(args)
    }
}

fn number<T: FromStr>(option: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{option}: `{value}` is no number it can take"))
}

/// Settings that bodies ask for while they run.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// See [`Args::mix`].
    pub mix: Mix,
    /// See [`Args::polls`].
    pub polls: u32,
    /// See [`Args::multi`].
    pub multi: bool,
}

static CONFIG: OnceLock<Config> = OnceLock::new();

/// Fixes the settings for the rest of the process.
pub fn configure(args: &Args) {
    let &Args { mix, polls, multi, .. } = args;
    CONFIG.get_or_init(|| Config { mix, polls, multi });
}

/// The settings; before [`configure`], those of a test.
pub fn config() -> &'static Config {
    CONFIG.get_or_init(|| Config { mix: Mix::All, polls: 0, multi: true })
}
