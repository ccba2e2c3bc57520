//! One process, seen through `/proc/PID` alone, so that a deleted or replaced binary, a container
//! and another mount namespace make no difference.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use procfs::ProcError;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};

use super::{Image, PidNamespace, TargetError};

/// `PF_KTHREAD` in the kernel's `include/linux/sched.h`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// A file that is mapped executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedModule {
    /// Its path as the target sees it, without ` (deleted)`.
    pub name: PathBuf,
    /// Address of the executable mapping.
    pub start: u64,
    /// End of the executable mapping.
    pub end: u64,
    /// Inode of the mapped file.
    pub inode: u64,
}

/// An inspected process.
#[derive(Debug)]
pub struct Target {
    /// Its id as we see it.
    pub pid: u32,
    /// When it started, in clock ticks after boot: with the id, names it for good.
    pub start_time: u64,
    /// Its pid namespace and its id therein.
    pub pid_namespace: PidNamespace,
    /// Files mapped executable, in order of address.
    pub modules: Vec<MappedModule>,
    /// The program.
    pub exe: Arc<Image>,
    /// OpenSSL, where it is a library of its own.
    pub libssl: Option<Arc<Image>>,
    /// The C library, where it is a library of its own.
    pub libc: Option<Arc<Image>>,
    /// Device and inode of the program: another one after `execve`.
    exe_id: (u64, u64),
}

impl PidNamespace {
    /// The namespace of a process, and the process's id in it.
    ///
    /// # Errors
    /// There is no such process, or it may not be looked at.
    pub fn of(pid: u32) -> Result<Self, TargetError> {
        let status = process(pid)?.status().map_err(|error| proc_error(pid, error))?;
        let inner = status.nspid.as_ref().and_then(|ids| ids.last().copied());
        let namespace = metadata(pid, &proc_path(pid, "ns/pid"))?;
        Ok(Self {
            dev: namespace.dev(),
            ino: namespace.ino(),
            pid: inner.and_then(|id| u32::try_from(id).ok()).unwrap_or(pid),
        })
    }
}

impl Target {
    /// Inspects a running process.
    pub fn open(pid: u32) -> Result<Self, TargetError> {
        let process = process(pid)?;
        let stat = process.stat().map_err(|error| proc_error(pid, error))?;
        let comm = stat.comm.clone();
        if stat.flags & PF_KTHREAD != 0 {
            return Err(TargetError::KernelThread { pid, comm });
        }
        if matches!(stat.state, 'Z' | 'X' | 'x') {
            return Err(TargetError::Zombie { pid, comm });
        }
        let status = process.status().map_err(|error| proc_error(pid, error))?;
        let tgid = u32::try_from(status.tgid).unwrap_or(pid);
        if tgid != pid {
            return Err(TargetError::Thread { tid: pid, pid: tgid });
        }
        let pid_namespace = PidNamespace::of(pid)?;
        let exe_path = proc_path(pid, "exe");
        let exe_file = metadata(pid, &exe_path)?;
        let exe_name = std::fs::read_link(&exe_path).map_err(|e| link_error(pid, &exe_path, e))?;
        let exe = Image::open(&exe_path, &without_deleted(&exe_name)).map_err(|error| {
            // The program behind the link is gone only when the process is.
            match error {
                TargetError::NoSuchFile { .. } => TargetError::NoSuchProcess { pid },
                error => error,
            }
        })?;
        let maps = process.maps().map_err(|error| proc_error(pid, error))?;
        let modules: Vec<_> = maps.into_iter().filter_map(module).collect();
        let library = |is: fn(&Path) -> bool| {
            let module = modules.iter().find(|module| is(&module.name));
            module.map(|module| open_module(pid, module).map(Arc::new)).transpose()
        };
        let (libssl, libc) = (library(is_libssl)?, library(is_libc)?);
        let target = Self {
            pid,
            start_time: stat.starttime,
            pid_namespace,
            modules,
            exe: Arc::new(exe),
            libssl,
            libc,
            exe_id: (exe_file.dev(), exe_file.ino()),
        };
        // Everything above was read at different times: it belongs together only if the process
        // is still the same.
        target.still_same()?;
        Ok(target)
    }

    /// Whether the process still runs the program that was inspected: not ended, its id not
    /// reused, nothing executed in its place.
    pub fn still_same(&self) -> Result<(), TargetError> {
        let stat = process(self.pid)?.stat().map_err(|error| proc_error(self.pid, error))?;
        if matches!(stat.state, 'Z' | 'X' | 'x') {
            return Err(TargetError::NoSuchProcess { pid: self.pid });
        }
        let exe = metadata(self.pid, &proc_path(self.pid, "exe"))?;
        if stat.starttime != self.start_time || (exe.dev(), exe.ino()) != self.exe_id {
            return Err(TargetError::Replaced { pid: self.pid });
        }
        Ok(())
    }

    /// Opens another mapped file.
    pub fn open_module(&self, module: &MappedModule) -> Result<Image, TargetError> {
        open_module(self.pid, module)
    }
}

fn process(pid: u32) -> Result<Process, TargetError> {
    let id = i32::try_from(pid).map_err(|_| TargetError::NoSuchProcess { pid })?;
    if id == 0 {
        return Err(TargetError::NoSuchProcess { pid });
    }
    Process::new(id).map_err(|error| proc_error(pid, error))
}

fn proc_path(pid: u32, entry: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{entry}"))
}

fn proc_error(pid: u32, error: ProcError) -> TargetError {
    let or_root = |path: Option<PathBuf>| path.unwrap_or_else(|| proc_path(pid, ""));
    match error {
        ProcError::NotFound(_) => TargetError::NoSuchProcess { pid },
        ProcError::PermissionDenied(path) => TargetError::NotPermitted { path: or_root(path) },
        // What reading a file of a process that has ended says.
        ProcError::Io(source, _) if source.raw_os_error() == Some(libc::ESRCH) => {
            TargetError::NoSuchProcess { pid }
        }
        ProcError::Io(source, path) => TargetError::io(&or_root(path), source),
        error => TargetError::Io { path: proc_path(pid, ""), source: std::io::Error::other(error) },
    }
}

/// An error of following a link below `/proc/PID`: missing means that the process is.
fn link_error(pid: u32, path: &Path, error: std::io::Error) -> TargetError {
    match TargetError::io(path, error) {
        TargetError::NoSuchFile { .. } => TargetError::NoSuchProcess { pid },
        error => error,
    }
}

fn metadata(pid: u32, path: &Path) -> Result<std::fs::Metadata, TargetError> {
    std::fs::metadata(path).map_err(|error| link_error(pid, path, error))
}

fn without_deleted(path: &Path) -> PathBuf {
    match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => PathBuf::from(path),
        None => path.to_owned(),
    }
}

fn module(map: MemoryMap) -> Option<MappedModule> {
    let MMapPath::Path(path) = map.pathname else { return None };
    if !map.perms.contains(MMPermissions::EXECUTE) || map.inode == 0 {
        return None;
    }
    let (start, end) = map.address;
    Some(MappedModule { name: without_deleted(&path), start, end, inode: map.inode })
}

fn is_libssl(name: &Path) -> bool {
    name.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("libssl.so") || name.starts_with("libssl-"))
}

fn is_libc(name: &Path) -> bool {
    name.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
        name.starts_with("libc.so") || name.starts_with("libc-") || name.starts_with("ld-musl-")
    })
}

/// Opens the very file that is mapped; where that needs a capability we lack
/// (`CAP_CHECKPOINT_RESTORE`), the file now at its path, if it is the same one.
fn open_module(pid: u32, module: &MappedModule) -> Result<Image, TargetError> {
    let MappedModule { name, start, end, inode } = module;
    let exact = proc_path(pid, &format!("map_files/{start:x}-{end:x}"));
    match Image::open(&exact, name) {
        Err(TargetError::NotPermitted { .. }) => {}
        result => return result,
    }
    let relative = name.strip_prefix("/").unwrap_or(name);
    let by_path = proc_path(pid, "root").join(relative);
    match metadata(pid, &by_path) {
        Ok(metadata) if metadata.ino() == *inode => Image::open(&by_path, name),
        _ => Err(TargetError::NotPermitted { path: exact }),
    }
}
