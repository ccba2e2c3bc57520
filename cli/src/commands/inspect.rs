//! `inspect PID|FILE`.

use std::path::Path;

use clap::ColorChoice;
use serde::Serialize;

use super::print;
use crate::args::Inspect;
use crate::engine::{CoverageView, Engine, Options};
use crate::exit::{CommandResult, Exit};
use crate::render::coverage;
use crate::render::json::{self, VERSION};
use crate::render::style::Style;
use crate::{processes, progress};

#[derive(Serialize)]
struct Report<'a> {
    v: u8,
    #[serde(flatten)]
    coverage: &'a CoverageView,
}

/// Shows what would be probed. Exit 4 when nothing would be.
pub fn run(args: &Inspect, color: ColorChoice, engine: &impl Engine) -> CommandResult {
    let options = Options {
        profile: args.what.profile.clone(),
        functions: args.what.functions.clone(),
        debuginfo: args.what.debuginfo.clone(),
        ..Options::default()
    };
    let pid = processes::parse_pid(&args.target)?;
    let coverage = progress::during(&format!("inspecting {}", args.target), || match pid {
        Some(pid) => engine.inspect_process(pid, &options),
        None => engine.inspect_file(Path::new(&args.target), &options),
    })?;
    if args.json {
        let mut text = Vec::new();
        json::line(&mut text, &Report { v: VERSION, coverage: &coverage })
            .map_err(crate::exit::CliError::failed)?;
        print(&String::from_utf8_lossy(&text))?;
    } else {
        let mut text = coverage::lines(&coverage, Style::for_stdout(color)).join("\n");
        text.push('\n');
        print(&text)?;
    }
    Ok(Exit::Ok)
}
