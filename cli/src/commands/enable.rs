//! `enable`.

use std::io::Write as _;

use clap::ColorChoice;
use tracer::service::client::{self, ClientError};
use tracer::service::protocol::{Refusal, Request, VERSION};
use tracer::service::{Choice, Environment};

use super::print;
use crate::args::Enable;
use crate::exit::{CliError, CommandResult, Exit};
use crate::render::status;
use crate::render::style::{Role, Style};
use crate::render::text;

/// Sends flags and `OTEL_*` variables to the service, and prints what is in force.
pub fn run(args: &Enable, color: ColorChoice) -> CommandResult {
    let style = Style::for_stderr(color);
    let warn = |message: &str| {
        let label = style.paint(Role::Warning, "warning:");
        let _ = writeln!(std::io::stderr(), "{label} {}", text::sanitise(message));
    };
    let choice = Choice { flags: args.setting.config(), environment: Environment::own() };
    let request = Request::Enable { v: VERSION, choice };
    let report = client::ask(&args.socket.socket, &request).map_err(refused)?;
    print(&status::enabled(&report))?;
    for warning in &report.warnings {
        warn(warning);
    }
    Ok(Exit::Ok)
}

/// The service's refusal, or why it could not be asked.
pub(super) fn refused(error: ClientError) -> CliError {
    let exit = match &error {
        ClientError::NotRunning { .. } => Exit::NotRunning,
        ClientError::NotPermitted { .. } => Exit::NotPermitted,
        ClientError::Refused(refused) => match refused.kind {
            Refusal::NotPermitted => Exit::NotPermitted,
            Refusal::Usage => Exit::Usage,
            Refusal::Malformed | Refusal::Version | Refusal::Busy | Refusal::Failed => Exit::Failed,
        },
        ClientError::TooLong | ClientError::Failed { .. } => Exit::Failed,
    };
    CliError::new(exit, text::sanitise(&error.to_string()))
}
