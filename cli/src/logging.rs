//! Our own log, on standard error.

use std::io::{self, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// `RUST_LOG` wins over `-v`. The service tells more than a command: nobody sits before it.
pub fn start(verbose: u8, service: bool) {
    let default = match (verbose, service) {
        (0, false) => "warn",
        (0, true) => "warn,tracer=info,orchestrate_trace=info",
        (1, _) => "warn,tracer=debug,orchestrate_trace=debug",
        _ => "info,tracer=trace,orchestrate_trace=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .without_time()
        .with_target(!service);
    // The journal keeps time and level itself, and takes the level from the line's beginning.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let _ = log.with_level(false).with_writer(Journal).try_init();
    } else {
        let _ = log.with_writer(io::stderr).try_init();
    }
}

/// Lines that begin with their priority, as `sd-daemon(3)` has them.
struct Journal;

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Prefixed;

    fn make_writer(&'a self) -> Prefixed {
        Prefixed(6)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Prefixed {
        Prefixed(priority(*meta.level()))
    }
}

/// As `syslog(3)` numbers them.
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// A priority before each write, which is one event's.
struct Prefixed(u8);

impl Write for Prefixed {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut line = format!("<{}>", self.0).into_bytes();
        line.extend_from_slice(event);
        io::stderr().lock().write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
