//! `man`.

use clap::CommandFactory;

use super::print;
use crate::args::Cli;
use crate::exit::{CliError, CommandResult, Exit};

/// Prints the manual page, subcommands included.
pub fn run() -> CommandResult {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    let render = |command: clap::Command, page: &mut Vec<u8>| {
        clap_mangen::Man::new(command).render(page).map_err(CliError::failed)
    };
    render(command.clone(), &mut page)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        // clap wants names that live as long as the program; this command ends at once.
        let name: &'static str = format!("orchestrate-trace-{}", sub.get_name()).leak();
        render(sub.clone().name(name), &mut page)?;
    }
    print(&String::from_utf8_lossy(&page))?;
    Ok(Exit::Ok)
}
