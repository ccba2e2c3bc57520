//! What a probe is there for. One program serves them all: a link for each file of the target is
//! all there is to take away, which is what detaching costs.

macro_rules! hooks {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// What a probe is there for: bits 32–39 of its cookie.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Hook { $($(#[$doc])* $variant),* }

        impl Hook {
            /// All of them, in order of their number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name that users see.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

hooks! {
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
    /// Where `SSL_write`, `SSL_write_ex` have just returned.
    TlsWriteExit = "tls_write_exit",
    /// Entry of `SSL_read`, `SSL_read_ex`.
    TlsRead = "tls_read",
    /// Where `SSL_read`, `SSL_read_ex` have just returned.
    TlsReadExit = "tls_read_exit",
    /// Entry of `SSL_free`.
    TlsFree = "tls_free",
    /// Behind the system call of `send`, `sendto`, `writev`.
    SocketSent = "socket_sent",
    /// Behind the system call of `recv`, `recvfrom`, `readv`.
    SocketReceived = "socket_received",
    /// Entry of `close`.
    SocketClose = "socket_close",
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

impl Hook {
    /// It makes spans by itself, without a function of the profile.
    pub const fn is_leaf(self) -> bool {
        matches!(self, Self::SqlStep | Self::TlsWrite | Self::SocketSent | Self::SocketReceived)
    }
}
