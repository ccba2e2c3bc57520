//! `daemon`: the service in the foreground.

use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tracer::service::{Options, Service, ServiceError, Supervisor};

use crate::args::Daemon;
use crate::exit::{CliError, CommandResult, Exit};
use crate::signals;

/// Serves until SIGTERM or SIGINT.
pub fn run(args: &Daemon) -> CommandResult {
    // Before any other thread begins.
    let signals = signals::hold();
    let (config, config_must_exist) = args.files.config();
    let options = Options {
        config,
        config_must_exist,
        state_dir: args.files.state_dir.clone(),
        socket: args.socket.socket.clone(),
    };
    let supervisor = Box::new(Systemd { watchdog: watchdog() });
    let (service, handle) = Service::start(options, supervisor).map_err(cannot_start)?;
    let wait = move || {
        loop {
            match signals.next() {
                libc::SIGHUP => handle.reload(),
                _ => handle.stop(),
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(CliError::failed)?;
    service.run();
    Ok(Exit::Ok)
}

fn cannot_start(error: ServiceError) -> CliError {
    let exit = if error.is_permission() { Exit::NotPermitted } else { Exit::Failed };
    let next = if error.is_permission() { "; run it as root, or name other places" } else { "" };
    CliError::new(exit, format_args!("{error}{next}"))
}

/// systemd, where it started us; else these words go nowhere.
struct Systemd {
    watchdog: Option<Duration>,
}

fn watchdog() -> Option<Duration> {
    let mut usec = 0;
    sd_notify::watchdog_enabled(false, &mut usec).then(|| Duration::from_micros(usec))
}

impl Systemd {
    fn notify(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(false, states) {
            tracing::warn!(%error, "systemd cannot be told");
        }
    }
}

impl Supervisor for Systemd {
    fn ready(&mut self) {
        self.notify(&[NotifyState::Ready]);
    }

    fn status(&mut self, text: &str) {
        self.notify(&[NotifyState::Status(text)]);
    }

    fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(_) => self.notify(&[NotifyState::Reloading]),
        }
    }

    fn stopping(&mut self) {
        self.notify(&[NotifyState::Stopping]);
    }

    fn alive(&mut self) {
        if self.watchdog.is_some() {
            self.notify(&[NotifyState::Watchdog]);
        }
    }

    fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }
}
