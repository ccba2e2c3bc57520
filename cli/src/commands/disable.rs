//! `disable`.

use tracer::service::client;
use tracer::service::protocol::{Request, VERSION};

use super::enable::refused;
use super::print;
use crate::args::Disable;
use crate::exit::{CommandResult, Exit};
use crate::progress;
use crate::render::status;

/// Has the service detach from everything; returns when it has.
pub fn run(args: &Disable) -> CommandResult {
    let request = Request::Disable { v: VERSION };
    let ask = || client::ask(&args.socket.socket, &request);
    progress::during("detaching", ask).map_err(refused)?;
    print(&status::disabled())?;
    Ok(Exit::Ok)
}
