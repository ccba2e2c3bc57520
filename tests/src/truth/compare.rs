//! The comparison itself: pure, so that it can be tested with traces that are wrong on purpose.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Result;

use super::coverage::Coverage;
use super::file::{Outcome, Truth};
use super::matching::{self, Pairs};
use super::verdict::Verdict;
use crate::trace::Trace;

/// Losses after which a span is not in the trace at all.
const STARTS: [&str; 5] =
    ["lost_span_start", "futures_full", "threads_full", "stack_full", "open_spans_full"];

/// Losses after which a span's outcome may be unknown.
const ENDS: [&str; 2] = ["lost_span_end", "lost_task_end"];

const EXAMPLES: usize = 20;

/// Compares `trace` with `truth`.
///
/// # Errors
/// The trace has no summary.
pub fn compare(truth: &Truth, trace: &Trace, coverage: &Coverage) -> Result<Verdict> {
    let summary = trace.summary()?;
    let pairs = matching::pair(truth, trace);
    let names: HashSet<&str> = truth.header.bodies.iter().map(|b| b.function.as_str()).collect();
    let mut comparison = Comparison {
        truth,
        trace,
        by_id: trace.by_id(),
        is_body: trace.spans.iter().map(|span| names.contains(span.function())).collect(),
        visible: visible(truth, coverage, &pairs),
        pairs,
        verdict: Verdict {
            spans: truth.spans.len() as u64,
            records: summary.records,
            hits: summary.hits,
            drops: summary.lost(),
            ..Verdict::default()
        },
    };
    comparison.spans();
    comparison.invented();
    Ok(comparison.settle())
}

/// Which true spans had a probed function where they were called. A function may be there and
/// have been inlined in other places nevertheless; `inspect` names them.
fn visible(truth: &Truth, coverage: &Coverage, pairs: &Pairs) -> Vec<bool> {
    let bodies = truth.bodies();
    let inlined = coverage.inlined_into(truth);
    let names: HashSet<&str> = truth.header.bodies.iter().map(|b| b.function.as_str()).collect();
    let is_visible = |at: usize| {
        if pairs.traced[at].is_some() {
            return true;
        }
        let span = &truth.spans[at];
        let Some(body) = bodies.get(&span.body).filter(|body| coverage.is_probed(body)) else {
            return false;
        };
        let Some(hosts) = inlined.get(&body.id) else { return true };
        // In a function that is no body (a combinator's poll), it may be any call.
        if hosts.iter().any(|host| !names.contains(host.as_str())) {
            return false;
        }
        // In a body's function: that body, or one inlined into it, must be among the ancestors.
        let mut above = span.parent;
        while let Some(id) = above {
            let parent = truth.span(id);
            if bodies.get(&parent.body).is_some_and(|body| hosts.contains(&body.function)) {
                return false;
            }
            if pairs.traced[id as usize - 1].is_some() {
                break;
            }
            above = parent.parent;
        }
        true
    };
    (0..truth.spans.len()).map(is_visible).collect()
}

struct Comparison<'a> {
    truth: &'a Truth,
    trace: &'a Trace,
    by_id: HashMap<&'a str, usize>,
    /// By traced span: whether its function is in the truth file.
    is_body: Vec<bool>,
    visible: Vec<bool>,
    pairs: Pairs,
    verdict: Verdict,
}

/// The parent that a true span should have in the trace.
enum Expected {
    /// None: it is a root, or nothing above it is probed.
    Root,
    /// This true span, which is traced.
    Traced(usize),
    /// Its parent is probed and not in the trace: it has to be an orphan.
    Absent,
}

impl Comparison<'_> {
    fn spans(&mut self) {
        let mut inlined: BTreeMap<u32, u64> = BTreeMap::new();
        for at in 0..self.truth.spans.len() {
            if !self.visible[at] {
                self.verdict.inlined_unprobed += 1;
                *inlined.entry(self.truth.spans[at].body).or_default() += 1;
                continue;
            }
            self.verdict.probed += 1;
            match self.pairs.traced[at] {
                None => {
                    self.verdict.missing += 1;
                    self.example("not traced", at, None);
                }
                Some(traced) => {
                    self.parent(at, traced);
                    self.outcome(at, traced);
                    self.polls(at, traced);
                }
            }
        }
        let bodies = self.truth.bodies();
        let mut inlined: Vec<(String, u64)> = inlined
            .into_iter()
            .filter_map(|(body, n)| Some((bodies.get(&body)?.function.clone(), n)))
            .collect();
        inlined.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        inlined.truncate(10);
        self.verdict.inlined = inlined;
    }

    fn expected(&self, at: usize) -> Expected {
        let mut above = self.truth.spans[at].parent;
        while let Some(id) = above {
            let at = id as usize - 1;
            if self.pairs.traced[at].is_some() {
                return Expected::Traced(at);
            }
            if self.visible[at] {
                return Expected::Absent;
            }
            above = self.truth.spans[at].parent;
        }
        Expected::Root
    }

    /// The true span above a traced one in the trace; spans that are not in the truth file (of a
    /// plain function, say) are passed over. `Err`: a parent that is in the trace, but no true span.
    fn found(&self, traced: usize) -> Result<Option<usize>, usize> {
        let mut at = traced;
        for _ in 0..self.trace.spans.len() {
            let Some(id) = self.trace.spans[at].parent_id.as_deref() else { return Ok(None) };
            // A parent whose own span is not in the trace counts as one that is unknown.
            let Some(&parent) = self.by_id.get(id) else { return Ok(None) };
            if let Some(truth) = self.pairs.truth[parent] {
                return Ok(Some(truth));
            }
            if self.is_body[parent] {
                return Err(parent);
            }
            at = parent;
        }
        Err(at)
    }

    fn parent(&mut self, at: usize, traced: usize) {
        match (self.expected(at), self.found(traced)) {
            (Expected::Root, Ok(None)) => self.verdict.right += 1,
            (Expected::Traced(expected), Ok(Some(found))) if expected == found => {
                self.verdict.right += 1;
            }
            (Expected::Traced(_) | Expected::Absent, Ok(None)) => {
                self.verdict.orphaned += 1;
                self.example("orphaned", at, Some(traced));
            }
            (_, Ok(Some(_)) | Err(_)) => {
                self.verdict.wrong_parent += 1;
                self.example("wrong parent", at, Some(traced));
            }
        }
    }

    fn outcome(&mut self, at: usize, traced: usize) {
        let outcome = self.trace.spans[traced].outcome.as_str();
        if self.truth.spans[at].outcome.is(outcome) {
            return;
        }
        // Whether a loss excuses it is settled at the end. A span whose end was lost is unknown,
        // or found running when tracing stops.
        let running = outcome == "running" && self.truth.spans[at].outcome != Outcome::Running;
        if outcome == "unknown" || running {
            self.verdict.outcome_unknown += 1;
        } else {
            self.verdict.outcome_wrong += 1;
        }
        self.example("outcome", at, Some(traced));
    }

    fn polls(&mut self, at: usize, traced: usize) {
        let Some(polls) = self.truth.spans[at].polls else { return };
        match self.trace.spans[traced].polls() {
            None => self.verdict.polls_unknown += 1,
            Some(traced) if traced == polls => {}
            Some(_) => {
                self.verdict.polls_wrong += 1;
                self.example("polls", at, Some(traced));
            }
        }
    }

    fn invented(&mut self) {
        for at in 0..self.trace.spans.len() {
            if self.pairs.truth[at].is_none() && self.is_body[at] {
                self.verdict.invented += 1;
                if self.verdict.examples.len() < EXAMPLES {
                    let span = &self.trace.spans[at];
                    let text = format!("invented: {} {}", span.function(), span.span_id);
                    self.verdict.examples.push(text);
                }
            }
        }
    }

    /// Tells apart what a counted loss explains and what nothing does.
    fn settle(self) -> Verdict {
        let mut verdict = self.verdict;
        let counted = |names: &[&str]| -> u64 {
            names.iter().filter_map(|name| verdict.drops.get(*name)).sum()
        };
        let (starts, ends, span_ends) = (counted(&STARTS), counted(&ENDS), counted(&ENDS[..1]));
        verdict.lost_starts = verdict.missing.min(starts);
        verdict.missing -= verdict.lost_starts;
        if ends == 0 {
            // Nothing excuses not knowing.
            verdict.outcome_wrong += verdict.outcome_unknown;
            verdict.outcome_unknown = 0;
        } else {
            // Who claims to know more outcomes than there were records has made some up. One
            // lost record may leave several unknown: a task's, or that of what they lie in.
            verdict.outcome_wrong += span_ends.saturating_sub(verdict.outcome_unknown);
        }
        verdict.lost_ends = ends;
        verdict.lost = verdict.lost_starts + verdict.lost_ends;
        verdict
    }

    fn example(&mut self, what: &str, at: usize, traced: Option<usize>) {
        if self.verdict.examples.len() >= EXAMPLES {
            return;
        }
        let span = &self.truth.spans[at];
        let bodies = self.truth.bodies();
        let function = bodies.get(&span.body).map_or("?", |body| body.function.as_str());
        let mut text = format!(
            "{what}: {function} #{} below {:?} by {:?}, {:?}, {:?} polls",
            span.id, span.parent, span.link, span.outcome, span.polls
        );
        if let Some(traced) = traced {
            let traced = &self.trace.spans[traced];
            text.push_str(&format!(
                "; traced {} below {:?}, {}, {:?} polls",
                traced.span_id,
                traced.parent_id,
                traced.outcome,
                traced.polls()
            ));
        }
        self.verdict.examples.push(text);
    }
}
