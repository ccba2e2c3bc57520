//! The tracing library, in the commands' terms.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tracer::assemble::Output;
use tracer::attach::{self, AttachError, AttachOptions};
use tracer::events::{Block, Counters, Replay, ReplayError, StopReason};
use tracer::pipeline::{self, Pipeline};
use tracer::plan::{
    self, AttributeCoverage, Coverage, EntryCoverage, Evidence, ExitKind, ProbedFunction, Profile,
    TargetMeta, TraceMeta,
};
use tracer::semantics::{self, Captures};
use tracer::session::{self, SessionError, SessionOptions, Status, losses};
use tracer::span::{ClockAnchor, MonoNs};
use tracer::target::{
    DebugInfoNote, DebugInfoOptions, Image, ModuleInfo, Target, TargetError, TargetErrorKind,
};

use super::{
    AttributeView, CoverageView, Engine, EngineError, EntryStatus, EntryView, ErrorKind, Feature,
    FunctionView, InlinedView, Mechanism, Options, PollStatus, Session, Summary,
};

/// The engine of this build.
pub fn engine() -> impl Engine {
    Live
}

struct Live;

fn failed(error: impl std::fmt::Display) -> EngineError {
    EngineError { kind: ErrorKind::Failed, message: error.to_string() }
}

fn target_error(error: TargetError) -> EngineError {
    let kind = match error.kind() {
        TargetErrorKind::NotPermitted => ErrorKind::NotPermitted,
        TargetErrorKind::NoSuchProcess
        | TargetErrorKind::NotTraceable
        | TargetErrorKind::Malformed => ErrorKind::NotTraceable,
    };
    EngineError { kind, message: error.to_string() }
}

fn session_error(error: SessionError) -> EngineError {
    let kind = match error {
        SessionError::Target(error) => return target_error(error),
        SessionError::Attach(AttachError::NotPermitted { .. }) => ErrorKind::NotPermitted,
        SessionError::NothingToTrace { .. } => ErrorKind::NotTraceable,
        SessionError::Attach(_) | SessionError::Record { .. } | SessionError::Watch { .. } => {
            ErrorKind::Failed
        }
    };
    EngineError { kind, message: error.to_string() }
}

/// What to look for. Functions that are named are traced besides the profile; without a profile
/// named too, they are all there is, unless the target is one that the built-in profile fits.
fn profile(options: &Options) -> Result<Profile, EngineError> {
    let mut profile = match &options.profile {
        Some(path) => Profile::read(path).map_err(failed)?,
        None => Profile::orchestrate(),
    };
    for text in &options.functions {
        let pattern = text.parse().map_err(|why| failed(format!("--function '{text}': {why}")))?;
        profile.add_function(pattern);
    }
    Ok(profile)
}

/// Where to look for debuginfo.
fn debuginfo(options: &Options) -> DebugInfoOptions {
    DebugInfoOptions { paths: options.debuginfo.clone() }
}

fn pipeline_options(captures: Captures) -> pipeline::Options {
    let semantics = semantics::Options { captures };
    pipeline::Options { semantics, ..pipeline::Options::default() }
}

fn session_options(options: &Options) -> Result<SessionOptions, EngineError> {
    let defaults = AttachOptions::default();
    Ok(SessionOptions {
        profile: profile(options)?,
        debuginfo: debuginfo(options),
        attach: AttachOptions {
            mechanism: match options.mechanism {
                Mechanism::Auto => attach::Mechanism::Auto,
                Mechanism::UprobeMulti => attach::Mechanism::UprobeMulti,
                Mechanism::PerfEvent => attach::Mechanism::PerfEvent,
            },
            ring_bytes: options.ring_bytes.unwrap_or(defaults.ring_bytes),
            max_futures: options.max_futures.unwrap_or(defaults.max_futures),
            ..defaults
        },
        pipeline: pipeline_options(options.captures),
        record: options.record.clone(),
    })
}

impl Engine for Live {
    fn attach(&self, pid: u32, options: &Options) -> Result<Box<dyn Session>, EngineError> {
        let session = session::Session::attach(pid, session_options(options)?);
        Ok(Box::new(Attached::new(session.map_err(session_error)?)))
    }

    fn attach_before_exec(
        &self,
        pid: u32,
        program: &Path,
        options: &Options,
    ) -> Result<Box<dyn Session>, EngineError> {
        let options = session_options(options)?;
        let session = session::Session::attach_before_exec(pid, program, options);
        Ok(Box::new(Attached::new(session.map_err(session_error)?)))
    }

    fn inspect_process(&self, pid: u32, options: &Options) -> Result<CoverageView, EngineError> {
        let profile = profile(options)?;
        let target = Target::open(pid).map_err(target_error)?;
        target.exe.require_rust().map_err(target_error)?;
        let plan = session::plan_for(&target, &profile, &debuginfo(options));
        Ok(coverage_view(target.exe.info(), &plan.coverage))
    }

    fn inspect_file(&self, file: &Path, options: &Options) -> Result<CoverageView, EngineError> {
        let profile = profile(options)?;
        let image = Image::open(file, file).map_err(target_error)?;
        image.require_rust().map_err(target_error)?;
        let plan =
            session::plan_images(&image, None, None, &profile, Path::new("/"), &debuginfo(options));
        Ok(coverage_view(image.info(), &plan.coverage))
    }

    fn replay(
        &self,
        recording: &Path,
        captures: Captures,
    ) -> Result<Box<dyn Session>, EngineError> {
        let name = recording.display();
        let file = File::open(recording).map_err(|error| failed(format!("{name}: {error}")))?;
        let replay = Replay::open(file).map_err(|error| failed(format!("{name}: {error}")))?;
        let meta = Arc::clone(replay.meta());
        Ok(Box::new(Replayed {
            pipeline: Pipeline::new(Arc::clone(&meta), &pipeline_options(captures)),
            meta,
            replay,
            counters: Counters::default(),
            last: MonoNs(0),
            first: None,
        }))
    }

    fn features(&self) -> Vec<Feature> {
        let found = attach::features();
        vec![
            Feature {
                name: "uprobe_multi".to_owned(),
                works: found.uprobe_multi.is_ok(),
                required: false,
                detail: match &found.uprobe_multi {
                    Ok(()) => {
                        "hundreds of probes are placed and taken away in milliseconds".to_owned()
                    }
                    Err(why) => format!("{why}; perf events are used instead"),
                },
                remedy: found.uprobe_multi.is_err().then(|| {
                    "a kernel from 6.6 on has it; with perf events, detaching takes seconds, and \
                     up to a minute when the tracer is killed"
                        .to_owned()
                }),
            },
            Feature {
                name: "attach cookies".to_owned(),
                works: found.cookie,
                required: true,
                detail: "one program serves many probes".to_owned(),
                remedy: (!found.cookie).then(|| "use a kernel from 5.15 on".to_owned()),
            },
        ]
    }
}

fn coverage_view(info: &ModuleInfo, coverage: &Coverage) -> CoverageView {
    CoverageView {
        executable: info.name.clone(),
        build_id: info.build_id.clone(),
        tokio_version: coverage.tokio_version.clone(),
        entries: coverage.entries.iter().map(entry_view).collect(),
        debuginfo: coverage
            .debuginfo
            .iter()
            .map(|DebugInfoNote { path, used, note }| (path.clone(), *used, note.clone()))
            .collect(),
        landmarks: coverage
            .landmarks
            .iter()
            .map(|l| (l.purpose.clone(), l.probes as u64, l.missing.clone()))
            .collect(),
    }
}

fn entry_view(entry: &EntryCoverage) -> EntryView {
    let EntryCoverage { span, pattern, probed, refused, inlined, missing } = entry;
    let status = match (probed.is_empty(), inlined.is_empty() && refused.is_empty()) {
        (false, true) => EntryStatus::Probed,
        (false, false) => EntryStatus::Partly,
        (true, _) if !inlined.is_empty() => EntryStatus::Inlined,
        (true, _) => EntryStatus::Missing,
    };
    let refusals = refused.iter().map(|f| format!("{}: {}", f.name, f.reason));
    let reasons: Vec<String> = missing.iter().cloned().chain(refusals).collect();
    EntryView {
        span: span.clone(),
        pattern: pattern.clone(),
        status,
        functions: probed
            .iter()
            .map(|f| FunctionView {
                name: f.name.clone(),
                entries: f.entries as u32,
                exits: f.exits as u32,
                exit_kind: match f.exit_kind {
                    ExitKind::Caller => "caller",
                    ExitKind::Ret => "ret",
                }
                .to_owned(),
                cost: if f.cheap_entries == f.entries && f.cheap_exits == f.exits {
                    "emulated"
                } else {
                    "single_stepped"
                }
                .to_owned(),
            })
            .collect(),
        inlined: inlined
            .iter()
            .map(|body| InlinedView {
                file: body.location.file.clone(),
                line: body.location.line,
                inside: body.inside.clone(),
            })
            .collect(),
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
        attributes: attributes(probed),
    }
}

/// The attributes of all functions of an entry, each once.
fn attributes(probed: &[ProbedFunction]) -> Vec<AttributeView> {
    let mut all: Vec<AttributeView> = Vec::new();
    for AttributeCoverage { key, path, evidence, detail } in
        probed.iter().flat_map(|function| &function.attributes)
    {
        let from = evidence.map(|evidence| match evidence {
            Evidence::Debuginfo => "debuginfo".to_owned(),
            Evidence::Code => "code".to_owned(),
        });
        let (key, path, detail) = (key.clone(), path.clone(), detail.clone());
        let view = AttributeView { key, path, from, detail };
        if !all.contains(&view) {
            all.push(view);
        }
    }
    all
}

/// A live session.
struct Attached {
    session: session::Session,
    meta: Arc<TraceMeta>,
    coverage: CoverageView,
}

impl Attached {
    fn new(session: session::Session) -> Self {
        let meta = Arc::clone(session.meta());
        let plan::TargetMeta { pid: _, executable, build_id } = meta.target.clone();
        let info = ModuleInfo { path: executable.clone(), name: executable, build_id };
        let coverage = coverage_view(&info, session.coverage());
        Self { session, meta, coverage }
    }
}

impl Session for Attached {
    fn target(&self) -> &TargetMeta {
        &self.meta.target
    }

    fn anchor(&self) -> ClockAnchor {
        self.meta.anchor
    }

    fn coverage(&self) -> Option<&CoverageView> {
        Some(&self.coverage)
    }

    fn poll(&mut self, out: &mut Vec<Output>) -> Result<PollStatus, EngineError> {
        Ok(match self.session.poll(out).map_err(session_error)? {
            Status::Running => PollStatus::Running,
            Status::Exited => PollStatus::TargetExited,
            Status::Replaced => PollStatus::TargetExec,
        })
    }

    fn finish(self: Box<Self>, out: &mut Vec<Output>) -> Summary {
        let Self { session, meta: _, coverage } = *self;
        let done = match session.finish(StopReason::Requested, out) {
            Ok(done) => done,
            Err(error) => {
                let drops = vec![(format!("summary_unavailable ({error})"), 1)];
                return Summary { drops, ..Summary::default() };
            }
        };
        Summary {
            mechanism: done.mechanism.as_str().to_owned(),
            placed: done.probes as u64,
            inlined: done.functions_inlined as u64,
            missing: coverage.entries.iter().filter(|e| e.status == EntryStatus::Missing).count()
                as u64,
            duration_ns: done.traced_ns,
            ..account(&done.counters, &done.spans, &done.semantics, done.malformed)
        }
    }
}

fn account(
    counters: &Counters,
    spans: &tracer::assemble::Stats,
    semantics: &tracer::semantics::Stats,
    malformed: u64,
) -> Summary {
    use tracer_ebpf::counters::Counter;
    let named = |(name, count): (&'static str, u64)| (count != 0).then(|| (name.to_owned(), count));
    Summary {
        spans: spans.ended,
        outcomes: spans.outcomes.iter().filter_map(named).collect(),
        orphans: spans.orphans.iter().filter_map(named).collect(),
        hits: counters.get(Counter::Hits),
        records: counters.get(Counter::Records),
        drops: losses(counters, spans, malformed),
        unread: unread(counters, semantics),
        ..Summary::default()
    }
}

/// What could not be said about spans, and bytes that were not looked at on purpose.
fn unread(counters: &Counters, semantics: &tracer::semantics::Stats) -> Vec<(String, u64)> {
    use tracer_ebpf::counters::Counter;
    let said = serde_json::to_value(semantics).ok();
    let said = said.as_ref().and_then(serde_json::Value::as_object).into_iter().flatten();
    let said = said.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)));
    let kernel = [Counter::PayloadCut, Counter::NotHttp];
    let kernel = kernel.map(|counter| (counter.name().to_owned(), counters.get(counter)));
    said.chain(kernel).filter(|(_, count)| *count != 0).collect()
}

/// A recording being replayed.
struct Replayed {
    meta: Arc<TraceMeta>,
    replay: Replay<File>,
    pipeline: Pipeline,
    counters: Counters,
    first: Option<MonoNs>,
    last: MonoNs,
}

/// Blocks read at once, so that the terminal is drawn in between.
const BLOCKS: usize = 65_536;

impl Session for Replayed {
    fn target(&self) -> &TargetMeta {
        &self.meta.target
    }

    fn anchor(&self) -> ClockAnchor {
        self.meta.anchor
    }

    fn coverage(&self) -> Option<&CoverageView> {
        None
    }

    fn poll(&mut self, out: &mut Vec<Output>) -> Result<PollStatus, EngineError> {
        for _ in 0..BLOCKS {
            let block = self.replay.next_block().map_err(|error: ReplayError| failed(error))?;
            match block {
                None => return Ok(PollStatus::EndOfRecording),
                Some(Block::Record(bytes)) => {
                    if let Some(at) = self.pipeline.record(bytes, out) {
                        self.first.get_or_insert(at);
                        self.last = self.last.max(at);
                    }
                }
                Some(Block::Counters(counted)) => {
                    self.pipeline.ends_lost(counted.counters.ends_lost());
                    self.counters = counted.counters;
                }
                Some(Block::End(ending)) => {
                    self.last = self.last.max(ending.last.at);
                    self.pipeline.ends_lost(ending.last.counters.ends_lost());
                    self.counters = ending.last.counters;
                    return Ok(PollStatus::EndOfRecording);
                }
            }
        }
        Ok(PollStatus::Running)
    }

    fn finish(mut self: Box<Self>, out: &mut Vec<Output>) -> Summary {
        self.pipeline.finish(self.last, out);
        let first = self.first.unwrap_or(self.last);
        let stats = self.pipeline.stats();
        Summary {
            mechanism: "replay".to_owned(),
            duration_ns: self.last.0.saturating_sub(first.0),
            ..account(
                &self.counters,
                &stats,
                self.pipeline.semantics_stats(),
                self.pipeline.malformed(),
            )
        }
    }
}
