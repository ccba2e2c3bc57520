//! `install-service`: what the package installs, where there is no package.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tracer::service::config::TEMPLATE;
use tracer::service::{CONFIG_FILE, GROUP};

use super::print;
use crate::args::InstallService;
use crate::exit::{CliError, CommandResult, Exit};

const UNIT: &str = include_str!("../../../packaging/orchestrate-trace.service");
const SYSUSERS: &str = include_str!("../../../packaging/sysusers.conf");
/// The program that the package's unit starts.
const PACKAGED_PROGRAM: &str = "/usr/bin/orchestrate-trace";
const PACKAGED_UNITS: [&str; 2] = [
    "usr/lib/systemd/system/orchestrate-trace.service",
    "lib/systemd/system/orchestrate-trace.service",
];
const UNIT_FILE: &str = "etc/systemd/system/orchestrate-trace.service";
const SYSUSERS_FILE: &str = "etc/sysusers.d/orchestrate-trace.conf";
const SERVICE: &str = "orchestrate-trace.service";

/// Installs and starts, or takes away.
pub fn run(args: &InstallService) -> CommandResult {
    let live = args.root.is_none();
    let root = args.root.clone().unwrap_or_else(|| PathBuf::from("/"));
    if let Some(unit) = PACKAGED_UNITS.iter().map(|unit| root.join(unit)).find(|u| u.exists()) {
        return Err(CliError::failed(format_args!(
            "the package is installed ({}); use `systemctl enable --now {SERVICE}`",
            unit.display()
        )));
    }
    if live && !Path::new("/run/systemd/system").is_dir() {
        return Err(CliError::failed(
            "systemd does not run here; run `orchestrate-trace daemon` under what does, or give \
             --root to install into an image",
        ));
    }
    if args.remove { remove(&root, live) } else { install(&root, live) }
}

fn install(root: &Path, live: bool) -> CommandResult {
    let program = std::env::current_exe()
        .map_err(|error| CliError::failed(format_args!("finding this program: {error}")))?;
    let program =
        program.to_str().filter(|path| !path.contains(char::is_whitespace)).ok_or_else(|| {
            CliError::failed("this program's path has spaces; move it to /usr/local/bin")
        })?;
    for hidden in ["/home/", "/root/", "/tmp/", "/var/tmp/"] {
        // The unit hides these folders from the service.
        if program.starts_with(hidden) && live {
            return Err(CliError::failed(format_args!(
                "{program} lies where the service cannot see it; `install -m 755 {program} \
                 /usr/local/bin/`, and run that one"
            )));
        }
    }
    let unit = UNIT.replace(PACKAGED_PROGRAM, program);
    let config = root.join(CONFIG_FILE.trim_start_matches('/'));
    let mut done = vec![];
    for (file, text) in [(root.join(UNIT_FILE), &*unit), (root.join(SYSUSERS_FILE), SYSUSERS)] {
        write(&file, text, true)?;
        done.push(format!("wrote {}\n", file.display()));
    }
    if write(&config, TEMPLATE, false)? {
        done.push(format!("wrote {}\n", config.display()));
    }
    if live {
        command("systemd-sysusers", &[SYSUSERS_FILE_ABSOLUTE])?;
        command("systemctl", &["daemon-reload"])?;
        command("systemctl", &["enable", "--now", SERVICE])?;
        done.push(format!("started {SERVICE}; `usermod -aG {GROUP} USER` lets a user steer it\n"));
    }
    print(&done.concat())?;
    Ok(Exit::Ok)
}

const SYSUSERS_FILE_ABSOLUTE: &str = "/etc/sysusers.d/orchestrate-trace.conf";

fn remove(root: &Path, live: bool) -> CommandResult {
    if live {
        command("systemctl", &["disable", "--now", SERVICE])?;
    }
    let mut done = vec![];
    for file in [root.join(UNIT_FILE), root.join(SYSUSERS_FILE)] {
        match fs::remove_file(&file) {
            Ok(()) => done.push(format!("removed {}\n", file.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&file, &error)),
        }
    }
    if live {
        command("systemctl", &["daemon-reload"])?;
    }
    print(&done.concat())?;
    Ok(Exit::Ok)
}

/// `false`: it was there, and stays as it is.
fn write(file: &Path, text: &str, replace: bool) -> Result<bool, CliError> {
    let create = || {
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).mode(0o644);
        if replace {
            options.create(true).truncate(true);
        } else {
            options.create_new(true);
        }
        options.open(file)?.write_all(text.as_bytes())
    };
    match create() {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !replace => Ok(false),
        Err(error) => Err(failed(file, &error)),
    }
}

fn failed(file: &Path, error: &io::Error) -> CliError {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NotPermitted,
        _ => Exit::Failed,
    };
    CliError::new(exit, format_args!("{}: {error}; run it as root", file.display()))
}

fn command(program: &str, args: &[&str]) -> Result<(), CliError> {
    let line = format!("{program} {}", args.join(" "));
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| CliError::failed(format_args!("{line}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(CliError::failed(format_args!("{line}: {}; {}", output.status, why.trim_end())))
}
