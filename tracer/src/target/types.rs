//! What inspection finds out, as plain data for the plan.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The target's pid namespace and its id in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidNamespace {
    /// `st_dev` of `/proc/PID/ns/pid`.
    pub dev: u64,
    /// `st_ino` of `/proc/PID/ns/pid`.
    pub ino: u64,
    /// The process's id inside it (last entry of `NSpid`).
    pub pid: u32,
}

/// What one hit on a site costs the target (see `docs/internals.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// The kernel emulates the instruction: well under a microsecond.
    Emulated,
    /// The kernel single-steps it: about 1 µs on bare metal, 10 µs in a virtual machine.
    SingleStepped,
}

/// One instruction that a probe can sit on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Virtual address in the image.
    pub addr: u64,
    /// Offset in the file: what a uprobe wants.
    pub offset: u64,
    /// The instruction's bytes, compared with the mapped file before attaching.
    pub bytes: Vec<u8>,
    /// What a hit costs.
    pub cost: Cost,
}

/// Where a function's exit is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitSite {
    /// The instruction.
    pub site: Site,
    /// It is a `ret` or tail `jmp` of the function itself (stack pointer as at entry) instead of
    /// an instruction behind a caller's `call` (stack pointer 8 above).
    pub at_ret: bool,
    /// The integer result is still where the function left it.
    pub has_result: bool,
}

/// A function by symbol. Several symbols of one mangled name are one `Function` with several
/// addresses: two codegen units may each hold a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Demangled, without hash: `path::foo::{{closure}}` (v0's `{closure#0}` is written the same
    /// way).
    pub name: Arc<str>,
    /// As it stands in the symbol table.
    pub symbol: Arc<str>,
    /// Address and size of every copy.
    pub copies: Vec<(u64, u64)>,
}

/// In which register a poll function receives the coroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelfRegister {
    /// The result is returned in registers.
    Rdi,
    /// The result is returned through memory at `rdi`.
    Rsi,
}

/// Where a coroutine keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateByte {
    /// Offset in the coroutine.
    pub offset: u32,
    /// Width in bytes: 1, 2 or 4.
    pub width: u8,
    /// In which register the coroutine is passed.
    pub self_register: SelfRegister,
}

/// A poll function that survives as a function of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coroutine {
    /// Its symbol.
    pub function: Function,
    /// Where its state is.
    pub state: StateByte,
    /// Bytes from the coroutine's address that the code is seen to touch: its size is at least
    /// this. From DWARF, exact.
    pub size_at_least: u32,
    /// `size_at_least` is the exact size.
    pub size_exact: bool,
    /// Entry of every copy.
    pub entries: Vec<Site>,
    /// Every way out; empty when none could be found.
    pub exits: Vec<ExitSite>,
    /// Entries of its drop glue, where that is a function used for no other type.
    pub drops: Vec<Site>,
    /// Source position of the body, from the `Location` of its resumed-after-completion panic.
    pub location: Option<SourceLocation>,
}

/// A plain (not async) function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainFunction {
    /// Its symbol.
    pub function: Function,
    /// Entry of every copy.
    pub entries: Vec<Site>,
    /// Every way out; empty when none could be found.
    pub exits: Vec<ExitSite>,
}

/// A place in the source, as `core::panic::Location` holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceLocation {
    /// File, as the compiler was given it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

/// An async body that the compiler inlined into another function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlinedBody {
    /// Where it is written.
    pub location: SourceLocation,
    /// Demangled name of the function it was inlined into.
    pub inside: Arc<str>,
}

/// The functions of tokio and of the libraries whose helper tasks and threads are followed:
/// each is a list because generic functions have several instances. Empty: not in the binary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landmarks {
    /// Version of tokio, from the paths of its panics' locations (`…/tokio-1.54.0/src/…`).
    pub tokio_version: Option<String>,
    /// `tokio::runtime::task::raw::poll<T,S>`: entries.
    pub task_poll: Vec<Site>,
    /// Exits of `raw::poll`: behind the few callers' indirect calls.
    pub task_poll_exits: Vec<ExitSite>,
    /// `OwnedTasks<S>::bind_inner`: rsi = new `Header`.
    pub task_bind: Vec<Site>,
    /// `blocking::pool::Spawner::spawn_task`: rsi = `Header`.
    pub blocking_spawn: Vec<Site>,
    /// `tokio::task::local::spawn_local` and the like.
    pub local_spawn: Vec<Site>,
    /// `tokio::task::local::Shared::schedule`: rsi = `Header`.
    pub local_schedule: Vec<Site>,
    /// `raw::dealloc<T,S>` and `drop_in_place<Cell<T,S>>`: rdi = `Header`. The last reference may
    /// be dropped by a direct call of the latter, past the vtable.
    pub task_dealloc: Vec<Site>,
    /// `raw::shutdown<T,S>`: rdi = `Header`.
    pub task_shutdown: Vec<Site>,
    /// `waker::wake_by_val`, `wake_by_ref`: rdi = `Header`.
    pub wake: Vec<Site>,
    /// `rust_panic` (or what else every panic passes through).
    pub panic: Vec<Site>,
    /// `std::panicking::catch_unwind::cleanup` (`…::r#try::cleanup` before 1.92 or so).
    pub panic_caught: Vec<Site>,
    /// `hyper::client::conn::SendRequest<B>::send_request_retryable` (hyper 0.14).
    pub http_send: Vec<Site>,
    /// `flume::Sender<T>::send`: rsi → `&Sender`, `*rsi` = the channel.
    pub channel_send: Vec<Site>,
    /// `flume::Shared<T>::recv`: rsi = the channel + 16.
    pub channel_recv: Vec<Site>,
    /// `flume::async::RecvFut<T>::reset_hook`: rdi = the future.
    pub channel_done: Vec<Site>,
    /// `flume::Shared<T>::disconnect_all`: rdi = the channel + 16.
    pub channel_close: Vec<Site>,
    /// `futures_channel::oneshot::channel`: its `ret`s, where rax = rdx = the channel.
    pub reply_made: Vec<ExitSite>,
    /// `futures_channel::oneshot::Sender<T>::send`: rdi or rsi = the channel.
    pub reply_sent: Vec<Site>,
    /// `sqlite3_step`: entry.
    pub sql_step: Vec<Site>,
    /// `sqlite3_step`: exits.
    pub sql_step_exits: Vec<ExitSite>,
    /// `sqlite3_reset`.
    pub sql_reset: Vec<Site>,
    /// `sqlite3_finalize`, and `sqlite3VdbeDelete`, by which SQLite frees its own statements.
    pub sql_finalize: Vec<Site>,
    /// Offset of the text in `sqlite3_stmt`, decoded from `sqlite3_sql`.
    pub sql_text_offset: Option<u32>,
}

/// OpenSSL's functions in a library or in the executable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsLandmarks {
    /// `SSL_write` (arg 0) and `SSL_write_ex` (arg 1): entries, with which of the two.
    pub write: Vec<(Site, bool)>,
    /// `SSL_read` and `SSL_read_ex`: entries, with whether it is the `_ex` form.
    pub read: Vec<(Site, bool)>,
    /// Exits of `SSL_write` and `SSL_write_ex`, with whether it is the `_ex` form.
    pub write_exits: Vec<(ExitSite, bool)>,
    /// Exits of `SSL_read` and `SSL_read_ex`, with whether it is the `_ex` form.
    pub read_exits: Vec<(ExitSite, bool)>,
    /// `SSL_free`.
    pub free: Vec<Site>,
}

/// libc's functions on sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketLandmarks {
    /// Behind the system calls of `send` and `sendto`, and of `writev` (`true`): descriptor,
    /// buffer and result are all in their registers.
    pub sent: Vec<(Site, bool)>,
    /// The same for `recv` and `recvfrom`, and for `readv`.
    pub received: Vec<(Site, bool)>,
    /// `close`: entries.
    pub close: Vec<Site>,
}

/// One ELF file of the target, to be probed through `path`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleInfo {
    /// Opens the very file that is mapped, also when it was deleted or replaced:
    /// `/proc/PID/exe`, `/proc/PID/map_files/…`, or a plain file.
    pub path: PathBuf,
    /// The path as the target sees it.
    pub name: PathBuf,
    /// GNU build-id, lower-case hex.
    pub build_id: Option<String>,
}
