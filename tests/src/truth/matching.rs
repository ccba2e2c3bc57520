//! Finds the traced span of each true one.

use std::collections::HashMap;

use super::file::Truth;
use crate::trace::Trace;

/// The partner of each true span and of each traced one, by position.
#[derive(Debug)]
pub struct Pairs {
    /// Traced spans, by true span.
    pub traced: Vec<Option<usize>>,
    /// True spans, by traced span.
    pub truth: Vec<Option<usize>>,
}

/// Spans of one function: true and traced ones, by position.
#[derive(Default)]
struct Function {
    truth: Vec<usize>,
    traced: Vec<usize>,
}

/// Pairs the spans of `truth` with those of `trace`, one to one.
pub fn pair(truth: &Truth, trace: &Trace) -> Pairs {
    let mut functions: HashMap<&str, Function> = HashMap::new();
    let bodies = truth.bodies();
    for (at, span) in truth.spans.iter().enumerate() {
        if let Some(body) = bodies.get(&span.body) {
            functions.entry(&body.function).or_default().truth.push(at);
        }
    }
    for (at, span) in trace.spans.iter().enumerate() {
        if let Some(function) = functions.get_mut(span.function()) {
            function.traced.push(at);
        }
    }
    let mut pairs =
        Pairs { traced: vec![None; truth.spans.len()], truth: vec![None; trace.spans.len()] };
    for function in functions.values() {
        let Some(inside) = guard_offset(truth, trace, function) else { continue };
        pair_function(truth, trace, function, inside, &mut pairs);
    }
    pairs
}

/// Guards looked at for each traced span: those that were made next.
const NEXT: usize = 4;

/// No coroutine is larger.
const MAX_SIZE: u64 = 1 << 20;

/// How far inside the coroutine the guard lies. It is made in the first poll, so the guard made
/// next after a traced span began is its own in most cases, and it is the same distance in all of
/// these; with others of the same function the distance is any.
fn guard_offset(truth: &Truth, trace: &Trace, function: &Function) -> Option<u64> {
    let mut guards: Vec<(u64, u64)> =
        function.truth.iter().map(|&at| (truth.spans[at].start_ns, truth.spans[at].addr)).collect();
    guards.sort_unstable();
    let mut seen: HashMap<u64, u64> = HashMap::new();
    for &at in &function.traced {
        let span = &trace.spans[at];
        let next = guards.partition_point(|&(start, _)| start < span.start_mono_ns);
        for &(_, guard) in guards[next..].iter().take(NEXT) {
            let inside = guard.checked_sub(span.address).filter(|&inside| inside < MAX_SIZE);
            if let Some(inside) = inside {
                *seen.entry(inside).or_default() += 1;
            }
        }
    }
    // Of equally frequent ones the least, so that the result does not depend on hashing.
    seen.into_iter().max_by_key(|&(offset, n)| (n, std::cmp::Reverse(offset))).map(|(o, _)| o)
}

fn pair_function(
    truth: &Truth,
    trace: &Trace,
    function: &Function,
    inside: u64,
    pairs: &mut Pairs,
) {
    // By place, ordered by start: of the traced ones at a place, the latest that began before.
    let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
    for &at in &function.traced {
        places.entry(trace.spans[at].address).or_default().push(at);
    }
    for place in places.values_mut() {
        place.sort_unstable_by_key(|&at| trace.spans[at].start_mono_ns);
    }
    // In order of their beginning: where the starts of later ones were lost, the earliest is the
    // one that is in the trace.
    let mut in_order = function.truth.clone();
    in_order.sort_unstable_by_key(|&at| truth.spans[at].start_ns);
    for at in in_order {
        let span = &truth.spans[at];
        let Some(place) = span.addr.checked_sub(inside).and_then(|a| places.get(&a)) else {
            continue;
        };
        let before = place.partition_point(|&t| trace.spans[t].start_mono_ns <= span.start_ns);
        let Some(&found) = before.checked_sub(1).and_then(|last| place.get(last)) else { continue };
        let overlaps = trace.spans[found].end_mono_ns.is_none_or(|end| end >= span.start_ns);
        if overlaps && pairs.truth[found].is_none() {
            pairs.truth[found] = Some(at);
            pairs.traced[at] = Some(found);
        }
    }
}
