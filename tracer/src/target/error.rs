//! What can go wrong while a target is inspected: what, why, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a process or a file cannot be inspected.
#[derive(Debug, Error)]
pub enum TargetError {
    /// There is no such process, or it ended meanwhile.
    #[error("no process {pid}: it does not exist or has just ended")]
    NoSuchProcess {
        /// The id asked for.
        pid: u32,
    },
    /// The file does not exist.
    #[error("{}: no such file", path.display())]
    NoSuchFile {
        /// The path asked for.
        path: PathBuf,
    },
    /// The id is now another process, or the process has executed another program.
    #[error("process {pid} is no longer the program that was inspected; inspect it again")]
    Replaced {
        /// The id asked for.
        pid: u32,
    },
    /// The id names a thread.
    #[error("{tid} is a thread of process {pid}; give the process id {pid}")]
    Thread {
        /// The id asked for.
        tid: u32,
        /// The process it belongs to.
        pid: u32,
    },
    /// The id names a kernel thread: it has no program.
    #[error("process {pid} ({comm}) is a kernel thread; there is no program in it to trace")]
    KernelThread {
        /// The id asked for.
        pid: u32,
        /// Its name.
        comm: String,
    },
    /// The process has ended and waits for its parent.
    #[error("process {pid} ({comm}) has ended and only waits for its parent; start it again")]
    Zombie {
        /// The id asked for.
        pid: u32,
        /// Its name.
        comm: String,
    },
    /// The kernel does not let us look.
    #[error(
        "{}: permission denied; run as root or with CAP_SYS_PTRACE (and CAP_DAC_READ_SEARCH for \
         files that are not readable by all)", path.display()
    )]
    NotPermitted {
        /// What could not be read.
        path: PathBuf,
    },
    /// Reading failed for another reason.
    #[error("{}: {source}", path.display())]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not an ELF file.
    #[error("{}: not an ELF file; give a native executable, not a script or an archive", path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
    },
    /// A 32-bit ELF file.
    #[error("{}: a 32-bit program; only 64-bit programs can be traced", path.display())]
    Not64Bit {
        /// The file.
        path: PathBuf,
    },
    /// For another machine.
    #[error(
        "{}: built for another machine (ELF machine {machine}); only x86-64 (62) can be traced",
        path.display()
    )]
    WrongMachine {
        /// The file.
        path: PathBuf,
        /// `e_machine`.
        machine: u16,
    },
    /// Neither an executable nor a shared library.
    #[error("{}: ELF type {kind} is neither an executable nor a shared library", path.display())]
    NotLinked {
        /// The file.
        path: PathBuf,
        /// `e_type`.
        kind: u16,
    },
    /// No symbol table.
    #[error(
        "{}: stripped, it has no .symtab and so no function can be found by name; build it with \
         `strip = false` (the default of cargo's release profile)", path.display()
    )]
    Stripped {
        /// The file.
        path: PathBuf,
    },
    /// No Rust symbols.
    #[error("{}: no Rust code in it (no symbol of core or std); only Rust programs can be traced", path.display())]
    NotRust {
        /// The file.
        path: PathBuf,
    },
    /// No tokio.
    #[error(
        "{}: no tokio in it (no tokio::runtime symbol), so there are no tasks to follow; trace \
         plain functions only", path.display()
    )]
    NoTokio {
        /// The file.
        path: PathBuf,
    },
    /// Truncated or contradicts itself.
    #[error("{}: malformed ELF file: {what}; the file may be truncated, build it again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// Classes of [`TargetError`], for exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetErrorKind {
    /// There is no such process or file (any more).
    NoSuchProcess,
    /// More privileges are needed.
    NotPermitted,
    /// It exists and is readable, and is nothing that can be traced.
    NotTraceable,
    /// The file is damaged.
    Malformed,
}

impl TargetError {
    /// The class of this error.
    pub fn kind(&self) -> TargetErrorKind {
        use TargetErrorKind as Kind;
        match self {
            Self::NoSuchProcess { .. } | Self::NoSuchFile { .. } | Self::Replaced { .. } => {
                Kind::NoSuchProcess
            }
            Self::NotPermitted { .. } => Kind::NotPermitted,
            Self::Thread { .. }
            | Self::KernelThread { .. }
            | Self::Zombie { .. }
            | Self::NotElf { .. }
            | Self::Not64Bit { .. }
            | Self::WrongMachine { .. }
            | Self::NotLinked { .. }
            | Self::Stripped { .. }
            | Self::NotRust { .. }
            | Self::NoTokio { .. } => Kind::NotTraceable,
            Self::Io { .. } | Self::Malformed { .. } => Kind::Malformed,
        }
    }

    /// Names the file in an I/O error.
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NoSuchFile { path },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { path },
            _ => Self::Io { path, source },
        }
    }
}
