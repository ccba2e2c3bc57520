//! What SQLite itself says about the statements it executes, through `sqlite3_trace_v2`.

use crate::asker::{from_span, take_ask};
use crate::{next_seq, writer, Asker, Interval, Line, Stamp};
use libsqlite3_sys as ffi;
use std::ffi::{c_int, c_uint, c_void, CStr};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT_CONN: AtomicU32 = AtomicU32::new(1);

/// What the callback keeps for one connection. Only ever touched by the thread that works the
/// connection: SQLite calls back on the thread that steps, resets or closes.
struct Connection {
    number: u32,
    running: Vec<Running>,
}

/// A statement between its first step and its end.
struct Running {
    /// Its address; an identity only, never followed.
    statement: usize,
    sql: String,
    asker: Option<Asker>,
    ask: Option<u64>,
    start: Stamp,
}

/// Records every statement that is executed on the connection from now on until it is closed.
///
/// # Safety
/// `handle` must be a valid connection, held exclusively for the duration of the call, and used by
/// one thread at a time afterwards, as sqlx does.
pub unsafe fn watch(handle: *mut ffi::sqlite3) {
    let number = NEXT_CONN.fetch_add(1, Ordering::Relaxed);
    let state = Box::into_raw(Box::new(Connection { number, running: Vec::new() }));
    let events = ffi::SQLITE_TRACE_STMT | ffi::SQLITE_TRACE_PROFILE | ffi::SQLITE_TRACE_CLOSE;
    // SAFETY: the caller vouches for the handle; the state lives until the close event frees it.
    unsafe {
        ffi::sqlite3_trace_v2(handle, events as c_uint, Some(on_event), state.cast::<c_void>());
    }
}

/// The callback; the meaning of `p` and `x` is that of <https://sqlite.org/c3ref/c_trace.html>.
unsafe extern "C" fn on_event(
    event: c_uint,
    state: *mut c_void,
    p: *mut c_void,
    x: *mut c_void,
) -> c_int {
    let state = state.cast::<Connection>();
    match event as c_int {
        // SAFETY: `state` is the box made in `watch`, alive until the close event; `p` is a
        // statement and `x` its text, both valid during the call.
        ffi::SQLITE_TRACE_STMT => unsafe { (*state).begin(p as usize, CStr::from_ptr(x.cast())) },
        // SAFETY: as above; `x` points to a 64-bit count of nanoseconds.
        ffi::SQLITE_TRACE_PROFILE => unsafe { (*state).end(p as usize, *x.cast::<i64>()) },
        // SAFETY: the last event of the connection; nobody else owns the box.
        ffi::SQLITE_TRACE_CLOSE => unsafe { drop(Box::from_raw(state)) },
        _ => {}
    }
    0
}

impl Connection {
    fn begin(&mut self, statement: usize, sql: &CStr) {
        let start = Stamp::now();
        let sql = sql.to_string_lossy().into_owned();
        // The worker thread of sqlx enters the span in which the statement was asked for.
        let asker = from_span();
        let ask = take_ask(asker, &sql);
        self.running.push(Running { statement, sql, asker, ask, start });
    }

    fn end(&mut self, statement: usize, sqlite_ns: i64) {
        let Some(at) = self.running.iter().position(|running| running.statement == statement)
        else {
            return;
        };
        let Running { statement: _, sql, asker, ask, start } = self.running.swap_remove(at);
        writer::write(Line::Statement {
            seq: next_seq(),
            conn: self.number,
            tid: rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned(),
            ask,
            asker,
            sql,
            sqlite_ns: sqlite_ns.try_into().unwrap_or(0),
            when: Interval::since(start),
        });
    }
}
