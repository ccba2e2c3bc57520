//! Records that the programs write to the ring buffer, in the order in which they happened.
//!
//! The ring buffer hands out space under one lock, so the order of records is a total order that
//! agrees with causality between threads. Every record starts with a [`Header`]; its `kind` says
//! which struct it is. Identity is decided in the kernel, where nothing can be missed in between:
//! a span's `id` is unique for the life of the trace and is never reused.

/// The kinds of record. The numbers are part of the recording format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`SpanStart`]: a coroutine is polled for the first time, or a plain function is called.
    SpanStart = 1,
    /// [`SpanEnd`]: it returned, panicked or was dropped.
    SpanEnd = 2,
    /// [`TaskEnd`]: a task's future is gone while spans begun in that task were still open.
    TaskEnd = 3,
    /// [`LeafStart`]: a statement or a request begins.
    LeafStart = 4,
    /// [`LeafLink`]: the future on whose behalf an earlier leaf runs is now known.
    LeafLink = 5,
    /// [`LeafEnd`]: a statement or a request ended.
    LeafEnd = 6,
    /// [`Payload`]: bytes that belong to a leaf.
    Payload = 7,
    /// [`Argument`]: a short value of a span.
    Argument = 16,
    /// [`LongArgument`]: a longer one.
    LongArgument = 17,
    /// [`ProcessExec`]: a child process has executed a program.
    ProcessExec = 20,
}

impl Kind {
    /// The kind with this number, if there is one.
    pub const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::SpanStart,
            2 => Self::SpanEnd,
            3 => Self::TaskEnd,
            4 => Self::LeafStart,
            5 => Self::LeafLink,
            6 => Self::LeafEnd,
            7 => Self::Payload,
            16 => Self::Argument,
            17 => Self::LongArgument,
            20 => Self::ProcessExec,
            _ => return None,
        })
    }
}

/// How a span's or a leaf's parent was found ([`SpanStart::source`], [`LeafStart::source`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ParentSource {
    /// There is none, and that is certain: nothing probed encloses it.
    Root = 0,
    /// The nearest enclosing probed frame on this thread.
    Frame = 1,
    /// The span that was current where the task was spawned.
    Spawn = 2,
    /// Not known: the thread or the task was already under way when tracing began, or the shadow
    /// stack was cut. Never guessed.
    Unknown = 3,
    /// There is one, but its own start was lost.
    Lost = 4,
    /// A proven link from a helper task or thread (SQLite worker, HTTP connection task).
    Link = 5,
}

impl ParentSource {
    /// The source with this number, if there is one.
    pub const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::Root,
            1 => Self::Frame,
            2 => Self::Spawn,
            3 => Self::Unknown,
            4 => Self::Lost,
            5 => Self::Link,
            _ => return None,
        })
    }
}

/// How a span ended ([`SpanEnd::how`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EndHow {
    /// The poll returned `Ready` (state byte 1), or the plain function returned.
    Returned = 1,
    /// A panic left it (state byte 2, or its frame was unwound).
    Panicked = 2,
    /// Its drop glue ran while it was suspended.
    Dropped = 3,
    /// Its frame disappeared without an exit being seen and without a panic: ended, unknown how.
    Vanished = 4,
}

impl EndHow {
    /// The ending with this number, if there is one.
    pub const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Returned,
            2 => Self::Panicked,
            3 => Self::Dropped,
            4 => Self::Vanished,
            _ => return None,
        })
    }
}

/// What kind of leaf ([`LeafStart::leaf`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LeafKind {
    /// One execution of one SQLite statement.
    Statement = 1,
    /// One HTTP request written to a TLS connection.
    TlsRequest = 2,
    /// One HTTP request written to a socket.
    ClientRequest = 10,
    /// One HTTP request read from a connection and answered there.
    ServedRequest = 11,
    /// A child process.
    Process = 16,
}

impl LeafKind {
    /// The leaf kind with this number, if there is one.
    pub const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Statement,
            2 => Self::TlsRequest,
            10 => Self::ClientRequest,
            11 => Self::ServedRequest,
            16 => Self::Process,
            _ => return None,
        })
    }
}

/// What a [`Payload`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PayloadKind {
    /// The beginning of a statement's SQL text.
    SqlText = 1,
    /// Bytes of a request, on its way to or from the connection.
    Request = 2,
    /// Bytes of the response to it.
    Response = 3,
}

impl PayloadKind {
    /// The payload kind with this number, if there is one.
    pub const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::SqlText,
            2 => Self::Request,
            3 => Self::Response,
            _ => return None,
        })
    }
}

/// Flags of a [`Header`].
pub mod flags {
    /// First seen suspended: the true start lies before the beginning of the trace.
    pub const LATE: u8 = 1 << 0;
    /// [`super::SpanEnd`]: found afterwards, when a later event showed that the frame was gone.
    /// `ts` is then an upper bound.
    pub const HEALED: u8 = 1 << 1;
    /// [`super::Payload`]: there was more than was captured.
    pub const TRUNCATED: u8 = 1 << 2;
}

/// What every record begins with. 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`Kind`] as a number.
    pub kind: u8,
    /// Bits of [`flags`].
    pub flags: u8,
    /// Index of the function in the plan; 0 where none applies.
    pub fn_id: u16,
    /// Thread id in the target's own pid namespace.
    pub tid: u32,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ts: u64,
    /// The span's or leaf's unique id (never 0); for [`TaskEnd`] the task's `Header` address.
    pub id: u64,
}

/// A coroutine's first poll, or the call of a plain function. 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SpanStart {
    /// Kind [`Kind::SpanStart`].
    pub header: Header,
    /// Id of the parent span; 0 unless `source` is `Frame`, `Spawn`.
    pub parent: u64,
    /// Address of the coroutine; for a plain function the stack pointer at its entry.
    pub addr: u64,
    /// Low 48 bits: address of the tokio task's `Header`, 0 outside a task.
    /// Bits 48–55: [`ParentSource`].
    pub task_and_source: u64,
}

impl SpanStart {
    const TASK_BITS: u32 = 48;

    /// Packs `task` (a user-space address) and `source`.
    pub const fn pack(task: u64, source: ParentSource) -> u64 {
        (task & ((1 << Self::TASK_BITS) - 1)) | ((source as u64) << Self::TASK_BITS)
    }

    /// Address of the task's `Header`, 0 outside a task.
    pub const fn task(&self) -> u64 {
        self.task_and_source & ((1 << Self::TASK_BITS) - 1)
    }

    /// How the parent was found; `None` if the record is malformed.
    pub const fn source(&self) -> Option<ParentSource> {
        ParentSource::from_u8((self.task_and_source >> Self::TASK_BITS) as u8)
    }
}

/// The end of a span. 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SpanEnd {
    /// Kind [`Kind::SpanEnd`].
    pub header: Header,
    /// Nanoseconds between poll entries and exits, summed up.
    pub busy_ns: u64,
    /// How often it was polled; 0 when not known (late attach).
    pub polls: u32,
    /// [`EndHow`] as a number.
    pub how: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// A task's future is gone. `header.id` is the task's `Header` address. 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TaskEnd {
    /// Kind [`Kind::TaskEnd`].
    pub header: Header,
}

/// A statement's first step, or the first byte of a request. 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LeafStart {
    /// Kind [`Kind::LeafStart`].
    pub header: Header,
    /// Id of the span that asked; 0 if not (yet) known.
    pub parent: u64,
    /// `sqlite3_stmt *`, `SSL *`, a socket's descriptor, or a process id in the target's pid
    /// namespace.
    pub key: u64,
    /// [`LeafKind`] as a number.
    pub leaf: u8,
    /// [`ParentSource`] as a number. A statement on a worker thread starts as `Unknown` and is
    /// completed by a [`LeafLink`].
    pub source: u8,
    /// [`LeafKind::ServedRequest`]: address of the `Header` of the task that reads it, little
    /// endian; 0 outside a task.
    pub task: [u8; 6],
}

/// The asking span of leaf `header.id`. 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LeafLink {
    /// Kind [`Kind::LeafLink`].
    pub header: Header,
    /// Id of the span that asked; 0: asked outside any probed span.
    pub parent: u64,
}

/// The end of a leaf. 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LeafEnd {
    /// Kind [`Kind::LeafEnd`].
    pub header: Header,
    /// When its last activity ended (`CLOCK_MONOTONIC`, ns); `header.ts` is when that was known.
    pub end: u64,
    /// Rows returned, or bytes read; [`Self::UNKNOWN`] where not every result was seen.
    pub count: u32,
    /// SQLite's last result code, as the library returned it, or a process's status as `wait`
    /// returns it; -1 where it is not known.
    pub status: i32,
}

impl LeafEnd {
    /// [`Self::count`]: not known.
    pub const UNKNOWN: u32 = u32::MAX;
}

/// Bytes captured for leaf `header.id`: this head, then `captured` bytes. What a record holds
/// beyond these is zero. 56 bytes.
///
/// The records of a request, and those of a response, lie one behind the other: one that begins
/// at `offset` stands for the `len` bytes from there on, of which the first `captured` are in it.
/// The next one's `offset` is greater than the end of this one if bytes in between were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PayloadHead {
    /// Kind [`Kind::Payload`].
    pub header: Header,
    /// `sqlite3_stmt *`, `SSL *` or a socket's descriptor.
    pub key: u64,
    /// Bytes of the request or response before these.
    pub offset: u64,
    /// How many bytes there were.
    pub len: u32,
    /// How many of them follow, from the beginning.
    pub captured: u16,
    /// [`PayloadKind`] as a number.
    pub what: u8,
    /// Zero.
    pub reserved: u8,
    /// The last bytes, right-aligned, where `len` > `captured`; else zero.
    pub tail: [u8; 8],
}

impl PayloadHead {
    /// Most bytes captured by one record.
    pub const MOST: usize = 4096;
}

/// A [`PayloadHead`] with its bytes, of fixed size, for what is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Payload {
    /// Kind [`Kind::Payload`].
    pub header: Header,
    /// As in [`PayloadHead`].
    pub key: u64,
    /// As in [`PayloadHead`].
    pub offset: u64,
    /// As in [`PayloadHead`].
    pub len: u32,
    /// As in [`PayloadHead`].
    pub captured: u16,
    /// As in [`PayloadHead`].
    pub what: u8,
    /// Zero.
    pub reserved: u8,
    /// As in [`PayloadHead`].
    pub tail: [u8; 8],
    /// The first `captured` bytes; the rest is zero.
    pub bytes: [u8; Payload::CAPACITY],
}

impl Payload {
    /// Most bytes captured by one record of this size.
    pub const CAPACITY: usize = 512;
}

const _: () = assert!(core::mem::offset_of!(Payload, tail) == 48);
const _: () = assert!(core::mem::offset_of!(Payload, bytes) == size_of::<PayloadHead>());
/// A value fetched for span `header.id`, as its plan asks: what it captured, or how it ended. It
/// may come before the span's start. 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Argument {
    /// Kind [`Kind::Argument`].
    pub header: Header,
    /// How many bytes there were.
    pub len: u32,
    /// How many of them are in `bytes`, from the beginning.
    pub captured: u16,
    /// Which of the function's fetches ([`crate::access::Fetch::slot`]).
    pub slot: u8,
    /// Zero.
    pub reserved: u8,
    /// The first `captured` bytes; the rest is zero.
    pub bytes: [u8; Argument::CAPACITY],
}

impl Argument {
    /// Most bytes in one record.
    pub const CAPACITY: usize = 32;
}

/// Like [`Argument`], for what does not fit there. 288 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LongArgument {
    /// Kind [`Kind::LongArgument`].
    pub header: Header,
    /// How many bytes there were.
    pub len: u32,
    /// How many of them are in `bytes`, from the beginning.
    pub captured: u16,
    /// Which of the function's fetches ([`crate::access::Fetch::slot`]).
    pub slot: u8,
    /// Zero.
    pub reserved: u8,
    /// The first `captured` bytes; the rest is zero.
    pub bytes: [u8; LongArgument::CAPACITY],
}

impl LongArgument {
    /// Most bytes in one record.
    pub const CAPACITY: usize = 256;
}

/// The child process `header.id` has executed a program. 88 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessExec {
    /// Kind [`Kind::ProcessExec`].
    pub header: Header,
    /// The file's name without its folder, up to the first zero; cut off without one.
    pub name: [u8; ProcessExec::CAPACITY],
}

impl ProcessExec {
    /// Most bytes of a name.
    pub const CAPACITY: usize = 64;
}

/// Marks structs whose every bit pattern is valid and that have no padding.
///
/// # Safety
/// Implementors are `repr(C)`, of integers and arrays of integers only, without padding.
pub unsafe trait Wire: Copy + 'static {
    /// The bytes of the record.
    fn as_bytes(&self) -> &[u8] {
        let at = core::ptr::from_ref(self).cast::<u8>();
        // SAFETY: the implementor has no padding, so all its bytes are initialised.
        unsafe { core::slice::from_raw_parts(at, size_of::<Self>()) }
    }

    /// Reads a record from the front of `bytes`; `None` when they are too few.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: long enough, every bit pattern is valid, and the read need not be aligned.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

macro_rules! wire {
    ($($name:ident = $size:expr),* $(,)?) => {$(
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: `repr(C)`, integers only; the size asserted above leaves no room for padding.
        unsafe impl Wire for $name {}
    )*};
}

wire! {
    Header = 24,
    SpanStart = 48,
    SpanEnd = 40,
    TaskEnd = 24,
    LeafStart = 48,
    LeafLink = 32,
    LeafEnd = 40,
    PayloadHead = 56,
    Payload = 56 + Payload::CAPACITY,
    Argument = 32 + Argument::CAPACITY,
    LongArgument = 32 + LongArgument::CAPACITY,
    ProcessExec = 24 + ProcessExec::CAPACITY,
}
