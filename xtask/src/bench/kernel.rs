//! What the kernel knows of eBPF programs and links, and making them without any library: the
//! floor is to have nothing in it that could be left out.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Commands of `bpf(2)`, `include/uapi/linux/bpf.h`.
mod command {
    pub const MAP_CREATE: i64 = 0;
    pub const PROG_LOAD: i64 = 5;
    pub const PROG_GET_NEXT_ID: i64 = 11;
    pub const PROG_GET_FD_BY_ID: i64 = 13;
    pub const OBJ_GET_INFO_BY_FD: i64 = 15;
    pub const LINK_CREATE: i64 = 28;
    pub const LINK_GET_FD_BY_ID: i64 = 30;
    pub const LINK_GET_NEXT_ID: i64 = 31;
    pub const ENABLE_STATS: i64 = 32;
}

const MAP_TYPE_RINGBUF: u32 = 27;
const PROG_TYPE_KPROBE: u32 = 2;
const TRACE_UPROBE_MULTI: u32 = 48;
const LINK_TYPE_UPROBE_MULTI: u32 = 12;

/// Runs a command on a `union bpf_attr`, given as 32-bit words.
fn bpf(command: i64, attr: &mut [u32]) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes no more than the size given, which is the slice's; what
    // the attributes point to is valid for as long as the call lasts.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd as RawFd) }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just handed us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// An address or another 64-bit number as two words.
const fn wide(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// A ring buffer.
pub fn create_ring(bytes: u32) -> io::Result<OwnedFd> {
    bpf(command::MAP_CREATE, &mut [MAP_TYPE_RINGBUF, 0, 0, bytes, 0]).map(owned)
}

/// A program for `uprobe_multi` links.
pub fn load_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut attr = [0_u32; 32];
    attr[0] = PROG_TYPE_KPROBE;
    attr[1] = instructions.len() as u32;
    attr[2..4].copy_from_slice(&wide(instructions.as_ptr() as u64));
    attr[4..6].copy_from_slice(&wide(license.as_ptr() as u64));
    // prog_name at 48, expected_attach_type at 68.
    attr[12] = u32::from_le_bytes(*b"floo");
    attr[13] = u32::from_le_bytes(*b"r\0\0\0");
    attr[17] = TRACE_UPROBE_MULTI;
    bpf(command::PROG_LOAD, &mut attr).map(owned)
}

/// One link for all of `offsets` in the file `path`, for the process `pid`.
pub fn link(program: &OwnedFd, path: &Path, offsets: &[u64], pid: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = [0_u32; 16];
    attr[0] = program.as_raw_fd() as u32;
    attr[2] = TRACE_UPROBE_MULTI;
    attr[4..6].copy_from_slice(&wide(path.as_ptr() as u64));
    attr[6..8].copy_from_slice(&wide(offsets.as_ptr() as u64));
    attr[12] = offsets.len() as u32;
    attr[14] = pid;
    bpf(command::LINK_CREATE, &mut attr).map(owned)
}

/// Makes the kernel count the time of each program, for as long as this is held.
pub fn enable_stats() -> io::Result<OwnedFd> {
    bpf(command::ENABLE_STATS, &mut [0]).map(owned)
}

/// Every id of a kind.
fn ids(next: i64) -> io::Result<Vec<u32>> {
    let mut all = vec![];
    let mut attr = [0, 0, 0];
    loop {
        match bpf(next, &mut attr) {
            Ok(_) => {
                all.push(attr[1]);
                attr[0] = attr[1];
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            Err(error) => return Err(error),
        }
    }
}

/// Fills `info`; what has gone meanwhile is `None`.
fn info(by_id: i64, id: u32, info: &mut [u64]) -> io::Result<Option<()>> {
    let fd = match bpf(by_id, &mut [id, 0, 0]) {
        Ok(fd) => owned(fd),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut attr = [fd.as_raw_fd() as u32, size_of_val(info) as u32, 0, 0];
    attr[2..4].copy_from_slice(&wide(info.as_mut_ptr() as u64));
    bpf(command::OBJ_GET_INFO_BY_FD, &mut attr).map(|_| Some(()))
}

/// A loaded program.
#[derive(Clone, Debug)]
pub struct ProgramInfo {
    /// Nanoseconds it has run, while that was counted.
    pub run_ns: u64,
    /// How often, likewise.
    pub runs: u64,
}

/// Every program of the machine.
///
/// # Errors
/// The kernel does not say.
pub fn programs() -> Result<Vec<ProgramInfo>> {
    let mut all = vec![];
    for id in ids(command::PROG_GET_NEXT_ID).context("eBPF programs")? {
        // struct bpf_prog_info: run_time_ns at 192, run_cnt at 200.
        let mut words = [0_u64; 32];
        if info(command::PROG_GET_FD_BY_ID, id, &mut words)?.is_some() {
            all.push(ProgramInfo { run_ns: words[24], runs: words[25] });
        }
    }
    Ok(all)
}

/// Where a link's probes are.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    /// The file.
    pub path: PathBuf,
    /// Offsets in it.
    pub offsets: Vec<u64>,
}

/// Every `uprobe_multi` link of the machine.
///
/// # Errors
/// The kernel does not say.
pub fn links() -> Result<Vec<LinkInfo>> {
    let mut all = vec![];
    for id in ids(command::LINK_GET_NEXT_ID).context("eBPF links")? {
        // struct bpf_link_info: type, id, prog_id, then from 16 on path, offsets,
        // ref_ctr_offsets, cookies, path_size, count, flags, pid.
        let mut words = [0_u64; 16];
        if info(command::LINK_GET_FD_BY_ID, id, &mut words)?.is_none()
            || words[0] as u32 != LINK_TYPE_UPROBE_MULTI
        {
            continue;
        }
        let count = (words[6] >> 32) as usize;
        let mut path = vec![0_u8; 4096];
        let mut offsets = vec![0_u64; count];
        words = [0; 16];
        words[2] = path.as_mut_ptr() as u64;
        words[3] = offsets.as_mut_ptr() as u64;
        words[6] = path.len() as u64 | (count as u64) << 32;
        if info(command::LINK_GET_FD_BY_ID, id, &mut words)?.is_none() {
            continue;
        }
        path.truncate(path.iter().position(|&byte| byte == 0).unwrap_or(0));
        all.push(LinkInfo {
            path: PathBuf::from(String::from_utf8_lossy(&path).into_owned()),
            offsets,
        });
    }
    Ok(all)
}
