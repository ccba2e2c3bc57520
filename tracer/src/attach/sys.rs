//! The bpf(2) calls that aya 0.14 does not make: `uprobe_multi` programs and links (kernel 6.6+).
//! To be deleted on the day an aya with `uprobe.multi` builds on this Rust.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::Function;
use aya_obj::generated::{
    bpf_attach_type::BPF_TRACE_UPROBE_MULTI, bpf_attr, bpf_cmd, bpf_map_type::BPF_MAP_TYPE_ARRAY,
    bpf_prog_type::BPF_PROG_TYPE_KPROBE,
};

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: `attr` is a whole, initialised union of the size given; the kernel copies it.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, &raw mut *attr, size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

/// A command that makes something.
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the kernel has just handed us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn empty_attr() -> bpf_attr {
    // SAFETY: a union of plain integers, for which zero is the documented default.
    unsafe { std::mem::zeroed() }
}

/// Loads type information, which tells the verifier what the programs' functions take.
pub(super) fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    // SAFETY: writing the member of the union that `BPF_BTF_LOAD` reads.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = bytes.as_ptr() as u64;
    load.btf_size = bytes.len() as u32;
    bpf(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// Loads a kprobe-type program for `uprobe_multi` links. With `btf` its global functions are
/// verified once each. On refusal, the end of the verifier's log comes along.
pub(super) fn load_program(
    name: &str,
    function: &Function,
    license: &std::ffi::CStr,
    btf: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, (io::Error, String)> {
    let instructions = &function.instructions;
    let functions = function.func_info.func_info_bytes();
    let mut attr = empty_attr();
    // SAFETY: writing the member of the union that `BPF_PROG_LOAD` reads.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = BPF_PROG_TYPE_KPROBE as u32;
    load.expected_attach_type = BPF_TRACE_UPROBE_MULTI as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = instructions.len() as u32;
    load.license = license.as_ptr() as u64;
    if let Some(btf) = btf
        && function.func_info_rec_size != 0
    {
        load.prog_btf_fd = btf.as_raw_fd() as u32;
        load.func_info = functions.as_ptr() as u64;
        load.func_info_cnt = function.func_info.len() as u32;
        load.func_info_rec_size = function.func_info_rec_size as u32;
    }
    for (to, from) in load.prog_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let first = match bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
        Ok(fd) => return Ok(fd),
        Err(error) => error,
    };
    // Once more with a log: only a program that is refused pays for one.
    let mut log = vec![0_u8; 1 << 20];
    // SAFETY: as above.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = log.len() as u32;
    load.log_level = 1;
    match bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
        Ok(fd) => Ok(fd),
        Err(_) => {
            let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
            let text = String::from_utf8_lossy(&log[..end]);
            let tail: Vec<&str> = text.lines().rev().take(20).collect();
            Err((first, tail.into_iter().rev().collect::<Vec<_>>().join("\n")))
        }
    }
}

/// One link for all of `offsets`, each with its cookie, for the process `pid` only.
pub(super) fn link_uprobe_multi(
    program: RawFd,
    path: &Path,
    offsets: &[u64],
    cookies: &[u64],
    pid: u32,
) -> io::Result<OwnedFd> {
    assert_eq!(offsets.len(), cookies.len(), "one cookie per probe");
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = empty_attr();
    // SAFETY: writing the members of the union that `BPF_LINK_CREATE` reads.
    let create = unsafe { &mut attr.link_create };
    create.__bindgen_anon_1.prog_fd = program as u32;
    create.attach_type = BPF_TRACE_UPROBE_MULTI as u32;
    // SAFETY: as above.
    let multi = unsafe { &mut create.__bindgen_anon_3.uprobe_multi };
    multi.path = path.as_ptr() as u64;
    multi.offsets = offsets.as_ptr() as u64;
    multi.cookies = cookies.as_ptr() as u64;
    multi.cnt = offsets.len() as u32;
    multi.pid = pid;
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// A map of one 64-bit number, and a program for `uprobe_multi` links that adds one to it. Loads
/// in no time, other than the programs that trace.
pub(super) struct Tally {
    map: OwnedFd,
    /// The program.
    pub(super) program: OwnedFd,
}

impl Tally {
    /// Makes both.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn new() -> io::Result<Self> {
        let mut attr = empty_attr();
        // SAFETY: writing the member of the union that `BPF_MAP_CREATE` reads.
        let create = unsafe { &mut attr.__bindgen_anon_1 };
        create.map_type = BPF_MAP_TYPE_ARRAY as u32;
        create.key_size = 4;
        create.value_size = 8;
        create.max_entries = 1;
        let map = bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?;

        let instructions = tally(map.as_raw_fd());
        let mut attr = empty_attr();
        // SAFETY: writing the member of the union that `BPF_PROG_LOAD` reads.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = BPF_PROG_TYPE_KPROBE as u32;
        load.expected_attach_type = BPF_TRACE_UPROBE_MULTI as u32;
        load.insns = instructions.as_ptr() as u64;
        load.insn_cnt = instructions.len() as u32;
        load.license = c"Dual MIT/GPL".as_ptr() as u64;
        let program = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?;
        Ok(Self { map, program })
    }

    /// How often the program has run.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn count(&self) -> io::Result<u64> {
        let (key, mut value) = (0_u32, 0_u64);
        let mut attr = empty_attr();
        // SAFETY: writing the member of the union that `BPF_MAP_LOOKUP_ELEM` reads.
        let lookup = unsafe { &mut attr.__bindgen_anon_2 };
        lookup.map_fd = self.map.as_raw_fd() as u32;
        lookup.key = &raw const key as u64;
        lookup.__bindgen_anon_1.value = &raw mut value as u64;
        call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr)?;
        Ok(value)
    }
}

/// `value = lookup(map, 0); if (value) lock *value += 1; return 0`, as
/// `Documentation/bpf/standardization/instruction-set.rst` encodes it.
fn tally(map: RawFd) -> [u64; 11] {
    const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
        code as u64
            | (dst as u64) << 8
            | (src as u64) << 12
            | (off as u16 as u64) << 16
            | (imm as u32 as u64) << 32
    }
    const MAP_LOOKUP: i32 = 1;
    const PSEUDO_MAP_FD: u8 = 1;
    [
        insn(0x62, 10, 0, -4, 0),
        insn(0xbf, 2, 10, 0, 0),
        insn(0x07, 2, 0, 0, -4),
        insn(0x18, 1, PSEUDO_MAP_FD, 0, map),
        0,
        insn(0x85, 0, 0, 0, MAP_LOOKUP),
        insn(0x15, 0, 0, 2, 0),
        insn(0xb7, 1, 0, 0, 1),
        insn(0xdb, 0, 1, 0, 0),
        insn(0xb7, 0, 0, 0, 0),
        insn(0x95, 0, 0, 0, 0),
    ]
}
