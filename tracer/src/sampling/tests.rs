//! Decisions, and that no combination of them breaks a tree.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::assemble::Output;
use crate::span::{MonoNs, Outcome, Span, SpanId, SpanKind, TraceId, Value};

const MS: u64 = 1_000_000;

fn span(trace: u128, id: u64, parent: Option<u64>, start_ms: u64) -> Span {
    Span {
        trace_id: TraceId(trace),
        span_id: SpanId(id),
        parent_id: parent.map(SpanId),
        name: "work".into(),
        function: "a::work".into(),
        kind: SpanKind::Internal,
        start: MonoNs(start_ms * MS),
        end: None,
        start_is_late: false,
        outcome: Outcome::Running,
        orphan: None,
        thread_id: 1,
        address: 0,
        polls: None,
        busy_ns: None,
        attributes: vec![],
        events: vec![],
    }
}

fn ended(mut span: Span, end_ms: u64, outcome: Outcome) -> Span {
    span.end = Some(MonoNs(end_ms * MS));
    span.outcome = outcome;
    span
}

/// A trace id that a ratio of one half samples, or does not.
fn id(n: u128, sampled: bool) -> u128 {
    n << 64 | if sampled { 1 } else { u128::from(u64::MAX) }
}

fn half(keep: &[&str]) -> Policy {
    let keep = keep.iter().map(|rule| rule.parse().unwrap()).collect();
    Policy { ratio: Ratio::clamped(0.5).0, keep, ..Policy::default() }
}

struct Run {
    sampler: Sampler,
    now: u64,
    out: Vec<Span>,
}

impl Run {
    fn new(policy: Policy) -> Self {
        Self { sampler: Sampler::new(policy), now: 0, out: vec![] }
    }

    fn start(&mut self, span: &Span) {
        self.now = self.now.max(span.start.0);
        self.sampler.offer(&Output::Started(span.clone()), MonoNs(self.now), &mut self.out);
    }

    fn end(&mut self, span: Span) {
        self.now = self.now.max(span.end.unwrap().0);
        self.sampler.offer(&Output::Ended(span), MonoNs(self.now), &mut self.out);
    }

    fn at(&mut self, ms: u64) {
        self.now = self.now.max(ms * MS);
        self.sampler.advance(MonoNs(self.now), &mut self.out);
    }

    fn passed(&self) -> Vec<u64> {
        self.out.iter().map(|span| span.span_id.0).collect()
    }
}

/// A root and a child, the child ending with `outcome`.
fn two(run: &mut Run, trace: u128, ids: [u64; 2], outcome: Outcome) {
    let root = span(trace, ids[0], None, 0);
    let child = span(trace, ids[1], Some(ids[0]), 1);
    run.start(&root);
    run.start(&child);
    run.end(ended(child, 2, outcome));
    run.end(ended(root, 3, Outcome::Returned));
}

#[test]
fn the_id_decides_as_opentelemetry_has_it() {
    let ratio = |ratio: f64, low: u64| Ratio::clamped(ratio).0.samples(TraceId(low.into()));
    assert!(ratio(1.0, u64::MAX) && !ratio(0.0, 0) && ratio(0.5, 0) && !ratio(0.5, u64::MAX));
    assert!(ratio(0.25, (1 << 62) - 1) && !ratio(0.25, 1 << 62));
    assert_eq!(Ratio::clamped(2.0), (Ratio::ALL, true));
    assert_eq!(Ratio::clamped(-1.0), (Ratio::NONE, true));
    assert_eq!(Ratio::clamped(f64::NAN), (Ratio::ALL, true));
    assert!(!Ratio::clamped(0.1).1);
    assert!("1.5".parse::<Ratio>().is_err() && "x".parse::<Ratio>().is_err());
}

#[test]
fn whole_traces_pass_or_do_not() {
    let mut run = Run::new(half(&[]));
    two(&mut run, id(1, true), [1, 2], Outcome::Returned);
    two(&mut run, id(2, false), [3, 4], Outcome::Error);
    assert_eq!(run.passed(), [2, 1]);
    let stats = run.sampler.stats();
    assert_eq!((stats.offered, stats.passed, stats.unsampled[0]), (4, 2, ("unsampled_ratio", 2)));
}

#[test]
fn an_error_keeps_the_whole_trace() {
    let mut run = Run::new(half(&["error"]));
    two(&mut run, id(1, false), [1, 2], Outcome::Panicked);
    two(&mut run, id(2, false), [3, 4], Outcome::Returned);
    assert_eq!(run.passed(), [2, 1]);
    assert_eq!(run.sampler.stats().waiting, 2);
    run.at(900);
    assert_eq!(run.sampler.stats().waiting, 2, "something may have been spawned");
    run.at(1100);
    let stats = run.sampler.stats();
    assert_eq!((stats.waiting, stats.unsampled(), stats.kept_by_rule), (0, 2, 1));
    assert!(stats.balanced());
}

#[test]
fn what_begins_late_follows_its_trace() {
    let mut run = Run::new(half(&["error"]));
    two(&mut run, id(1, false), [1, 2], Outcome::Returned);
    // Spawned by the trace, and begun before it settled.
    let task = span(id(1, false), 5, Some(1), 500);
    run.start(&task);
    run.at(1500);
    assert_eq!(run.sampler.stats().waiting, 2);
    run.end(ended(task, 1600, Outcome::Error));
    assert_eq!(run.passed(), [2, 1, 5]);
    // And after it was kept.
    let task = span(id(1, false), 6, Some(1), 9000);
    run.start(&task);
    run.end(ended(task, 9001, Outcome::Returned));
    assert_eq!(run.passed(), [2, 1, 5, 6]);
}

#[test]
fn slow_traces_are_kept_while_they_run() {
    let mut run = Run::new(half(&["name=work,slower=2s"]));
    let root = span(id(1, false), 1, None, 0);
    let child = span(id(1, false), 2, Some(1), 1);
    run.start(&root);
    run.start(&child);
    run.end(ended(child, 2, Outcome::Returned));
    run.at(1900);
    assert!(run.out.is_empty());
    run.at(3000);
    assert_eq!(run.passed(), [2], "it need not wait for its end");
    run.end(ended(root, 4000, Outcome::Returned));
    assert_eq!(run.passed(), [2, 1]);
    // A quick one is not.
    two(&mut run, id(2, false), [3, 4], Outcome::Returned);
    run.at(9000);
    assert_eq!(run.passed(), [2, 1]);
}

#[test]
fn a_limit_of_traces_in_a_second() {
    let policy = Policy { traces_per_second: Some(2), ..Policy::default() };
    let mut run = Run::new(policy.clone());
    for n in 0..5 {
        two(&mut run, n + 1, [n as u64 * 2 + 1, n as u64 * 2 + 2], Outcome::Returned);
    }
    assert_eq!(run.sampler.stats().passed, 4);
    assert_eq!(run.sampler.stats().unsampled[1], ("unsampled_limit", 6));
    // Half a second brings one.
    run.at(510);
    let root = span(100, 100, None, 510);
    run.start(&root);
    run.end(ended(root, 511, Outcome::Returned));
    let root = span(101, 101, None, 512);
    run.start(&root);
    run.end(ended(root, 513, Outcome::Returned));
    assert_eq!(run.sampler.stats().passed, 5);
    // Rules are not limited, and leave less for the others.
    let keep = vec!["error".parse().unwrap()];
    let mut run = Run::new(Policy { keep, ..policy });
    for n in 0..5 {
        two(&mut run, n + 1, [n as u64 * 2 + 1, n as u64 * 2 + 2], Outcome::Error);
    }
    assert_eq!(run.sampler.stats().passed, 10);
}

#[test]
fn too_much_that_waits_is_decided_by_the_head() {
    let mut policy = half(&["error"]);
    policy.bounds.spans = 3;
    let mut run = Run::new(policy);
    let root = span(id(1, false), 1, None, 0);
    run.start(&root);
    for n in 2..8 {
        let child = span(id(1, false), n, Some(1), 1);
        run.start(&child);
        run.end(ended(child, 2, Outcome::Returned));
        assert!(run.sampler.stats().waiting <= 3);
    }
    // Too late: the others are gone, and an only child would break the tree.
    let child = span(id(1, false), 9, Some(1), 3);
    run.start(&child);
    run.end(ended(child, 4, Outcome::Error));
    run.end(ended(root, 5, Outcome::Returned));
    let stats = run.sampler.stats();
    assert_eq!((stats.passed, stats.unsampled(), stats.decided_early_full), (0, 8, 1));
}

#[test]
fn nothing_waits_for_ever() {
    let mut policy = half(&["error"]);
    policy.bounds.wait = Duration::from_secs(10);
    let mut run = Run::new(policy);
    let root = span(id(1, false), 1, None, 0);
    let child = span(id(1, false), 2, Some(1), 0);
    run.start(&root);
    run.start(&child);
    run.end(ended(child, 1, Outcome::Returned));
    run.at(9_999);
    assert_eq!(run.sampler.stats().waiting, 1);
    run.at(10_000);
    let stats = run.sampler.stats();
    assert_eq!((stats.waiting, stats.unsampled(), stats.decided_early_late), (0, 1, 1));
}

#[test]
fn a_remote_parent_decides() {
    let mut run = Run::new(half(&[]));
    run.sampler.remote_parent(TraceId(id(1, false)), true);
    run.sampler.remote_parent(TraceId(id(2, true)), false);
    for (trace, n) in [(id(1, false), 1), (id(2, true), 2)] {
        let served = span(trace, n, Some(99), 0);
        run.start(&served);
        run.end(ended(served, 1, Outcome::Returned));
    }
    assert_eq!(run.passed(), [1]);
}

#[test]
fn rules_are_read_as_written() {
    let mut slow = ended(span(1, 1, None, 0), 600, Outcome::Returned);
    slow.name = "tool_call".into();
    slow.attributes = vec![
        ("tool_name".to_owned(), Value::from("Bash, and more")),
        ("http.response.status_code".to_owned(), Value::from(503)),
        ("cached".to_owned(), Value::from(true)),
    ];
    let matches = |rule: &str| {
        let rule: KeepRule = rule.parse().unwrap();
        assert_eq!(
            serde_json::from_str::<KeepRule>(&serde_json::to_string(&rule).unwrap()).unwrap(),
            rule
        );
        rule.matches(&slow, MonoNs(0))
    };
    for rule in [
        "slower=500ms",
        "slower=0.6s",
        "name=tool_call",
        "name=tool_*",
        "name=*_*l",
        "attr:tool_name",
        "attr:tool_name=Bash\\, and more",
        "attr:tool_name=Bash*",
        "attr:http.response.status_code=5*",
        "attr:cached=true",
        "attr:code.function.name=a::*",
        "outcome=returned",
        "name=tool_call, slower=500ms",
    ] {
        assert!(matches(rule), "{rule}");
    }
    for rule in [
        "error",
        "slower=601ms",
        "name=tool",
        "name=*tool",
        "name=tool_call\\*",
        "attr:missing",
        "attr:tool_name=bash*",
        "outcome=cancelled",
        "name=tool_call,error",
    ] {
        assert!(!matches(rule), "{rule}");
    }
    for wrong in
        ["", "errors", "slower=soon", "slower=-1s", "outcome=bad", "attr:", "attr:=x", "error,"]
    {
        let error = wrong.parse::<KeepRule>().unwrap_err().to_string();
        assert!(error.contains("write"), "{wrong}: {error}");
    }
}

/// What happens next in a run of made-up traces.
#[derive(Clone, Debug)]
enum Step {
    Root {
        sampled: bool,
    },
    /// A child of the span at this place among all, ended ones included.
    Child {
        of: prop::sample::Index,
    },
    End {
        which: prop::sample::Index,
        outcome: Outcome,
    },
    Time {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        6 => Just(Outcome::Returned),
        1 => Just(Outcome::Error),
        1 => Just(Outcome::Panicked),
        1 => Just(Outcome::Cancelled),
    ];
    prop_oneof![
        2 => any::<bool>().prop_map(|sampled| Step::Root { sampled }),
        5 => any::<prop::sample::Index>().prop_map(|of| Step::Child { of }),
        5 => (any::<prop::sample::Index>(), outcome)
            .prop_map(|(which, outcome)| Step::End { which, outcome }),
        2 => (0..3_000_u64).prop_map(|ms| Step::Time { ms }),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let rule = prop_oneof![
        Just("error"),
        Just("outcome=cancelled"),
        Just("slower=700ms"),
        Just("name=odd"),
        Just("name=odd,slower=100ms"),
        Just("attr:n=7"),
    ];
    let bounds = (1..40_usize, 0..60_usize, 0..8_u64, 0..2_u64);
    (
        prop_oneof![Just(0.0), Just(0.5), Just(1.0)],
        prop::option::of(0..5_u32),
        prop::collection::vec(rule, 0..3),
        prop::option::of(bounds),
    )
        .prop_map(|(ratio, traces_per_second, keep, bounds)| Policy {
            ratio: Ratio::clamped(ratio).0,
            traces_per_second,
            keep: keep.into_iter().map(|rule| rule.parse().unwrap()).collect(),
            bounds: bounds.map_or_else(Bounds::default, |(traces, spans, wait, settle)| Bounds {
                traces,
                spans,
                wait: Duration::from_secs(wait),
                settle: Duration::from_secs(settle),
            }),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_combination_breaks_a_tree(
        policy in policy(),
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let bounds = policy.bounds;
        let ample = bounds == Bounds::default();
        let mut run = Run::new(policy.clone());
        let mut all: Vec<Span> = vec![];
        let mut open: Vec<usize> = vec![];
        let end = |run: &mut Run, span: &Span, outcome| {
            run.end(ended(span.clone(), run.now / MS, outcome));
        };
        for step in steps {
            match step {
                Step::Root { sampled } => {
                    let n = all.len() as u64 + 1;
                    let mut root = span(id(n.into(), sampled), n, None, run.now / MS);
                    root.name = if n % 2 == 1 { "odd".into() } else { "even".into() };
                    run.start(&root);
                    open.push(all.len());
                    all.push(root);
                }
                Step::Child { of } if !all.is_empty() => {
                    let parent = &all[of.index(all.len())];
                    let n = all.len() as u64 + 1;
                    let mut child =
                        span(parent.trace_id.0, n, Some(parent.span_id.0), run.now / MS);
                    child.attributes.push(("n".to_owned(), Value::from(n as i64 % 50)));
                    run.start(&child);
                    open.push(all.len());
                    all.push(child);
                }
                Step::End { which, outcome } if !open.is_empty() => {
                    let at = open.swap_remove(which.index(open.len()));
                    end(&mut run, &all[at], outcome);
                }
                Step::Time { ms } => {
                    let at = run.now / MS + ms;
                    run.at(at);
                }
                Step::Child { .. } | Step::End { .. } => {}
            }
            let stats = run.sampler.stats();
            prop_assert!(stats.balanced(), "{:?}", stats);
            prop_assert!(stats.waiting <= bounds.spans as u64);
            prop_assert_eq!(stats.passed, run.out.len() as u64);
        }
        for at in open {
            end(&mut run, &all[at], Outcome::Running);
        }
        let now = MonoNs(run.now);
        run.sampler.finish(now, &mut run.out);
        let stats = run.sampler.stats();
        prop_assert!(stats.balanced() && stats.waiting == 0, "{:?}", stats);
        prop_assert_eq!(stats.offered, all.len() as u64);

        let passed: HashSet<u64> = run.out.iter().map(|span| span.span_id.0).collect();
        prop_assert_eq!(passed.len(), run.out.len(), "a span passed twice");
        for span in &run.out {
            if let Some(parent) = span.parent_id {
                prop_assert!(passed.contains(&parent.0), "{:?} without its parent", span);
            }
        }
        // Where nothing had to be forgotten, a trace is whole or not there; and what the ratio
        // takes is there, unless a limit was in the way.
        if ample {
            let mut by_trace: HashMap<u128, (usize, usize)> = HashMap::new();
            for span in &all {
                let counts = by_trace.entry(span.trace_id.0).or_default();
                counts.0 += 1;
                counts.1 += usize::from(passed.contains(&span.span_id.0));
            }
            for (trace, (there, passed)) in by_trace {
                prop_assert!(passed == 0 || passed == there, "{passed} of {there}");
                if policy.traces_per_second.is_none() && policy.ratio.samples(TraceId(trace)) {
                    prop_assert_eq!(passed, there);
                }
            }
        }
    }
}
