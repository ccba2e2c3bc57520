//! Runs random async plans on tokio and records what they really did, as the ground truth for a
//! tracer that watches from outside. See [`record`] for the truth file, [`plan`] for the plans
//! and [`bodies`] for what they are made of.

mod args;
mod bodies;
mod owner;
mod plan;
mod record;
mod run;
mod truth;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use args::{Args, USAGE};

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    say(&format!("ready {}", std::process::id()));
    wait_for(args.gate.as_deref());
    args::configure(&args);
    if args.guards {
        record::start_recording(args.agents as usize * usize::from(plan::MAX_BUDGET));
    }
    let checksum = run::run(&args);
    if let (true, Some(out)) = (args.guards, &args.out)
        && let Err(error) = truth::write(out, &args, checksum)
    {
        eprintln!("{}: {error}", out.display());
        return ExitCode::FAILURE;
    }
    say(&format!("checksum {checksum:016x}"));
    wait_for(args.hold.as_deref());
    ExitCode::SUCCESS
}

/// Stdout may be a pipe whose reader waits for this very line.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        // Nobody reads: the truth file matters more.
    }
}

fn wait_for(file: Option<&Path>) {
    while file.is_some_and(|file| !file.exists()) {
        std::thread::sleep(Duration::from_millis(5));
    }
}
