//! The seam between the commands and the tracing library: what a command needs, in its own
//! terms. `engine::live` implements it with `tracer::session`; tests implement it with fixtures.

use std::path::{Path, PathBuf};

mod live;

use serde::Serialize;
use tracer::plan::TargetMeta;
use tracer::semantics::Captures;
use tracer::span::ClockAnchor;

use crate::exit::{CliError, Exit};

pub use live::engine;

/// How probes are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mechanism {
    /// The best that the kernel has.
    #[default]
    Auto,
    /// One `uprobe_multi` link for many probes (kernel 6.6 and later).
    UprobeMulti,
    /// One perf event for each probe.
    PerfEvent,
}

/// What to trace, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Profile to use instead of the built-in one.
    pub profile: Option<PathBuf>,
    /// Functions to trace beside the profile's.
    pub functions: Vec<String>,
    /// Files or folders with debuginfo of the target.
    pub debuginfo: Vec<PathBuf>,
    /// How probes are attached.
    pub mechanism: Mechanism,
    /// Size of the ring buffer; `None`: the library's default.
    pub ring_bytes: Option<u32>,
    /// Suspended futures that are followed at once; `None`: the library's default.
    pub max_futures: Option<u32>,
    /// Where to record the raw stream.
    pub record: Option<PathBuf>,
    /// Private text that spans may carry.
    pub captures: Captures,
    /// Log what the BPF programs say.
    pub verbose: bool,
}

pub use tracer::assemble::Output;

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollStatus {
    /// Yes.
    Running,
    /// The target is gone.
    TargetExited,
    /// The target has replaced its program.
    TargetExec,
    /// A recording has been read to its end.
    EndOfRecording,
}

/// Why there is no session, or no more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Something else.
    Failed,
    /// Privileges are missing.
    NotPermitted,
    /// There is nothing in this target that could be traced, or no such target.
    NotTraceable,
}

/// An error of the library, in the user's words: what, why, and what next.
#[derive(Debug)]
pub struct EngineError {
    /// Which exit code it leads to.
    pub kind: ErrorKind,
    /// For the user.
    pub message: String,
}

impl From<EngineError> for CliError {
    fn from(error: EngineError) -> Self {
        let exit = match error.kind {
            ErrorKind::Failed => Exit::Failed,
            ErrorKind::NotPermitted => Exit::NotPermitted,
            ErrorKind::NotTraceable => Exit::NotTraceable,
        };
        Self::new(exit, error.message)
    }
}

/// The account of a session that is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Spans handed out.
    pub spans: u64,
    /// Spans by outcome; zeros may be left out.
    pub outcomes: Vec<(String, u64)>,
    /// Orphans by reason; zeros may be left out.
    pub orphans: Vec<(String, u64)>,
    /// Probe hits of the target.
    pub hits: u64,
    /// Records that came through the ring buffer.
    pub records: u64,
    /// Losses by name; zeros included.
    pub drops: Vec<(String, u64)>,
    /// What could not be said about spans, by reason; zeros left out.
    pub unread: Vec<(String, u64)>,
    /// Which mechanism attached the probes.
    pub mechanism: String,
    /// Probes in place.
    pub placed: u64,
    /// Bodies of the profile that the compiler inlined and that could not be probed.
    pub inlined: u64,
    /// Entries of the profile without a function.
    pub missing: u64,
    /// How long it lasted.
    pub duration_ns: u64,
}

/// What became of one entry of the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryStatus {
    /// Every function that matches has probes.
    Probed,
    /// Some have, some are inlined or without exits.
    Partly,
    /// The compiler inlined it into another function.
    Inlined,
    /// Nothing in the target matches, or nothing that could be probed.
    Missing,
}

/// One function of the target that is probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionView {
    /// Demangled.
    pub name: String,
    /// Probes at its beginning.
    pub entries: u32,
    /// Probes where it ends.
    pub exits: u32,
    /// Where its end is seen: `caller` or `ret`.
    pub exit_kind: String,
    /// What a hit costs: `emulated` or `single_stepped`.
    pub cost: String,
}

/// A body without a function of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InlinedView {
    /// Source file.
    pub file: String,
    /// Line in it.
    pub line: u32,
    /// The function it was inlined into.
    pub inside: String,
}

/// What became of one entry of the profile, in detail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryView {
    /// Name of the spans it makes.
    pub span: String,
    /// The pattern, or what it is made from (`sqlite3_step`).
    pub pattern: String,
    /// In a word.
    pub status: EntryStatus,
    /// Functions that match.
    pub functions: Vec<FunctionView>,
    /// Bodies that match and are inlined.
    pub inlined: Vec<InlinedView>,
    /// Why it is missing, or what is limited.
    pub reason: Option<String>,
    /// What its spans say of the values that they were given, or why not.
    pub attributes: Vec<AttributeView>,
}

/// One attribute of an entry's spans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttributeView {
    /// Key.
    pub key: String,
    /// The value's path in the profile.
    pub path: String,
    /// `debuginfo` or `code`; `None`: not to be had.
    pub from: Option<String>,
    /// The value's type, or why it is not to be had.
    pub detail: String,
}

/// What can be seen of a target, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CoverageView {
    /// Its program.
    pub executable: PathBuf,
    /// GNU build-id.
    pub build_id: Option<String>,
    /// Version of tokio.
    pub tokio_version: Option<String>,
    /// Per entry of the profile.
    pub entries: Vec<EntryView>,
    /// Files that may be debuginfo: which, whether it is used, how or why not.
    pub debuginfo: Vec<(PathBuf, bool, String)>,
    /// Functions of the runtime and of libraries that are followed: name, how many, remark.
    pub landmarks: Vec<(String, u64, Option<String>)>,
}

/// One finding about the kernel's abilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What was tried, such as `uprobe_multi`.
    pub name: String,
    /// It works.
    pub works: bool,
    /// Tracing cannot work without it.
    pub required: bool,
    /// What was seen.
    pub detail: String,
    /// What to do, where it does not work.
    pub remedy: Option<String>,
}

/// A target being traced, or a recording being replayed.
pub trait Session {
    /// The traced process.
    fn target(&self) -> &TargetMeta;
    /// Monotonic to wall clock, of the time of the trace.
    fn anchor(&self) -> ClockAnchor;
    /// What is probed; `None` for a recording.
    fn coverage(&self) -> Option<&CoverageView>;
    /// Appends what happened since the last call. Does not wait.
    ///
    /// # Errors
    /// The session cannot go on; `finish` still detaches.
    fn poll(&mut self, out: &mut Vec<Output>) -> Result<PollStatus, EngineError>;
    /// Detaches, and appends what is left: every span still open, as `Ended` with the outcome
    /// `running`.
    fn finish(self: Box<Self>, out: &mut Vec<Output>) -> Summary;
}

/// What the commands need of the library.
pub trait Engine {
    /// Attaches to a running process.
    ///
    /// # Errors
    /// It is not there, not permitted, or not traceable.
    fn attach(&self, pid: u32, options: &Options) -> Result<Box<dyn Session>, EngineError>;

    /// Attaches to `program` on behalf of a process that has not executed it yet: a child of ours
    /// between fork and exec. The exec must not end the session.
    ///
    /// # Errors
    /// As for `attach`.
    fn attach_before_exec(
        &self,
        pid: u32,
        program: &Path,
        options: &Options,
    ) -> Result<Box<dyn Session>, EngineError>;

    /// Finds out what would be probed in a process, without attaching.
    ///
    /// # Errors
    /// As for `attach`.
    fn inspect_process(&self, pid: u32, options: &Options) -> Result<CoverageView, EngineError>;

    /// The same for a file.
    ///
    /// # Errors
    /// As for `attach`.
    fn inspect_file(&self, file: &Path, options: &Options) -> Result<CoverageView, EngineError>;

    /// Opens a recording.
    ///
    /// # Errors
    /// It is not there, or not a recording.
    fn replay(&self, recording: &Path, captures: Captures)
    -> Result<Box<dyn Session>, EngineError>;

    /// Tries out what the kernel can do.
    fn features(&self) -> Vec<Feature>;
}
