//! `orchestrate-trace`: attach to a running process and show what its agents do.

mod args;
mod commands;
mod duration;
mod engine;
mod exit;
mod exporting;
#[cfg(test)]
mod fake;
mod logging;
mod processes;
mod progress;
mod render;
mod signals;
mod sink;
mod tracing_loop;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{ColorChoice, CommandFactory as _, FromArgMatches as _};

use crate::args::Cli;
use crate::exit::Exit;
use crate::render::style::{Role, Style};

fn main() -> ExitCode {
    let color = color_before_parsing();
    let parsed = Cli::command()
        .color(color)
        .try_get_matches()
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are results, on standard output; a closed pipe is no failure.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    logging::start(cli.verbose, matches!(cli.command, args::Command::Daemon(_)));
    match commands::run(&cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let style = Style::for_stderr(cli.color);
            let label = style.paint(Role::Bad, "error:");
            let _ = writeln!(std::io::stderr(), "{label} {error}");
            error.exit.into()
        }
    }
}

/// clap colours its own messages, also those about arguments that cannot be parsed.
fn color_before_parsing() -> ColorChoice {
    let mut args = std::env::args().skip(1).take_while(|arg| arg != "--");
    while let Some(arg) = args.next() {
        let value = match arg.strip_prefix("--color") {
            Some("") => args.next(),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        match value.as_deref() {
            Some("always") => return ColorChoice::Always,
            Some("never") => return ColorChoice::Never,
            _ => {}
        }
    }
    ColorChoice::Auto
}
