//! `run -- CMD …`: fork, wait, attach, exec, so that the first instruction is traced.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread::{self, JoinHandle};

use clap::ColorChoice;

use crate::args::Run;
use crate::engine::Engine;
use crate::exit::{CliError, CommandResult, Exit};
use crate::exporting::Destinations;
use crate::tracing_loop::{self, Clock, Companion};
use crate::{signals, sink};

/// Failures of our own, as `env(1)` numbers them.
const FAILED: Exit = Exit::Program(125);
const NOT_EXECUTABLE: Exit = Exit::Program(126);
const NOT_FOUND: Exit = Exit::Program(127);

/// Runs a program under tracing; its status is ours.
pub fn run(args: &Run, verbose: bool, color: ColorChoice, engine: &impl Engine) -> CommandResult {
    run_traced(args, verbose, color, engine).map_err(|mut error| {
        if !matches!(error.exit, Exit::Program(_) | Exit::Usage) {
            error.exit = FAILED;
        }
        error
    })
}

fn run_traced(
    args: &Run,
    verbose: bool,
    color: ColorChoice,
    engine: &impl Engine,
) -> CommandResult {
    let destinations = Destinations::of_command(&args.export)?;
    let Some((name, arguments)) = args.command.split_first() else {
        return Err(CliError::usage("no program given"));
    };
    let program = find(name, std::env::var_os("PATH").as_deref())?;
    // The program writes to the terminal as it likes: no area is redrawn there.
    let mut sink = sink::sink(&args.view, color, true)?;
    let mut command = Command::new(&program);
    command.arg0(name).args(arguments);
    signals::watch_for_child();
    let waiting = Waiting::fork(command)?;
    let options = args.trace.options(verbose);
    // Dropping `waiting` on failure lets the child go without executing anything.
    let session = engine.attach_before_exec(waiting.pid, &program, &options)?;
    let mut running = match waiting.exec() {
        Ok(child) => Running { child, status: None },
        Err(error) => {
            let _ = session.finish(&mut Vec::new());
            let exit = match error.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            };
            let message = format!("executing {}: {error}", program.display());
            return Err(CliError::new(exit, message));
        }
    };
    let settings = tracing_loop::Run {
        sink: &mut *sink,
        destinations: &destinations,
        duration: args.trace.duration,
        clock: Clock::Live,
    };
    let traced = tracing_loop::run(vec![session], settings, &mut running);
    // Tracing may be over before the program is.
    let status = running.wait()?;
    if let Err(error) = traced {
        let _ = writeln!(io::stderr(), "error: {error}");
    }
    Ok(Exit::Program(exit_code(status)))
}

/// The file that executing `name` would execute.
fn find(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, CliError> {
    let candidates: Vec<PathBuf> = if name.as_bytes().contains(&b'/') {
        vec![PathBuf::from(name)]
    } else {
        path.map(|path| std::env::split_paths(path).map(|dir| dir.join(name)).collect())
            .unwrap_or_default()
    };
    let is_executable = |file: &Path| {
        file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
    };
    let shown = name.to_string_lossy();
    if let Some(found) = candidates.iter().find(|file| is_executable(file)) {
        return std::path::absolute(found)
            .map_err(|error| CliError::new(FAILED, format_args!("{shown}: {error}")));
    }
    if candidates.iter().any(|file| file.exists()) {
        let message = format_args!("{shown}: not executable");
        return Err(CliError::new(NOT_EXECUTABLE, message));
    }
    Err(CliError::new(NOT_FOUND, format_args!("{shown}: no such program")))
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// A child between fork and exec.
struct Waiting {
    pid: u32,
    go: io::PipeWriter,
    spawning: JoinHandle<io::Result<Child>>,
}

impl Waiting {
    /// Forks; the child waits for a byte before it executes anything. `Command::spawn` returns
    /// after the exec only, hence the thread, and hence the child tells its id itself.
    fn fork(mut command: Command) -> Result<Self, CliError> {
        let failed =
            |what: &str, error: io::Error| CliError::new(FAILED, format_args!("{what}: {error}"));
        let (mut told, tell) = io::pipe().map_err(|error| failed("making a pipe", error))?;
        let (wait, go) = io::pipe().map_err(|error| failed("making a pipe", error))?;
        let (tell, wait) = (OwnedFd::from(tell), OwnedFd::from(wait));
        let go_in_child = go.as_raw_fd();
        // SAFETY: the closure runs between fork and exec and calls only close, getpid, write and
        // read, which are async-signal-safe; it allocates nothing and takes no lock. All file
        // descriptors are open in the child, which has a copy of our table.
        unsafe {
            command.pre_exec(move || {
                // Else the child would wait for itself when we are gone.
                libc::close(go_in_child);
                let pid = libc::getpid().to_ne_bytes();
                if libc::write(tell.as_raw_fd(), pid.as_ptr().cast(), pid.len()) != 4 {
                    return Err(io::Error::last_os_error());
                }
                let mut byte = 0u8;
                loop {
                    match libc::read(wait.as_raw_fd(), (&raw mut byte).cast(), 1) {
                        1 => return Ok(()),
                        0 => return Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                        _ => {
                            let error = io::Error::last_os_error();
                            if error.raw_os_error() != Some(libc::EINTR) {
                                return Err(error);
                            }
                        }
                    }
                }
            });
        }
        let spawning = thread::spawn(move || command.spawn());
        let mut pid = [0; 4];
        if told.read_exact(&mut pid).is_err() {
            let error = match spawning.join() {
                Ok(Err(error)) => error,
                _ => io::Error::other("the child did not start"),
            };
            return Err(failed("forking", error));
        }
        let pid = u32::from_ne_bytes(pid);
        Ok(Self { pid, go, spawning })
    }

    /// Lets it execute its program.
    fn exec(self) -> io::Result<Child> {
        let Self { pid: _, mut go, spawning } = self;
        go.write_all(&[1])?;
        drop(go);
        spawning.join().unwrap_or_else(|_| Err(io::Error::other("the child did not start")))
    }
}

/// The program, running.
struct Running {
    child: Child,
    status: Option<ExitStatus>,
}

impl Running {
    fn wait(&mut self) -> Result<ExitStatus, CliError> {
        loop {
            if let Some(status) = self.poll() {
                return Ok(status);
            }
            if let Some(signal) = signals::take() {
                self.signal(signal);
            }
            thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }
}

impl Companion for Running {
    /// Passes it on; tracing goes on until the program ends.
    fn signal(&mut self, signal: i32) -> bool {
        // A terminal sends Ctrl-C to the whole group: the program has it already.
        let from_terminal = signal == libc::SIGINT && io::IsTerminal::is_terminal(&io::stdin());
        if !from_terminal && self.status.is_none() {
            let pid = rustix::process::Pid::from_child(&self.child);
            if let Some(signal) = rustix::process::Signal::from_named_raw(signal) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
        false
    }

    fn is_over(&mut self) -> bool {
        self.poll().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{ExportArgs, TraceArgs, ViewArgs};
    use crate::fake::FakeEngine;

    fn running(command: &[&str], engine: &FakeEngine) -> Result<u8, (u8, String)> {
        let output = tempfile::NamedTempFile::new().unwrap();
        let args = Run {
            command: command.iter().map(Into::into).collect(),
            trace: TraceArgs::default(),
            view: ViewArgs { output: Some(output.path().to_owned()), ..ViewArgs::default() },
            export: ExportArgs::default(),
        };
        run(&args, false, ColorChoice::Never, engine)
            .map(Exit::code)
            .map_err(|error| (error.exit.code(), error.message))
    }

    #[test]
    fn the_programs_status_is_ours() {
        for (command, status) in [("exit 7", 7), ("true", 0), ("kill -TERM $$", 143)] {
            let engine = FakeEngine::default();
            assert_eq!(running(&["sh", "-c", command], &engine), Ok(status), "{command}");
            assert_eq!(engine.attached.borrow().len(), 1);
            assert_eq!(*engine.finished.borrow(), *engine.attached.borrow());
        }
    }

    #[test]
    fn nothing_is_executed_untraced() {
        let witness = tempfile::tempdir().unwrap();
        let file = witness.path().join("executed");
        let engine = FakeEngine { refuses: true, ..FakeEngine::default() };
        let result = running(&["touch", file.to_str().unwrap()], &engine);
        assert_eq!(result, Err((125, "not today".to_owned())));
        assert!(!file.exists());
    }

    #[test]
    fn a_file_that_cannot_be_executed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("script");
        std::fs::write(&file, "#!/no/such/interpreter\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, mode).unwrap();
        let engine = FakeEngine::default();
        let (code, message) = running(&[file.to_str().unwrap()], &engine).unwrap_err();
        // The kernel says ENOENT of the interpreter, and so does env(1).
        assert_eq!(code, 127, "{message}");
        assert_eq!(*engine.finished.borrow(), *engine.attached.borrow());
    }
}
