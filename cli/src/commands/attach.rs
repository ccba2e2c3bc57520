//! `attach PID|NAME`.

use std::io::Write as _;

use clap::ColorChoice;

use crate::args::Attach;
use crate::engine::{Engine, EngineError, ErrorKind, Session};
use crate::exit::{CliError, CommandResult};
use crate::exporting::Destinations;
use crate::tracing_loop::{self, Alone, Clock};
use crate::{processes, progress, signals, sink};

/// Traces until Ctrl-C, the end of the time, or the end of the target.
pub fn run(
    args: &Attach,
    verbose: bool,
    color: ColorChoice,
    engine: &impl Engine,
) -> CommandResult {
    let destinations = Destinations::of_command(&args.export)?;
    let pids = processes::resolve(&args.target)?;
    let options = args.trace.options(verbose);
    if pids.len() > 1 && options.record.is_some() {
        return Err(CliError::usage(format_args!(
            "--record holds one process, but '{}' names {}: give one of their ids",
            args.target,
            pids.len()
        )));
    }
    let mut sink = sink::sink(&args.view, color, false)?;
    signals::watch();
    let mut sessions: Vec<Box<dyn Session>> = vec![];
    let mut refused: Option<EngineError> = None;
    for pid in &pids {
        let what = format!("attaching to pid {pid}");
        match progress::during(&what, || engine.attach(*pid, &options)) {
            Ok(session) => sessions.push(session),
            // Of several, one that is gone already must not keep us from the others.
            Err(error) if pids.len() > 1 => {
                let _ = writeln!(std::io::stderr(), "warning: {}", error.message);
                let worse = refused.as_ref().is_none_or(|old| old.kind == ErrorKind::NotTraceable);
                if worse {
                    refused = Some(error);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    if let (true, Some(error)) = (sessions.is_empty(), refused) {
        return Err(error.into());
    }
    let settings = tracing_loop::Run {
        sink: &mut *sink,
        destinations: &destinations,
        duration: args.trace.duration,
        clock: Clock::Live,
    };
    tracing_loop::run(sessions, settings, &mut Alone)
}
