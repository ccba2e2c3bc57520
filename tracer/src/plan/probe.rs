//! A plan: probes as data, and the tables that the programs need.

use serde::{Deserialize, Serialize};
use tracer_ebpf::config::FnConfig;
use tracer_ebpf::cookie::Cookie;

use super::{Coverage, FunctionMeta};
use crate::target::{Cost, ModuleInfo};

macro_rules! programs {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// The eBPF program that a probe runs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Program { $($(#[$doc])* $variant),* }

        impl Program {
            /// Every program.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name in the eBPF object.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

programs! {
    /// Entry of a coroutine's poll function.
    PollEnter = "poll_enter",
    /// Where a poll function has just returned.
    PollExit = "poll_exit",
    /// Entry of a coroutine's drop glue.
    FutureDrop = "future_drop",
    /// Entry of a plain function.
    CallEnter = "call_enter",
    /// Where a plain function has just returned.
    CallExit = "call_exit",
    /// A panic begins to unwind.
    PanicBegin = "panic_begin",
    /// A panic has been caught.
    PanicCaught = "panic_caught",
    /// Entry of tokio's `raw::poll`.
    TaskEnter = "task_enter",
    /// Where `raw::poll` has just returned.
    TaskExit = "task_exit",
    /// A task is being spawned.
    TaskSpawn = "task_spawn",
    /// Entry of `spawn_local`.
    LocalSpawn = "local_spawn",
    /// A task of a `LocalSet` is scheduled.
    LocalSchedule = "local_schedule",
    /// Entry of tokio's `raw::dealloc`.
    TaskFree = "task_free",
    /// Entry of tokio's `raw::shutdown`.
    TaskShutdown = "task_shutdown",
    /// A task is woken.
    TaskWake = "task_wake",
    /// A request is handed to an HTTP connection task.
    HttpSend = "http_send",
    /// Entry of `SSL_write`, `SSL_write_ex`.
    TlsWrite = "tls_write",
    /// Entry of `SSL_read`, `SSL_read_ex`.
    TlsRead = "tls_read",
    /// Where `SSL_read`, `SSL_read_ex` have just returned.
    TlsReadExit = "tls_read_exit",
    /// Entry of `SSL_free`.
    TlsFree = "tls_free",
    /// Entry of `sqlite3_step`.
    SqlStep = "sql_step",
    /// Where `sqlite3_step` has just returned.
    SqlStepExit = "sql_step_exit",
    /// Entry of `sqlite3_reset`, `sqlite3_finalize`, `sqlite3VdbeDelete`.
    SqlReset = "sql_reset",
    /// A result is sent by a SQLite worker.
    ChannelSend = "channel_send",
    /// A result is asked for.
    ChannelRecv = "channel_recv",
    /// A receive is over.
    ChannelDone = "channel_done",
    /// A channel's last sender or receiver is gone.
    ChannelClose = "channel_close",
    /// A oneshot channel has been made.
    ReplyMade = "reply_made",
    /// An answer is sent through a oneshot channel.
    ReplySent = "reply_sent",
}

impl Program {
    /// It makes spans by itself, without a function of the profile.
    pub const fn is_leaf(self) -> bool {
        matches!(self, Self::SqlStep | Self::TlsWrite)
    }
}

/// One probe: where, what runs, and what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Index into [`ProbePlan::modules`].
    pub module: usize,
    /// Offset in the module's file.
    pub offset: u64,
    /// The instruction expected there.
    pub bytes: Vec<u8>,
    /// What runs.
    pub program: Program,
    /// What it is told.
    pub cookie: Cookie,
    /// What a hit costs the target.
    pub cost: Cost,
}

/// Everything that attaching needs.
#[derive(Clone, Debug)]
pub struct ProbePlan {
    /// Files to probe.
    pub modules: Vec<ModuleInfo>,
    /// The probes, in no particular order.
    pub probes: Vec<Probe>,
    /// Traced functions, ordered by id from 1.
    pub functions: Vec<FunctionMeta>,
    /// Entry of the function table for each of [`Self::functions`].
    pub configs: Vec<FnConfig>,
    /// File ranges of the traced functions' code in the first module.
    pub code: Vec<(u64, u64)>,
    /// Offset of the SQL text in `sqlite3_stmt`.
    pub sql_text_offset: Option<u32>,
    /// What is covered, what is not, and why.
    pub coverage: Coverage,
}
