//! Who asks: for statements, by two independent means (see the crate's documentation).

use crate::{next_seq, writer, Line, Stamp};
use serde::Serialize;
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{LazyLock, Mutex, PoisonError};
use tracing::Span;
use tracing_subscriber::registry::{LookupSpan, SpanData};
use tracing_subscriber::{Layer, Registry};
use uuid::Uuid;

/// On whose behalf work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Asker {
    /// An agent's loop.
    Agent(Uuid),
    /// A request that the web server serves, by its `seq`.
    Request(u64),
}

impl Asker {
    /// The agent, if it is one.
    pub fn agent(self) -> Option<Uuid> {
        match self {
            Self::Agent(agent) => Some(agent),
            Self::Request(_) => None,
        }
    }
}

struct Scope {
    asker: Asker,
    tool: Cell<Option<u64>>,
}

tokio::task_local! {
    static SCOPE: Scope;
}

/// Runs `future` as work of `asker`.
pub fn scope<F: Future>(asker: Asker, future: F) -> impl Future<Output = F::Output> {
    SCOPE.scope(Scope { asker, tool: Cell::new(None) }, future)
}

pub(crate) fn current() -> Option<Asker> {
    SCOPE.try_with(|scope| scope.asker).ok()
}

/// The `seq` of the tool that runs, if one does.
pub fn current_tool() -> Option<u64> {
    SCOPE.try_with(|scope| scope.tool.get()).ok().flatten()
}

pub(crate) fn set_tool(tool: Option<u64>) {
    // Outside of a scope there is nobody to have a tool.
    SCOPE.try_with(|scope| scope.tool.set(tool)).ok();
}

/// Asks not yet executed, oldest first.
type Pending = HashMap<(Option<Asker>, String), VecDeque<u64>>;
static PENDING: LazyLock<Mutex<Pending>> = LazyLock::new(Mutex::default);

/// Records that the current asker is about to have `sql` executed.
pub fn ask(sql: &str) {
    let seq = next_seq();
    let asker = current();
    PENDING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry((asker, sql.to_owned()))
        .or_default()
        .push_back(seq);
    writer::write(Line::Ask {
        seq,
        asker,
        tool: current_tool(),
        sql: sql.to_owned(),
        at: Stamp::now(),
    });
}

/// Takes the oldest ask of `asker` for `sql`.
pub(crate) fn take_ask(asker: Option<Asker>, sql: &str) -> Option<u64> {
    PENDING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_mut(&(asker, sql.to_owned()))?
        .pop_front()
}

/// Notes on the current `tracing` span that it is work of `asker`.
pub fn bind_span(asker: Asker) {
    with_current_span(|span| {
        span.extensions_mut().replace(asker);
    });
}

/// Who the current `tracing` span says is asking.
pub(crate) fn from_span() -> Option<Asker> {
    with_current_span(|span| span.extensions().get::<Asker>().copied()).flatten()
}

fn with_current_span<R>(then: impl FnOnce(<Registry as LookupSpan<'_>>::Data) -> R) -> Option<R> {
    Span::current()
        .with_subscriber(|(id, dispatch)| {
            dispatch
                .downcast_ref::<Registry>()
                .and_then(|registry| registry.span_data(id))
                .map(then)
        })
        .flatten()
}

/// A layer that does nothing but keep the spans of agents and requests enabled, whatever the log
/// filter says: statements are told apart by them.
pub struct KeepSpans;

impl KeepSpans {
    /// The layer with its filter.
    pub fn layer<S>() -> impl Layer<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        Self.with_filter(tracing_subscriber::filter::filter_fn(|metadata| {
            metadata.is_span() && matches!(metadata.name(), "run" | "request")
        }))
    }
}

impl<S: tracing::Subscriber> Layer<S> for KeepSpans {}
