//! `man`.

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use super::print;
use crate::args::Cli;
use crate::exit::{CliError, CommandResult, Exit};

/// Prints the manual page, subcommands included; or writes a page for each into `dir`.
pub fn run(dir: Option<&Path>) -> CommandResult {
    let pages = pages()?;
    let Some(dir) = dir else {
        let all: Vec<u8> = pages.into_iter().flat_map(|(_, page)| page).collect();
        print(&String::from_utf8_lossy(&all))?;
        return Ok(Exit::Ok);
    };
    let write = || {
        fs::create_dir_all(dir)?;
        pages.iter().try_for_each(|(name, page)| fs::write(dir.join(format!("{name}.1")), page))
    };
    write().map_err(|error| CliError::failed(format_args!("{}: {error}", dir.display())))?;
    Ok(Exit::Ok)
}

/// Each page by its name.
fn pages() -> Result<Vec<(String, Vec<u8>)>, CliError> {
    let mut command = Cli::command();
    command.build();
    let render = |command: clap::Command| {
        let name = command.get_name().to_owned();
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(CliError::failed)?;
        Ok::<_, CliError>((name, page))
    };
    let mut pages = vec![render(command.clone())?];
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        // clap wants names that live as long as the program; this command ends at once.
        let name: &'static str = format!("orchestrate-trace-{}", sub.get_name()).leak();
        pages.push(render(sub.clone().name(name))?);
    }
    Ok(pages)
}
