//! One file per command.

mod attach;
mod completions;
mod config;
mod daemon;
mod disable;
mod doctor;
mod enable;
mod inspect;
mod install_service;
mod man;
mod replay;
mod run;
mod status;

use std::io::{self, Write};

use crate::args::{Cli, Command};
use crate::engine;
use crate::exit::{CliError, CommandResult, Exit};

/// Runs the command that was asked for.
pub fn run(cli: &Cli) -> CommandResult {
    let engine = engine::engine();
    let verbose = cli.verbose > 0;
    match &cli.command {
        Command::Attach(args) => attach::run(args, verbose, cli.color, &engine),
        Command::Run(args) => run::run(args, verbose, cli.color, &engine),
        Command::Inspect(args) => inspect::run(args, cli.color, &engine),
        Command::Doctor(args) => doctor::run(args, cli.color, &engine),
        Command::Replay(args) => replay::run(args, cli.color, &engine),
        Command::Enable(args) => enable::run(args, cli.color),
        Command::Disable(args) => disable::run(args),
        Command::Status(args) => status::run(args, cli.color),
        Command::Daemon(args) => daemon::run(args),
        Command::Config { command } => config::run(command),
        Command::InstallService(args) => install_service::run(args),
        Command::Completions { shell } => completions::run(*shell),
        Command::Man { dir } => man::run(dir.as_deref()),
    }
}

/// Prints a command's result. A reader that has seen enough is no failure.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::new(Exit::Failed, format_args!("writing to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
