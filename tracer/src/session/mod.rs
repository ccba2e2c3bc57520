//! One traced process, from its PID to finished spans: the stages joined up.

mod arguments;
mod batch;
mod planning;
mod summary;

use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use thiserror::Error;

pub use planning::{plan_for, plan_images};
pub use summary::{Progress, Summary, losses};

use crate::assemble::Output;
use crate::attach::{AttachError, AttachOptions, AttachedProbes, Mechanism};
use crate::events::{Counters, Recorder, StopReason};
use crate::pipeline::{self, Pipeline};
use crate::plan::{Coverage, ProbePlan, Profile, TargetMeta, TraceMeta};
use crate::span::{ClockAnchor, MonoNs};
use crate::target::{Cost, DebugInfoOptions, Image, ModuleInfo, PidNamespace, Target, TargetError};
use batch::Batch;
use planning::{needed_library, open_loaded};

/// What to trace, and how.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Which functions become which spans.
    pub profile: Profile,
    /// Where else to look for debuginfo.
    pub debuginfo: DebugInfoOptions,
    /// How probes are placed and how large the maps are.
    pub attach: AttachOptions,
    /// What the stages behind the probes may hold and show.
    pub pipeline: pipeline::Options,
    /// Where to record the events, if anywhere.
    pub record: Option<PathBuf>,
}

impl Default for SessionOptions {
    /// The built-in profile, nothing recorded.
    fn default() -> Self {
        Self {
            profile: Profile::orchestrate(),
            attach: AttachOptions::default(),
            pipeline: pipeline::Options::default(),
            debuginfo: DebugInfoOptions::default(),
            record: None,
        }
    }
}

/// Why a process cannot be traced.
#[derive(Debug, Error)]
pub enum SessionError {
    /// It could not be inspected.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No probe could be placed.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Nothing in it matches.
    #[error(
        "pid {pid} ({}): nothing in it can be traced with the profile `{profile}`; see \
         `orchestrate-trace inspect {pid}`, or name functions with --function",
        executable.display()
    )]
    NothingToTrace {
        /// Which process.
        pid: u32,
        /// Its executable.
        executable: PathBuf,
        /// The profile's name.
        profile: String,
    },
    /// The recording could not be written.
    #[error("recording {}: {source}", path.display())]
    Record {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel could not be asked about the process.
    #[error("pid {pid}: {source}")]
    Watch {
        /// Which process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
}

/// What became of the target between two looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It runs.
    Running,
    /// It exited.
    Exited,
    /// It executed another program.
    Replaced,
}

/// A process that is being traced. Dropping it detaches.
pub struct Session {
    /// `None` when it was attached to before it executed its program.
    target: Option<Target>,
    pidfd: OwnedFd,
    meta: Arc<TraceMeta>,
    coverage: Coverage,
    placed: Placed,
    probes: AttachedProbes,
    pipeline: Pipeline,
    recorder: Option<(PathBuf, Recorder<BufWriter<File>>)>,
    batch: Batch,
    began: Instant,
    looked: Instant,
    replaced: bool,
}

#[derive(Clone, Copy)]
struct Placed {
    probes: usize,
    emulated: usize,
    inspect_ns: u64,
    attach_ns: u64,
}

/// Records taken in between two looks at the clock.
const AT_ONCE: usize = 65_536;

impl Session {
    /// Inspects the process, makes a plan, and places its probes.
    ///
    /// # Errors
    /// The process is untouched when this fails.
    pub fn attach(pid: u32, options: SessionOptions) -> Result<Self, SessionError> {
        let began = Instant::now();
        let target = open_loaded(pid)?;
        let plan = plan_for(&target, &options.profile, &options.debuginfo);
        let info = target.exe.info().clone();
        let namespace = target.pid_namespace;
        Self::begin(pid, options, began, info, namespace, plan, Some(target))
    }

    /// Places probes in `program` on behalf of `pid`, which is about to execute it: the first
    /// instruction is traced.
    ///
    /// # Errors
    /// The process is untouched when this fails.
    pub fn attach_before_exec(
        pid: u32,
        program: &Path,
        options: SessionOptions,
    ) -> Result<Self, SessionError> {
        let began = Instant::now();
        let exe = Image::open(program, program)?;
        exe.require_rust()?;
        let libssl = needed_library(&exe, "libssl.so");
        let libc = needed_library(&exe, "libc.so");
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let plan = plan_images(
            &exe,
            libssl.as_ref(),
            libc.as_ref(),
            &options.profile,
            &root,
            &options.debuginfo,
        );
        let namespace = PidNamespace::of(pid)?;
        Self::begin(pid, options, began, exe.info().clone(), namespace, plan, None)
    }

    fn begin(
        pid: u32,
        options: SessionOptions,
        began: Instant,
        info: ModuleInfo,
        namespace: PidNamespace,
        plan: ProbePlan,
        target: Option<Target>,
    ) -> Result<Self, SessionError> {
        let SessionOptions { profile, debuginfo: _, attach, pipeline, record } = options;
        let watch = |source: io::Error| SessionError::Watch { pid, source };
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| watch(io::Error::from_raw_os_error(libc::ESRCH)))?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|e| watch(e.into()))?;
        if plan.functions.is_empty() && plan.probes.iter().all(|p| !p.hook.is_leaf()) {
            return Err(SessionError::NothingToTrace {
                pid,
                executable: info.name,
                profile: profile.name,
            });
        }
        let inspect_ns = began.elapsed().as_nanos() as u64;
        let meta = Arc::new(TraceMeta {
            seed: seed(),
            anchor: ClockAnchor::now(),
            target: TargetMeta { pid, executable: info.name, build_id: info.build_id },
            functions: plan.functions.clone(),
        });
        let recorder = match record {
            None => None,
            Some(path) => {
                let begin = || {
                    let file = File::create(&path)?;
                    Recorder::begin(BufWriter::with_capacity(1 << 20, file), &meta)
                };
                let recorder = begin()
                    .map_err(|source| SessionError::Record { path: path.clone(), source })?;
                Some((path, recorder))
            }
        };
        let attaching = Instant::now();
        let probes = AttachedProbes::attach(&plan, pid, namespace, &attach)?;
        let emulated = plan.probes.iter().filter(|p| p.cost == Cost::Emulated).count();
        let placed = Placed {
            probes: plan.probes.len(),
            emulated,
            inspect_ns,
            attach_ns: attaching.elapsed().as_nanos() as u64,
        };
        let now = Instant::now();
        Ok(Self {
            target,
            pidfd,
            coverage: plan.coverage,
            placed,
            probes,
            pipeline: Pipeline::new(Arc::clone(&meta), &pipeline),
            meta,
            recorder,
            batch: Batch::default(),
            began: now,
            looked: now,
            replaced: false,
        })
    }

    /// What is covered and what is not.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// What a recording of this session begins with.
    pub fn meta(&self) -> &Arc<TraceMeta> {
        &self.meta
    }

    /// Which mechanism holds the probes.
    pub fn mechanism(&self) -> Mechanism {
        self.probes.mechanism()
    }

    /// Probes placed.
    pub fn probes(&self) -> usize {
        self.placed.probes
    }

    /// What was seen and lost so far.
    ///
    /// # Errors
    /// The kernel refuses to be asked.
    pub fn progress(&self) -> Result<Progress, SessionError> {
        Ok(Progress {
            counters: self.probes.counters()?,
            spans: self.pipeline.stats(),
            malformed: self.pipeline.malformed(),
        })
    }

    /// Takes in what the target did since the last call and appends what follows from it to
    /// `out`. Call it every [`AttachedProbes::DRAIN_INTERVAL`].
    ///
    /// # Errors
    /// When the recording cannot be written or the kernel refuses to be asked.
    pub fn poll(&mut self, out: &mut Vec<Output>) -> Result<Status, SessionError> {
        self.drain(out)?;
        self.pipeline.advance(MonoNs::now(), out);
        if self.looked.elapsed().as_millis() >= 250 {
            self.looked = Instant::now();
            let counters = self.record_counters()?;
            self.pipeline.ends_lost(counters.ends_lost());
            let replaced = |t: &Target| matches!(t.still_same(), Err(TargetError::Replaced { .. }));
            self.replaced = self.target.as_ref().is_some_and(replaced);
        }
        self.status()
    }

    fn drain(&mut self, out: &mut Vec<Output>) -> Result<usize, SessionError> {
        let mut seen = 0;
        while seen < AT_ONCE {
            let batch = &mut self.batch;
            batch.clear();
            let some = self.probes.drain(Batch::MOST, |bytes| batch.push(bytes));
            if some == 0 {
                break;
            }
            seen += some;
            // Only now: an end that was lost before a record of this batch is counted by now.
            let ends_lost = self.probes.ends_lost()?;
            if self.pipeline.ends_lost(ends_lost) {
                self.record_counters()?;
            }
            let mut failed = None;
            for bytes in self.batch.records() {
                if failed.is_none()
                    && let Some((path, recorder)) = &mut self.recorder
                    && let Err(source) = recorder.record(bytes)
                {
                    failed = Some(SessionError::Record { path: path.clone(), source });
                }
                self.pipeline.record(bytes, out);
            }
            if let Some(error) = failed {
                // Said once; tracing goes on without the recording if the caller wants.
                self.recorder = None;
                return Err(error);
            }
        }
        Ok(seen)
    }

    fn record_counters(&mut self) -> Result<Counters, SessionError> {
        let counters = self.probes.counters()?;
        if let Some((path, recorder)) = &mut self.recorder {
            recorder
                .counters(MonoNs::now(), &counters)
                .map_err(|source| SessionError::Record { path: path.clone(), source })?;
        }
        Ok(counters)
    }

    fn status(&self) -> Result<Status, SessionError> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = poll(&mut fds, Some(&zero)).unwrap_or(0);
        if ready > 0 {
            return Ok(Status::Exited);
        }
        Ok(if self.replaced { Status::Replaced } else { Status::Running })
    }

    /// Detaches, takes in what is still waiting, ends every open span, and sums up.
    ///
    /// # Errors
    /// As [`Self::poll`]. The target is detached in any case.
    pub fn finish(
        mut self,
        why: StopReason,
        out: &mut Vec<Output>,
    ) -> Result<Summary, SessionError> {
        self.probes.switch(false)?;
        while self.drain(out)? != 0 {}
        let counters = self.record_counters()?;
        self.pipeline.ends_lost(counters.ends_lost());
        let traced_ns = self.began.elapsed().as_nanos() as u64;
        let end = MonoNs::now();
        self.pipeline.finish(end, out);
        if let Some((path, recorder)) = self.recorder.take() {
            recorder
                .end(end, &counters, why)
                .map_err(|source| SessionError::Record { path, source })?;
        }
        let (functions_probed, functions_inlined, functions_refused) = self.coverage.counts();
        Ok(Summary {
            pid: self.meta.target.pid,
            mechanism: self.probes.mechanism(),
            probes: self.placed.probes,
            emulated_probes: self.placed.emulated,
            functions_probed,
            functions_inlined,
            functions_refused,
            counters,
            spans: self.pipeline.stats(),
            semantics: *self.pipeline.semantics_stats(),
            malformed: self.pipeline.malformed(),
            why,
            traced_ns,
            inspect_ns: self.placed.inspect_ns,
            attach_ns: self.placed.attach_ns,
        })
    }
}

/// 32 hex digits that no other session has.
fn seed() -> String {
    let mut bytes = [0_u8; 16];
    // SAFETY: the buffer is as long as said; the call fills it or leaves it, and time is mixed in.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    format!("{:032x}", u128::from_le_bytes(bytes) ^ u128::from(MonoNs::now().0))
}
