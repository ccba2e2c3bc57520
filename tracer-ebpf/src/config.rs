//! Settings and tables that user space fills before the first probe is switched on.

/// Functions a plan can hold; also the size of the function table.
pub const MAX_FUNCTIONS: u32 = 4096;

/// Depth of the shadow stack that each thread has. Deeper frames are counted, not kept.
pub const MAX_DEPTH: usize = 64;

/// One session's settings: the only entry of the map `CONFIG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Device of the target's pid namespace (`st_dev` of `/proc/PID/ns/pid`, kernel encoding).
    pub ns_dev: u64,
    /// Inode of the target's pid namespace.
    pub ns_ino: u64,
    /// Process id in that namespace. Hits of other processes are counted and dropped.
    pub tgid: u32,
    /// 0 until every probe is in place: before that, enclosing frames could be missed.
    pub active: u32,
    /// Offset of the SQL text pointer in `sqlite3_stmt`, decoded from `sqlite3_sql`; 0: unknown.
    pub sql_text_offset: u32,
    /// Capture payloads: bit 0 SQL text, bit 1 TLS.
    pub capture: u32,
}

impl Config {
    /// [`Self::capture`]: SQL text.
    pub const CAPTURE_SQL: u32 = 1 << 0;
    /// [`Self::capture`]: TLS plaintext.
    pub const CAPTURE_TLS: u32 = 1 << 1;
}

/// Where fields lie in the running kernel's structs, from its BTF: the only entry of the map
/// `KERNEL`. Bytes from the struct's beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KernelOffsets {
    /// `task_struct.pid`.
    pub task_pid: u32,
    /// `task_struct.tgid`.
    pub task_tgid: u32,
    /// `task_struct.thread_pid`.
    pub task_thread_pid: u32,
    /// `task_struct.signal`.
    pub task_signal: u32,
    /// `task_struct.exit_code`.
    pub task_exit_code: u32,
    /// `task_struct.mm`.
    pub task_mm: u32,
    /// `pid.level`.
    pub pid_level: u32,
    /// `pid.numbers`.
    pub pid_numbers: u32,
    /// Size of `upid`, which begins with the number.
    pub upid_size: u32,
    /// `signal_struct.live`.
    pub signal_live: u32,
    /// `signal_struct.group_exit_code`.
    pub signal_group_exit_code: u32,
    /// `mm_struct.exe_file`.
    pub mm_exe_file: u32,
    /// `file.f_path.dentry`.
    pub file_dentry: u32,
    /// `dentry.d_name.name`.
    pub dentry_name: u32,
}

/// In which register a poll function receives the coroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SelfReg {
    /// First integer argument: the result is returned in registers.
    Rdi = 0,
    /// Second integer argument: the result is returned through memory at `rdi`.
    Rsi = 1,
}

/// What the programs know of one function: an entry of the map `FUNCTIONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FnConfig {
    /// Offset of the state in the coroutine.
    pub state_offset: u32,
    /// Width of the state in bytes: 1, 2 or 4. 0: a plain function.
    pub state_width: u8,
    /// [`SelfReg`] as a number.
    pub self_reg: u8,
    /// What to fetch when it begins and ends: the first of a chain of [`crate::access::Fetch`],
    /// from 1. 0: nothing.
    pub fetch: u16,
}

/// A coroutine's states, as rustc numbers them.
pub mod state {
    /// Created, never polled.
    pub const UNRESUMED: u32 = 0;
    /// Returned.
    pub const RETURNED: u32 = 1;
    /// A panic left it.
    pub const PANICKED: u32 = 2;
    /// The first of the suspension points.
    pub const SUSPENDED: u32 = 3;
}
