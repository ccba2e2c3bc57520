//! The decisions, and what is remembered of them.
//!
//! Spans end children first, so a trace's verdict must outlive its last open span: else its root
//! could be left out when its children have gone. And what comes after a verdict is forgotten is
//! left out, since its parent may have been. So no span that passes has a parent that did not.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::limit::Limit;
use super::stats::{SamplingStats, Unsampled};
use super::{Policy, Ratio};
use crate::assemble::Output;
use crate::span::{MonoNs, Span, SpanId, TraceId};

/// How often spans that are still open are held against the rules.
const LOOK_NS: u64 = 1_000_000_000;

#[derive(Debug)]
enum Verdict {
    Keep,
    Leave(Unsampled),
    /// Left out, unless a rule keeps it.
    Wait(Box<Waiting>),
}

#[derive(Debug)]
struct Waiting {
    why: Unsampled,
    since: MonoNs,
    ended: Vec<Span>,
    /// As they began.
    open: Vec<Span>,
    /// When it is complete, unless something begins before.
    settled: Option<MonoNs>,
}

#[derive(Debug)]
struct Trace {
    verdict: Verdict,
    open: u32,
    /// It stands in the line of those that may be forgotten.
    in_line: bool,
}

/// Decides about traces. Everything it is offered passes at once, passes later, or is counted.
#[derive(Debug)]
pub struct Sampler {
    policy: Policy,
    limit: Option<Limit>,
    wait_ns: u64,
    looks_at_open: bool,
    traces: HashMap<TraceId, Trace, FixedState>,
    /// Decided traces without open spans, in the order in which they are forgotten.
    line: VecDeque<TraceId>,
    /// How many wait.
    undecided: usize,
    /// Traces that wait, oldest first; some of them have been decided since.
    waiting: VecDeque<(MonoNs, TraceId)>,
    /// Traces that may be complete, by when.
    settling: VecDeque<(MonoNs, TraceId)>,
    looked: MonoNs,
    stats: SamplingStats,
}

impl Sampler {
    /// A sampler that has seen nothing.
    pub fn new(policy: Policy) -> Self {
        let slower = policy.keep.iter().filter_map(super::KeepRule::slower).max();
        // To find that a trace is slow takes at least that long.
        let wait = policy.bounds.wait.max(slower.unwrap_or_default().saturating_mul(2));
        Self {
            limit: policy.traces_per_second.map(Limit::new),
            wait_ns: u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX),
            looks_at_open: slower.is_some(),
            traces: HashMap::default(),
            line: VecDeque::new(),
            undecided: 0,
            waiting: VecDeque::new(),
            settling: VecDeque::new(),
            looked: MonoNs(0),
            stats: SamplingStats::default(),
            policy,
        }
    }

    /// What it goes by.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The account so far.
    pub const fn stats(&self) -> SamplingStats {
        self.stats
    }

    /// A trace that is about to begin here has begun elsewhere, where it was decided whether it
    /// is `sampled`: that holds here, too (W3C Trace Context's `sampled` flag).
    pub fn remote_parent(&mut self, trace: TraceId, sampled: bool) {
        let verdict = if sampled { Verdict::Keep } else { Verdict::Leave(Unsampled::Ratio) };
        self.remember(trace, verdict);
        self.line_up(trace);
    }

    /// Takes in what the assembler handed out, in its order, and appends to `out` what is to be
    /// exported. `now` does not go back.
    pub fn offer(&mut self, output: &Output, now: MonoNs, out: &mut Vec<Span>) {
        match output {
            Output::Started(span) => self.started(span, now),
            Output::Ended(span) => self.ended(span, now, out),
        }
    }

    /// Time has passed.
    pub fn advance(&mut self, now: MonoNs, out: &mut Vec<Span>) {
        while let Some(&(at, trace)) = self.settling.front().filter(|(at, _)| *at <= now) {
            self.settling.pop_front();
            let complete = matches!(
                self.traces.get(&trace),
                Some(Trace { verdict: Verdict::Wait(waiting), .. })
                    if waiting.settled == Some(at)
            );
            if complete {
                self.decide(trace, now, out);
            }
        }
        while let Some(&(since, trace)) = self.waiting.front() {
            let is_late = since.0.saturating_add(self.wait_ns) <= now.0;
            if self.is_waiting(trace, since) {
                if !is_late {
                    break;
                }
                self.stats.decided_early_late += 1;
                self.decide(trace, now, out);
            }
            self.waiting.pop_front();
        }
        if self.looks_at_open && now.0.saturating_sub(self.looked.0) >= LOOK_NS {
            self.looked = now;
            self.look(now, out);
        }
    }

    /// Nothing more will come: decides what waits.
    pub fn finish(&mut self, now: MonoNs, out: &mut Vec<Span>) {
        while let Some((since, trace)) = self.waiting.pop_front() {
            if self.is_waiting(trace, since) {
                self.decide(trace, now, out);
            }
        }
    }

    fn started(&mut self, span: &Span, now: MonoNs) {
        let id = span.trace_id;
        if !self.traces.contains_key(&id) {
            let verdict = match span.parent_id {
                Some(_) => Verdict::Leave(Unsampled::Late),
                None => self.head(id, now),
            };
            let waits = matches!(verdict, Verdict::Wait(_));
            if !self.remember(id, verdict) {
                return;
            }
            if waits {
                self.waiting.push_back((now, id));
                self.tidy();
            }
        }
        if let Some(trace) = self.traces.get_mut(&id) {
            trace.open += 1;
            if let Verdict::Wait(waiting) = &mut trace.verdict {
                waiting.settled = None;
                waiting.open.push(span.clone());
            }
        }
    }

    fn ended(&mut self, span: &Span, now: MonoNs, out: &mut Vec<Span>) {
        self.stats.offered += 1;
        let id = span.trace_id;
        let Some(trace) = self.traces.get_mut(&id) else {
            self.leave(Unsampled::Untracked, 1);
            return;
        };
        trace.open = trace.open.saturating_sub(1);
        let closes = trace.open == 0;
        match &mut trace.verdict {
            Verdict::Keep => {
                self.stats.passed += 1;
                out.push(span.clone());
            }
            Verdict::Leave(why) => {
                let why = *why;
                self.leave(why, 1);
            }
            Verdict::Wait(waiting) => {
                forget_open(&mut waiting.open, span.span_id);
                waiting.ended.push(span.clone());
                self.stats.waiting += 1;
                if closes {
                    let settle = u64::try_from(self.policy.bounds.settle.as_nanos());
                    let at = MonoNs(now.0.saturating_add(settle.unwrap_or(u64::MAX)));
                    waiting.settled = Some(at);
                    self.settling.push_back((at, id));
                }
                if self.policy.keep.iter().any(|rule| rule.matches(span, now)) {
                    self.keep(id, now, out);
                } else {
                    self.make_room(now, out);
                }
            }
        }
        if closes {
            self.line_up(id);
        }
    }

    /// What is decided when a trace begins.
    fn head(&mut self, trace: TraceId, now: MonoNs) -> Verdict {
        let why = if !self.policy.ratio.samples(trace) {
            Unsampled::Ratio
        } else if self.limit.as_mut().is_some_and(|limit| !limit.take(now)) {
            Unsampled::Limit
        } else {
            return Verdict::Keep;
        };
        if self.policy.keep.is_empty() {
            return Verdict::Leave(why);
        }
        let (ended, open) = (vec![], vec![]);
        Verdict::Wait(Box::new(Waiting { why, since: now, ended, open, settled: None }))
    }

    /// `false`: there is no room, and no trace that could be forgotten.
    fn remember(&mut self, id: TraceId, verdict: Verdict) -> bool {
        while self.traces.len() >= self.policy.bounds.traces.max(1) {
            let Some(oldest) = self.line.pop_front() else {
                return false;
            };
            if let Some(trace) = self.traces.get_mut(&oldest) {
                trace.in_line = false;
                if trace.open == 0 {
                    self.traces.remove(&oldest);
                }
            }
        }
        self.undecided += usize::from(matches!(verdict, Verdict::Wait(_)));
        self.traces.insert(id, Trace { verdict, open: 0, in_line: false });
        true
    }

    /// Puts a trace that is decided and has no open span into the line. One that is there stays
    /// where it is.
    fn line_up(&mut self, id: TraceId) {
        let Some(trace) = self.traces.get_mut(&id) else { return };
        if trace.open == 0 && !trace.in_line && !matches!(trace.verdict, Verdict::Wait(_)) {
            trace.in_line = true;
            self.line.push_back(id);
        }
    }

    fn is_waiting(&self, id: TraceId, since: MonoNs) -> bool {
        matches!(
            self.traces.get(&id),
            Some(Trace { verdict: Verdict::Wait(waiting), .. }) if waiting.since == since
        )
    }

    /// Decides a trace by what is known now.
    fn decide(&mut self, id: TraceId, now: MonoNs, out: &mut Vec<Span>) {
        let Some(Trace { verdict, .. }) = self.traces.get_mut(&id) else { return };
        let Verdict::Wait(waiting) = verdict else { return };
        let rules = &self.policy.keep;
        if waiting.open.iter().any(|span| rules.iter().any(|rule| rule.matches(span, now))) {
            return self.keep(id, now, out);
        }
        let (why, count) = (waiting.why, waiting.ended.len() as u64);
        *verdict = Verdict::Leave(why);
        self.undecided -= 1;
        self.stats.waiting -= count;
        self.leave(why, count);
        self.line_up(id);
    }

    fn keep(&mut self, id: TraceId, now: MonoNs, out: &mut Vec<Span>) {
        let Some(Trace { verdict, .. }) = self.traces.get_mut(&id) else { return };
        if !matches!(verdict, Verdict::Wait(_)) {
            return;
        }
        let Verdict::Wait(waiting) = std::mem::replace(verdict, Verdict::Keep) else { return };
        self.undecided -= 1;
        let count = waiting.ended.len() as u64;
        self.stats.waiting -= count;
        self.stats.passed += count;
        self.stats.kept_by_rule += 1;
        out.extend(waiting.ended);
        if let Some(limit) = &mut self.limit {
            limit.force(now);
        }
        self.line_up(id);
    }

    fn make_room(&mut self, now: MonoNs, out: &mut Vec<Span>) {
        while self.stats.waiting > self.policy.bounds.spans as u64 {
            let Some((since, trace)) = self.waiting.pop_front() else { return };
            if self.is_waiting(trace, since) {
                self.stats.decided_early_full += 1;
                self.decide(trace, now, out);
            }
        }
    }

    /// Keeps traces with an open span that is slow by now.
    fn look(&mut self, now: MonoNs, out: &mut Vec<Span>) {
        let rules = &self.policy.keep;
        let slow = |span: &Span| rules.iter().any(|rule| rule.matches(span, now));
        let found: Vec<TraceId> = self
            .waiting
            .iter()
            .filter(|(_, id)| {
                matches!(
                    self.traces.get(id),
                    Some(Trace { verdict: Verdict::Wait(waiting), .. })
                        if waiting.open.iter().any(slow)
                )
            })
            .map(|(_, id)| *id)
            .collect();
        for trace in found {
            self.keep(trace, now, out);
        }
    }

    /// Entries of traces that have been decided must not pile up behind one that has not.
    fn tidy(&mut self) {
        let most = 2 * self.undecided + 1024;
        for queue in [&mut self.waiting, &mut self.settling] {
            if queue.len() > most {
                let traces = &self.traces;
                let waits = |id: &TraceId| {
                    matches!(traces.get(id), Some(Trace { verdict: Verdict::Wait(_), .. }))
                };
                queue.retain(|(_, id)| waits(id));
            }
        }
    }

    fn leave(&mut self, why: Unsampled, count: u64) {
        self.stats.unsampled[why as usize].1 += count;
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new(Policy { ratio: Ratio::ALL, ..Policy::default() })
    }
}

fn forget_open(open: &mut Vec<Span>, id: SpanId) {
    // Spans end in about the reverse order of their beginning.
    if let Some(at) = open.iter().rposition(|span| span.span_id == id) {
        open.swap_remove(at);
    }
}
