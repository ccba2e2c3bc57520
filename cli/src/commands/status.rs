//! `status`.

use clap::ColorChoice;
use tracer::service::client::{self, ClientError};
use tracer::service::protocol::{Request, VERSION};
use tracer::service::{Config, Report, Settings, State};

use super::enable::refused;
use super::print;
use crate::args::Status;
use crate::exit::{CliError, CommandResult, Exit};
use crate::render::style::Style;
use crate::render::{json, status};

/// Shows how the service is doing; where it does not run, what it would do. Exit 5 then.
pub fn run(args: &Status, color: ColorChoice) -> CommandResult {
    let request = Request::Status { v: VERSION };
    let (report, exit) = match client::ask(&args.socket.socket, &request) {
        Ok(report) => (report, Exit::Ok),
        Err(ClientError::NotRunning { .. }) => (persisted(args)?, Exit::NotRunning),
        Err(error) => return Err(refused(error)),
    };
    if args.json {
        let mut text = Vec::new();
        json::line(&mut text, &report).map_err(CliError::failed)?;
        print(&String::from_utf8_lossy(&text))?;
    } else {
        print(&status::status(&report, Style::for_stdout(color)))?;
    }
    Ok(exit)
}

/// What is kept of the settings.
fn persisted(args: &Status) -> Result<Report, CliError> {
    let state = State::read(&args.files.state_dir).map_err(|error| {
        let exit = if error.is_permission() { Exit::NotPermitted } else { Exit::Failed };
        CliError::new(exit, format_args!("the service is not running, and {error}"))
    })?;
    let (path, must_exist) = args.files.config();
    let config = Config::read(&path, must_exist).map_err(CliError::failed)?;
    // The service's own variables are not ours: it would not see these.
    let own = Default::default();
    let settings =
        Settings::resolve(state.enabled, &state.choice, &own, &config).map_err(CliError::failed)?;
    Ok(Report::of_settings(&settings))
}
