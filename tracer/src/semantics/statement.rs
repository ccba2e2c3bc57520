//! `database_query`: what one execution of a SQLite statement says about itself.
//!
//! Keys besides the seed's are those of OpenTelemetry's semantic conventions for databases, 1.40.

use std::collections::HashSet;

use foldhash::fast::FixedState;

use super::captured::Captured;
use super::options::{Captures, Private};
use super::sql::{Cache, Statement};
use crate::events::{LeafEnd, LeafKind};
use crate::span::{Span, Value};

/// Says what statements did.
#[derive(Debug)]
pub(super) struct Statements {
    cache: Cache,
    /// Threads on which a statement was executed before.
    threads: HashSet<u32, FixedState>,
}

/// Threads remembered. Beyond, all are forgotten.
const MAX_THREADS: usize = 1 << 14;

impl Statements {
    pub fn new(captures: Captures) -> Self {
        let cache = Cache::new(captures.has(Private::SqlLiterals));
        Self { cache, threads: HashSet::default() }
    }

    /// Adds what was captured of a statement to its span.
    pub fn describe(&mut self, span: &mut Span, captured: &Captured) {
        if captured.leaf != Some(LeafKind::Statement) {
            return;
        }
        if let Some((text, truncated)) = &captured.sql
            && !text.is_empty()
        {
            let Statement { operation, table, summary, text } = self.cache.read(text, *truncated);
            let mut add = |keys: &[&str], value: Option<&str>| {
                let value = value.filter(|value| !value.is_empty());
                for key in keys.iter().filter(|_| value.is_some()) {
                    span.attributes.push(((*key).to_owned(), value.unwrap_or_default().into()));
                }
            };
            add(&["query_type", "db.operation.name"], operation.as_deref());
            add(&["table", "db.collection.name"], table.as_deref());
            add(&["db.query.summary"], summary.as_deref());
            add(&["db.query.text"], Some(&text));
        }
        if let Some(end) = &captured.end {
            // The first execution on a thread may have been under way when tracing began.
            let counted = self.counts_on(span.thread_id);
            span.attributes.extend(result(end, counted));
        }
    }
}

impl Statements {
    /// Whether a statement was executed on this thread before; from now on one was.
    fn counts_on(&mut self, thread: u32) -> bool {
        if self.threads.len() >= MAX_THREADS {
            self.threads.clear();
        }
        !self.threads.insert(thread)
    }
}

/// How it ended, as far as that was seen.
fn result(end: &LeafEnd, counted: bool) -> impl Iterator<Item = (String, Value)> {
    let rows = end
        .count
        .filter(|_| counted)
        .map(|rows| ("db.response.returned_rows", i64::from(rows).into()));
    let failed = end.status.filter(|&status| is_error(status));
    let code = failed.map(|status| ("db.response.status_code", status.to_string().into()));
    let kind = failed.map(|status| ("error.type", name_of(status).into()));
    [rows, code, kind].into_iter().flatten().map(|(key, value)| (key.to_owned(), value))
}

/// `SQLITE_OK`, `SQLITE_ROW` and `SQLITE_DONE` are none.
const fn is_error(status: i32) -> bool {
    !matches!(status & 0xff, 0 | 100 | 101)
}

/// The name of a result code (<https://sqlite.org/rescode.html>): of the extended ones those that
/// tell constraints apart, of all others the primary one.
const fn name_of(status: i32) -> &'static str {
    match status {
        275 => return "SQLITE_CONSTRAINT_CHECK",
        787 => return "SQLITE_CONSTRAINT_FOREIGNKEY",
        1299 => return "SQLITE_CONSTRAINT_NOTNULL",
        1555 => return "SQLITE_CONSTRAINT_PRIMARYKEY",
        1811 => return "SQLITE_CONSTRAINT_TRIGGER",
        2067 => return "SQLITE_CONSTRAINT_UNIQUE",
        2579 => return "SQLITE_CONSTRAINT_ROWID",
        3091 => return "SQLITE_CONSTRAINT_DATATYPE",
        517 => return "SQLITE_BUSY_SNAPSHOT",
        773 => return "SQLITE_BUSY_TIMEOUT",
        _ => {}
    }
    match status & 0xff {
        1 => "SQLITE_ERROR",
        2 => "SQLITE_INTERNAL",
        3 => "SQLITE_PERM",
        4 => "SQLITE_ABORT",
        5 => "SQLITE_BUSY",
        6 => "SQLITE_LOCKED",
        7 => "SQLITE_NOMEM",
        8 => "SQLITE_READONLY",
        9 => "SQLITE_INTERRUPT",
        10 => "SQLITE_IOERR",
        11 => "SQLITE_CORRUPT",
        12 => "SQLITE_NOTFOUND",
        13 => "SQLITE_FULL",
        14 => "SQLITE_CANTOPEN",
        15 => "SQLITE_PROTOCOL",
        17 => "SQLITE_SCHEMA",
        18 => "SQLITE_TOOBIG",
        19 => "SQLITE_CONSTRAINT",
        20 => "SQLITE_MISMATCH",
        21 => "SQLITE_MISUSE",
        22 => "SQLITE_NOLFS",
        23 => "SQLITE_AUTH",
        25 => "SQLITE_RANGE",
        26 => "SQLITE_NOTADB",
        _ => "_OTHER",
    }
}
