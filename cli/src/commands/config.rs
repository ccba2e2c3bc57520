//! `config init`.

use tracer::service::config::TEMPLATE;

use super::print;
use crate::args::ConfigCommand;
use crate::exit::{CommandResult, Exit};

/// Prints a configuration.
pub fn run(command: &ConfigCommand) -> CommandResult {
    match command {
        ConfigCommand::Init => print(TEMPLATE)?,
    }
    Ok(Exit::Ok)
}
