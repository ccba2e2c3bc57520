//! From what was found to where probes sit.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracer_ebpf::config::{FnConfig, MAX_FUNCTIONS, SelfReg};
use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::hook::Hook;

use super::attributes::Fetches;
use super::pattern::CLOSURE;
use super::{
    ArgumentFinding, Coverage, EntryCoverage, ExitKind, FunctionMeta, InlinedFunction,
    LandmarkCoverage, LeafRules, Probe, ProbePlan, ProbedFunction, Profile, RefusedFunction,
    SpanRule,
};

use crate::target::{
    Coroutine, Cost, ExitSite, Function, InlinedBody, Landmarks, ModuleInfo, PlainFunction,
    SelfRegister, Site, SocketLandmarks, TlsLandmarks,
};

/// What inspection says of one function that was asked for.
#[derive(Clone, Debug)]
pub enum Finding {
    /// An async body.
    Coroutine(Coroutine),
    /// A plain function.
    Plain(PlainFunction),
    /// It cannot be probed: why.
    Refused(Function, String),
}

/// Everything that a plan is made of.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// What is wanted.
    pub profile: &'a Profile,
    /// The executable, which functions and landmarks are in.
    pub executable: ModuleInfo,
    /// Every function that [`wanted`] chose, and what was found, in the same order.
    pub findings: Vec<(usize, Finding)>,
    /// For each of the findings, what was found of the attributes that its rule asks for. What is
    /// missing at the end counts as empty.
    pub arguments: Vec<Vec<ArgumentFinding>>,
    /// Async bodies that were inlined away.
    pub inlined: &'a [InlinedBody],
    /// Library functions in the executable.
    pub landmarks: &'a Landmarks,
    /// OpenSSL, and the file it is in.
    pub tls: Option<(ModuleInfo, &'a TlsLandmarks)>,
    /// The C library's functions on sockets, and the file they are in.
    pub sockets: Option<(ModuleInfo, &'a SocketLandmarks)>,
}

/// Which functions a profile asks for: pairs of rule and function. The first rule that matches
/// wins.
pub fn wanted<'f>(profile: &Profile, functions: &'f [Function]) -> Vec<(usize, &'f Function)> {
    functions
        .iter()
        .filter_map(|function| {
            let rule = profile.spans.iter().position(|r| r.function.matches(&function.name))?;
            Some((rule, function))
        })
        .collect()
}

/// Makes the plan. A function that cannot be probed is reported in the coverage; a plan without
/// any probe on a function or library is possible and says so there.
pub fn build(inputs: Inputs<'_>) -> ProbePlan {
    let Inputs { profile, executable, findings, arguments, inlined, landmarks, tls, sockets } =
        inputs;
    let mut plan = Builder {
        modules: vec![executable],
        probes: Vec::new(),
        functions: Vec::new(),
        configs: Vec::new(),
        code: Vec::new(),
        fetches: Fetches::default(),
    };
    let mut entries: Vec<EntryCoverage> = profile.spans.iter().map(entry).collect();
    let mut by_rule: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    let arguments = arguments.into_iter().chain(std::iter::repeat_with(Vec::new));
    for ((rule, finding), arguments) in findings.into_iter().zip(arguments) {
        by_rule.entry(rule).or_default().push((finding, arguments));
    }
    for (rule, findings) in by_rule {
        let (Some(entry), Some(spec)) = (entries.get_mut(rule), profile.spans.get(rule)) else {
            continue;
        };
        for (finding, arguments) in findings {
            plan.function(spec, finding, arguments, entry);
        }
    }
    for (entry, rule) in entries.iter_mut().zip(&profile.spans) {
        report_inlined(entry, rule, inlined);
    }

    let any_async = plan.functions.iter().any(|f| f.is_async);
    let LeafRules { sqlite, tls: tls_rule, http, process } = &profile.leaf;
    let leaves = sqlite.is_some() || tls_rule.is_some() || http.is_some() || process.is_some();
    let mut coverage =
        Coverage { tokio_version: landmarks.tokio_version.clone(), entries, ..Coverage::default() };
    if any_async || leaves {
        plan.tokio(landmarks, &mut coverage);
    }
    if let Some(rule) = sqlite {
        plan.sqlite(landmarks, &rule.name, &mut coverage);
    }
    if let Some(rule) = tls_rule {
        plan.tls(tls, &rule.name, &mut coverage);
    }
    if let Some(rule) = http {
        plan.sockets(sockets, &rule.name, &mut coverage);
    }
    if tls_rule.is_some() || http.is_some() {
        plan.hyper(landmarks, &mut coverage);
    }
    let processes = process.is_some();
    if let Some(rule) = process {
        coverage.note(
            &format!("the scheduler's tracepoints: {}", rule.name),
            3,
            "child processes are not shown",
        );
    }
    let Builder { modules, probes, functions, configs, code, fetches } = plan;
    let fetches = fetches.all;
    let sql_text_offset = landmarks.sql_text_offset;
    ProbePlan {
        modules,
        probes,
        functions,
        configs,
        fetches,
        code,
        processes,
        sql_text_offset,
        coverage,
    }
}

fn entry(rule: &SpanRule) -> EntryCoverage {
    EntryCoverage {
        span: rule.name.clone().unwrap_or_else(|| "its own path".to_owned()),
        pattern: rule.function.to_string(),
        probed: Vec::new(),
        refused: Vec::new(),
        inlined: Vec::new(),
        missing: None,
    }
}

fn report_inlined(entry: &mut EntryCoverage, rule: &SpanRule, inlined: &[InlinedBody]) {
    if let Some(place) = &rule.inlined {
        entry.inlined = inlined
            .iter()
            .filter(|body| body.location.file.ends_with(&place.file))
            .filter(|body| place.inside.as_ref().is_none_or(|p| p.matches(&body.inside)))
            .map(|body| InlinedFunction {
                location: body.location.clone(),
                inside: body.inside.to_string(),
            })
            .collect();
    }
    if entry.probed.is_empty() && entry.missing.is_none() {
        entry.missing = Some(if !entry.inlined.is_empty() {
            "inlined into its callers by the compiler".to_owned()
        } else if !entry.refused.is_empty() {
            "found, but none can be probed safely".to_owned()
        } else {
            "no function of this name is in the binary: it was inlined, or is not part of it"
                .to_owned()
        });
    }
}

/// Path of a function as people write it: without the closures that stand for its async body.
fn path_of(name: &str) -> &str {
    let mut path = name;
    while let Some(outer) = path.strip_suffix(CLOSURE) {
        path = outer;
    }
    path
}

struct Builder {
    modules: Vec<ModuleInfo>,
    probes: Vec<Probe>,
    functions: Vec<FunctionMeta>,
    configs: Vec<FnConfig>,
    code: Vec<(u64, u64)>,
    fetches: Fetches,
}

impl Builder {
    fn place(&mut self, module: usize, site: &Site, hook: Hook, cookie: Cookie) {
        self.probes.push(Probe {
            module,
            offset: site.offset,
            bytes: site.bytes.clone(),
            hook,
            cookie,
            cost: site.cost,
        });
    }

    fn place_all(&mut self, sites: &[Site], hook: Hook) {
        for site in sites {
            self.place(0, site, hook, Cookie::new(0, 0));
        }
    }

    fn place_exits(&mut self, exits: &[ExitSite], hook: Hook, id: u16) {
        for exit in exits {
            let at_ret = if exit.at_ret { Cookie::AT_RET } else { 0 };
            let result = if exit.has_result { Cookie::RESULT } else { 0 };
            self.place(0, &exit.site, hook, Cookie::new(id, at_ret | result));
        }
    }

    fn function(
        &mut self,
        rule: &SpanRule,
        finding: Finding,
        arguments: Vec<ArgumentFinding>,
        entry: &mut EntryCoverage,
    ) {
        let refuse = |entry: &mut EntryCoverage, name: &str, reason: String| {
            entry.refused.push(RefusedFunction { name: name.to_owned(), reason });
        };
        let (function, entries, exits) = match &finding {
            Finding::Coroutine(c) => (&c.function, &c.entries, &c.exits),
            Finding::Plain(p) => (&p.function, &p.entries, &p.exits),
            Finding::Refused(function, reason) => {
                refuse(entry, &function.name, reason.clone());
                return;
            }
        };
        if entries.is_empty() || exits.is_empty() {
            let what = if entries.is_empty() { "entry" } else { "exit" };
            refuse(entry, &function.name, format!("no safe place to see its {what}"));
            return;
        }
        // Id 0 stands for "no function".
        let id = self.functions.len() + 1;
        if id >= MAX_FUNCTIONS as usize {
            let reason =
                format!("more than {} functions match; narrow the pattern", MAX_FUNCTIONS - 1);
            refuse(entry, &function.name, reason);
            return;
        }
        let id = id as u16;
        for site in entries {
            // The entry site may lie a few bytes behind the function's start: of no consequence,
            // since a return address lies behind a call.
            let size = function
                .copies
                .iter()
                .find(|(addr, size)| (*addr..addr.saturating_add(*size)).contains(&site.addr));
            let size = size.map_or(0, |(_, size)| *size);
            self.code.push((site.offset, site.offset.saturating_add(size)));
        }
        let path: Arc<str> = path_of(&function.name).into();
        let span = rule.name.as_deref().map_or_else(|| Arc::clone(&path), Arc::from);
        let (fetch, attributes, available) = self.fetches.add(&rule.attributes, arguments);
        let probed = |is_async| ProbedFunction {
            name: function.name.to_string(),
            is_async,
            entries: entries.len(),
            cheap_entries: entries.iter().filter(|s| s.cost == Cost::Emulated).count(),
            exits: exits.len(),
            cheap_exits: exits.iter().filter(|e| e.site.cost == Cost::Emulated).count(),
            exit_kind: if exits.iter().any(|e| e.at_ret) {
                ExitKind::Ret
            } else {
                ExitKind::Caller
            },
            attributes: available.clone(),
        };
        let mut meta = FunctionMeta {
            id,
            function: path,
            span,
            kind: rule.kind,
            is_async: false,
            size_at_least: 0,
            size_exact: false,
            attributes,
            constants: rule.constants.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        };
        match &finding {
            Finding::Coroutine(c) => {
                meta.is_async = true;
                meta.size_at_least = c.size_at_least;
                meta.size_exact = c.size_exact;
                self.configs.push(FnConfig {
                    state_offset: c.state.offset,
                    state_width: c.state.width,
                    self_reg: match c.state.self_register {
                        SelfRegister::Rdi => SelfReg::Rdi,
                        SelfRegister::Rsi => SelfReg::Rsi,
                    } as u8,
                    fetch,
                });
                for site in &c.entries {
                    self.place(0, site, Hook::PollEnter, Cookie::new(id, 0));
                }
                self.place_exits(&c.exits, Hook::PollExit, id);
                for site in &c.drops {
                    self.place(0, site, Hook::FutureDrop, Cookie::new(id, 0));
                }
                entry.probed.push(probed(true));
            }
            Finding::Plain(p) => {
                self.configs.push(FnConfig {
                    state_offset: 0,
                    state_width: 0,
                    self_reg: 0,
                    fetch: 0,
                });
                for site in &p.entries {
                    self.place(0, site, Hook::CallEnter, Cookie::new(id, 0));
                }
                self.place_exits(&p.exits, Hook::CallExit, id);
                entry.probed.push(probed(false));
            }
            Finding::Refused(..) => {}
        }
        self.functions.push(meta);
    }

    fn tokio(&mut self, found: &Landmarks, coverage: &mut Coverage) {
        let before = self.probes.len();
        self.place_all(&found.task_poll, Hook::TaskEnter);
        self.place_exits(&found.task_poll_exits, Hook::TaskExit, 0);
        coverage.note(
            "tokio: tasks",
            self.probes.len() - before,
            "without tasks, nothing links a spawned future to its spawner",
        );
        let before = self.probes.len();
        self.place_all(&found.task_bind, Hook::TaskSpawn);
        self.place_all(&found.blocking_spawn, Hook::TaskSpawn);
        if !found.local_schedule.is_empty() {
            self.place_all(&found.local_spawn, Hook::LocalSpawn);
            self.place_all(&found.local_schedule, Hook::LocalSchedule);
        }
        coverage.note(
            "tokio: spawn",
            self.probes.len() - before,
            "what a spawned task does becomes an orphan",
        );
        let before = self.probes.len();
        self.place_all(&found.task_dealloc, Hook::TaskFree);
        self.place_all(&found.task_shutdown, Hook::TaskShutdown);
        coverage.note(
            "tokio: end of tasks",
            self.probes.len() - before,
            "a cancelled future may look as if it were still running",
        );
        let before = self.probes.len();
        self.place_all(&found.panic, Hook::PanicBegin);
        self.place_all(&found.panic_caught, Hook::PanicCaught);
        coverage.note(
            "panics",
            self.probes.len() - before,
            "a future that a panic left may end with an unknown outcome",
        );
    }

    fn sqlite(&mut self, found: &Landmarks, name: &str, coverage: &mut Coverage) {
        let before = self.probes.len();
        self.place_all(&found.sql_step, Hook::SqlStep);
        self.place_exits(&found.sql_step_exits, Hook::SqlStepExit, 0);
        self.place_all(&found.sql_reset, Hook::SqlReset);
        self.place_all(&found.sql_finalize, Hook::SqlReset);
        coverage.note(
            &format!("SQLite: {name}"),
            self.probes.len() - before,
            "SQLite's functions are not in the executable: no statements are shown",
        );
        let before = self.probes.len();
        self.place_all(&found.channel_send, Hook::ChannelSend);
        self.place_all(&found.channel_recv, Hook::ChannelRecv);
        self.place_all(&found.channel_done, Hook::ChannelDone);
        self.place_all(&found.channel_close, Hook::ChannelClose);
        coverage.note(
            "sqlx: link to the asking future",
            self.probes.len() - before,
            "statements run on sqlx's worker threads stay unlinked",
        );
        let before = self.probes.len();
        // Either alone proves nothing.
        if !found.reply_made.is_empty() && !found.reply_sent.is_empty() {
            self.place_exits(&found.reply_made, Hook::ReplyMade, 0);
            self.place_all(&found.reply_sent, Hook::ReplySent);
        }
        coverage.note(
            "sqlx: link of BEGIN, COMMIT and ROLLBACK to the asking future",
            self.probes.len() - before,
            "statements of transactions stay unlinked",
        );
    }

    fn tls(
        &mut self,
        tls: Option<(ModuleInfo, &TlsLandmarks)>,
        name: &str,
        coverage: &mut Coverage,
    ) {
        let before = self.probes.len();
        if let Some((module, functions)) = tls {
            let index = self.module(module);
            let cookie = |ex: bool| Cookie::new(0, 0).with_arg(u8::from(ex));
            for (site, ex) in &functions.write {
                self.place(index, site, Hook::TlsWrite, cookie(*ex));
            }
            for (site, ex) in &functions.read {
                self.place(index, site, Hook::TlsRead, cookie(*ex));
            }
            let exits = [
                (&functions.write_exits, Hook::TlsWriteExit),
                (&functions.read_exits, Hook::TlsReadExit),
            ];
            for (exits, program) in exits {
                for (exit, ex) in exits {
                    let flags = if exit.at_ret { Cookie::AT_RET } else { 0 };
                    let cookie = Cookie::new(0, flags).with_arg(u8::from(*ex));
                    self.place(index, &exit.site, program, cookie);
                }
            }
            for site in &functions.free {
                self.place(index, site, Hook::TlsFree, cookie(false));
            }
        }
        coverage.note(
            &format!("OpenSSL: {name}"),
            self.probes.len() - before,
            "no OpenSSL is mapped: no requests over TLS are shown",
        );
    }

    fn module(&mut self, module: ModuleInfo) -> usize {
        let index = self.modules.iter().position(|m| m.path == module.path);
        index.unwrap_or_else(|| {
            self.modules.push(module);
            self.modules.len() - 1
        })
    }

    fn sockets(
        &mut self,
        sockets: Option<(ModuleInfo, &SocketLandmarks)>,
        name: &str,
        coverage: &mut Coverage,
    ) {
        let before = self.probes.len();
        if let Some((module, SocketLandmarks { sent, received, close })) = sockets {
            let index = self.module(module);
            for (sites, program) in [(sent, Hook::SocketSent), (received, Hook::SocketReceived)] {
                for (site, vectors) in sites {
                    let cookie = Cookie::new(0, 0).with_arg(u8::from(*vectors));
                    self.place(index, site, program, cookie);
                }
            }
            for site in close {
                self.place(index, site, Hook::SocketClose, Cookie::new(0, 0));
            }
        }
        coverage.note(
            &format!("sockets: {name}"),
            self.probes.len() - before,
            "where the C library's functions on sockets return cannot be told: requests without \
             TLS are not shown",
        );
    }

    fn hyper(&mut self, found: &Landmarks, coverage: &mut Coverage) {
        let before = self.probes.len();
        self.place_all(&found.http_send, Hook::HttpSend);
        self.place_all(&found.wake, Hook::TaskWake);
        coverage.note(
            "hyper: link to the asking future",
            self.probes.len() - before,
            "requests made through hyper's connection tasks stay unlinked",
        );
    }
}

impl Coverage {
    fn note(&mut self, purpose: &str, probes: usize, without: &str) {
        self.landmarks.push(LandmarkCoverage {
            purpose: purpose.to_owned(),
            probes,
            missing: (probes == 0).then(|| without.to_owned()),
        });
    }
}
