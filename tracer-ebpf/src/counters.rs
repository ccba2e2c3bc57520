//! Every way to lose something has a counter with a name that a user can read.

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// Index into the map `COUNTERS` (one array per CPU; user space sums up).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $variant),* }

        impl Counter {
            /// All counters, in order of their index.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name that users and scripts see.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

counters! {
    /// Programs run for the target while active.
    Hits = "hits",
    /// Records reserved and written.
    Records = "records",
    /// Hits of other processes, dropped by the filter.
    ForeignHits = "foreign_hits",
    /// Ring buffer full: a span's start. The span is lost.
    LostSpanStart = "lost_span_start",
    /// Ring buffer full: a span's end. The span's outcome is lost.
    LostSpanEnd = "lost_span_end",
    /// Ring buffer full: the end of a task.
    LostTaskEnd = "lost_task_end",
    /// Ring buffer full: a leaf's start. The leaf is lost.
    LostLeafStart = "lost_leaf_start",
    /// Ring buffer full: a leaf's link to its span. The leaf is unlinked.
    LostLeafLink = "lost_leaf_link",
    /// Ring buffer full: a leaf's end.
    LostLeafEnd = "lost_leaf_end",
    /// Ring buffer full: captured bytes. An attribute is missing.
    LostPayload = "lost_payload",
    /// Ring buffer more than half full: bytes not captured, to leave room for spans. An attribute
    /// may be missing.
    PayloadSkipped = "payload_skipped",
    /// Bytes of requests and responses beyond what is captured of one.
    PayloadCut = "payload_bytes_cut",
    /// Writes to TLS connections that were not HTTP/1: not shown.
    NotHttp = "tls_not_http",
    /// No room for another future: the span is lost.
    FuturesFull = "futures_full",
    /// No room for another thread: what it does is lost.
    ThreadsFull = "threads_full",
    /// No room for another task: what it does is orphaned.
    TasksFull = "tasks_full",
    /// No room for another statement, channel or connection: its leaf is lost or unlinked.
    LeavesFull = "leaves_full",
    /// Ring buffer full: what a child process executes. An attribute is missing.
    LostProcessExec = "lost_process_exec",
    /// No room for another child process: its span is lost.
    ProcessesFull = "processes_full",
    /// The shadow stack was full: spans below are lost.
    StackFull = "stack_full",
    /// Memory of the target that could not be read just then (page not resident).
    ReadFaults = "read_faults",
    /// Frames found dead without an exit having been seen (after a panic, or an unprobed exit).
    FramesHealed = "frames_healed",
    /// Exit probes reached by another path, ignored.
    StrayExits = "stray_exits",
    /// Futures first seen suspended (late attach).
    LateFutures = "late_futures",
    /// Places where a new future began while the earlier one had not been seen to end.
    FuturesReplaced = "futures_replaced",
}
