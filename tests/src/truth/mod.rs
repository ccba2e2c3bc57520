//! Compares a trace with what the truth workload recorded of itself, span by span.
//!
//! # Who is who
//! A traced span *is* a true one if they are of one function, the true one's guard lies in the
//! traced one's coroutine, and the traced one is the latest to begin there before the true one
//! did. The guard is a local of the body, so it lies at the same distance from the coroutine's
//! address in every call; that distance is learnt, per function, from the spans themselves.
//!
//! # What is expected
//! A tracer can see only bodies that it can probe. The parent that a true span should have in
//! the trace is therefore the nearest ancestor, along `await`, `spawn` and `blocking` links, whose
//! body is probed; bodies that the compiler inlined are passed over. If that ancestor's own start
//! was lost, the span should have no parent: it is an orphan, and any parent is a wrong one.
//! Traced spans of functions that are not in the truth file are passed over in the same way.
//!
//! # What is counted
//! Every true span is exactly one of `right`, `orphaned`, `wrong_parent`, `missing`, `lost_starts`
//! and `inlined_unprobed`. See [`Verdict`].

mod compare;
mod coverage;
mod file;
mod matching;
#[cfg(test)]
mod tests;
mod verdict;

pub use compare::compare;
pub use coverage::Coverage;
pub use file::{Body, Link, Outcome, Span, Truth};
pub use verdict::Verdict;
