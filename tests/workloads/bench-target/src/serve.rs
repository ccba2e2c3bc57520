//! The commands.

use std::io::{self, BufRead as _, Write as _};
use std::task::Context;

use crate::futures::{Boxed, Live};
use crate::load::{self, Op, Took};

/// What a target can do.
pub struct Abilities {
    /// Operations by name.
    pub ops: &'static [(&'static str, Op)],
    /// Runs between chunks of operations, outside of what is timed.
    pub settle: fn(),
    /// Makes a future that stays alive, and polls it once.
    pub begin: Option<fn(u64, &mut Context<'_>) -> Boxed>,
}

/// Obeys until standard input ends.
///
/// | command | answers when |
/// | --- | --- |
/// | `cost OP N` | N operations are done, in chunks with pauses |
/// | `rate OP PER_SECOND SECONDS` | the time is over |
/// | `burst OP N THREADS` | N operations are done |
/// | `live N` | N futures are alive |
/// | `pingpong MS` | the time is over |
///
/// # Errors
/// A command is wrong, or standard input or output is.
pub fn serve(abilities: &Abilities) -> io::Result<()> {
    let mut live = Live::default();
    answer(&format!(r#"{{"pid":{}}}"#, std::process::id()))?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let op = |name: &str| {
            let found = abilities.ops.iter().find(|(known, _)| *known == name);
            found.map(|(_, op)| *op).ok_or_else(|| wrong(&line))
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong(&line));
        let took = match *words {
            ["cost", name, n] => load::cost(op(name)?, number(n)?, abilities.settle),
            ["rate", name, per_second, seconds] => {
                load::rate(op(name)?, number(per_second)?, number(seconds)?)
            }
            ["burst", name, n, threads] => load::burst(op(name)?, number(n)?, number(threads)?),
            ["pingpong", milliseconds] => load::ping_pong(number(milliseconds)?)?,
            ["live", n] => {
                let begin = abilities.begin.ok_or_else(|| wrong(&line))?;
                live.resize(number(n)? as usize, begin);
                Took { ops: live.len() as u64, ..Took::default() }
            }
            _ => return Err(wrong(&line)),
        };
        let Took { ops, wall, thread_cpu, process_cpu, elapsed, check } = took;
        answer(&format!(
            r#"{{"ops":{ops},"wall_ns":{wall},"thread_cpu_ns":{thread_cpu},"process_cpu_ns":{process_cpu},"elapsed_ns":{elapsed},"check":"{check:x}"}}"#
        ))?;
    }
    Ok(())
}

fn answer(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn wrong(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("not a command: {line}"))
}
