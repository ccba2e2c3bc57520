//! Rate, errors and durations per span name.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::span::{Outcome, Span};

/// Names counted by themselves; the rest are counted together.
const MAX_NAMES: usize = 256;
/// The name of the rest.
const OTHER: &str = "other";
/// Upper ends of the buckets of durations, in seconds.
pub(super) const BUCKETS: [f64; 10] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];
/// How a span can end, in the order of [`Rate::outcomes`].
pub(super) const OUTCOMES: [Outcome; 6] = [
    Outcome::Returned,
    Outcome::Error,
    Outcome::Panicked,
    Outcome::Cancelled,
    Outcome::Running,
    Outcome::Unknown,
];

/// Of one span name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rate {
    /// Spans by outcome, in the order of [`OUTCOMES`].
    pub(super) outcomes: [u64; 6],
    /// Durations up to each of [`BUCKETS`], and longer ones: not cumulative.
    pub(super) buckets: [u64; BUCKETS.len() + 1],
    /// All durations, in seconds.
    pub(super) seconds: f64,
}

/// By span name.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates(BTreeMap<Arc<str>, Rate>);

impl Rates {
    /// Counts a span that has ended.
    pub(super) fn count(&mut self, span: &Span) {
        let Self(names) = self;
        let rate = if names.contains_key(&span.name) || names.len() < MAX_NAMES {
            names.entry(Arc::clone(&span.name)).or_default()
        } else {
            names.entry(Arc::from(OTHER)).or_default()
        };
        let outcome = OUTCOMES.iter().position(|outcome| *outcome == span.outcome).unwrap_or(5);
        rate.outcomes[outcome] += 1;
        if let Some(ns) = span.duration_ns() {
            let seconds = ns as f64 / 1e9;
            let bucket = BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(BUCKETS.len());
            rate.buckets[bucket] += 1;
            rate.seconds += seconds;
        }
    }

    /// In order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Rate)> {
        self.0.iter().map(|(name, rate)| (&**name, rate))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::span::{MonoNs, SpanId, SpanKind, TraceId};

    pub(crate) fn span(name: &str, outcome: Outcome, ns: Option<u64>) -> Span {
        Span {
            trace_id: TraceId(1),
            span_id: SpanId(1),
            parent_id: None,
            name: name.into(),
            function: "f".into(),
            kind: SpanKind::Internal,
            start: MonoNs(5),
            end: ns.map(|ns| MonoNs(5 + ns)),
            start_is_late: false,
            outcome,
            orphan: None,
            thread_id: 1,
            address: 0,
            polls: None,
            busy_ns: None,
            attributes: vec![],
            events: vec![],
        }
    }

    #[test]
    fn spans_are_counted_by_name_outcome_and_duration() {
        let mut rates = Rates::default();
        rates.count(&span("a", Outcome::Returned, Some(1_000_000)));
        rates.count(&span("a", Outcome::Error, Some(2_000_000)));
        rates.count(&span("a", Outcome::Running, None));
        rates.count(&span("b", Outcome::Returned, Some(4_000_000_000_000)));
        let all: Vec<_> = rates.iter().collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].1.outcomes, [1, 1, 0, 0, 1, 0]);
        assert_eq!(all[0].1.buckets[..2], [1, 1]);
        assert_eq!(all[1].1.buckets[BUCKETS.len()], 1);
        assert!((all[0].1.seconds - 0.003).abs() < 1e-9);
    }

    #[test]
    fn names_are_bounded() {
        let mut rates = Rates::default();
        for i in 0..1000 {
            rates.count(&span(&format!("n{i}"), Outcome::Returned, Some(1)));
        }
        assert_eq!(rates.iter().count(), MAX_NAMES + 1);
        let other = rates.iter().find(|(name, _)| *name == OTHER).unwrap().1;
        assert_eq!(other.outcomes[0], (1000 - MAX_NAMES) as u64);
    }
}
