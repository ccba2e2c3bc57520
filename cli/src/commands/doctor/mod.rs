//! `doctor`: can tracing work here, and if not, what to do about it.

mod checks;
mod facts;

use clap::ColorChoice;
use serde::Serialize;

use self::checks::{Check, Status};
use super::print;
use crate::args::Doctor;
use crate::engine::Engine;
use crate::exit::{CliError, CommandResult, Exit};
use crate::render::json::{self, VERSION};
use crate::render::style::{Role, Style};
use crate::render::text;

#[derive(Serialize)]
struct Report<'a> {
    v: u8,
    works: bool,
    checks: &'a [Check],
}

/// Prints what was found. Exit 1 when tracing cannot work.
pub fn run(args: &Doctor, color: ColorChoice, engine: &impl Engine) -> CommandResult {
    let checks = checks::evaluate(&facts::Facts::read(), &engine.features());
    let works = checks.iter().all(|check| check.status != Status::Problem);
    if args.json {
        let mut out = Vec::new();
        json::line(&mut out, &Report { v: VERSION, works, checks: &checks })
            .map_err(CliError::failed)?;
        print(&String::from_utf8_lossy(&out))?;
    } else {
        print(&report(&checks, works, Style::for_stdout(color)))?;
    }
    Ok(if works { Exit::Ok } else { Exit::Failed })
}

fn report(checks: &[Check], works: bool, style: Style) -> String {
    let mut out = String::new();
    let widest = checks.iter().map(|check| text::width(&check.name)).max().unwrap_or(0);
    for Check { name, status, found, remedy } in checks {
        let (role, mark) = match status {
            Status::Ok => (Role::Good, "ok     "),
            Status::Limited => (Role::Warning, "limited"),
            Status::Problem => (Role::Bad, "problem"),
        };
        let mark = style.paint(role, mark);
        out.push_str(&format!("{mark}  {name:<widest$}  {}\n", text::sanitise(found)));
        if let Some(remedy) = remedy {
            let pad = " ".repeat(widest + 11);
            out.push_str(&format!("{pad}{} {remedy}\n", style.paint(Role::Strong, "→")));
        }
    }
    out.push_str(&match works {
        true => format!("\n{}\n", style.paint(Role::Good, "Tracing works here.")),
        false => format!("\n{}\n", style.paint(Role::Bad, "Tracing cannot work here.")),
    });
    out
}
