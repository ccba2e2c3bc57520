//! Exit codes, which scripts rely on, and the error type that carries them.

use std::fmt;
use std::process::ExitCode;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything went well.
    Ok,
    /// Something failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// Privileges are missing.
    NotPermitted,
    /// The target cannot be traced: no such process, not an ELF file, nothing to probe.
    NotTraceable,
    /// The service is not running.
    NotRunning,
    /// The status of the program that `run` started, or 125, 126, 127 as `env(1)` has them.
    Program(u8),
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotPermitted => 3,
            Self::NotTraceable => 4,
            Self::NotRunning => 5,
            Self::Program(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error and the exit code it leads to. The message says what, why, and what next.
#[derive(Debug)]
pub struct CliError {
    /// How the command ends.
    pub exit: Exit,
    /// For the user.
    pub message: String,
}

impl CliError {
    /// An error that leads to `exit`.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// Something failed.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The command line is wrong.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format_args!("{error:#}"))
    }
}

/// What every command returns.
pub type CommandResult = Result<Exit, CliError>;
