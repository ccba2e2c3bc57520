//! SQLite statements. An execution begins with the first step after prepare or reset, and ends
//! with a step that gives no row, or when the statement is reset or finalised before that.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated::bpf_probe_read_user_str;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use tracer_ebpf::config::Config;
use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{
    Header, Kind, LeafEnd, LeafKind, ParentSource, Payload, PayloadKind, flags,
};

use crate::drops::{count, emit_with};
use crate::hit::{Hit, read};
use crate::thread::{self, Frame, kind};
use crate::{leaf, maps, sqlx, task};

/// An execution under way.
#[derive(Clone, Copy)]
#[repr(C)]
struct Execution {
    id: u64,
    /// When its last step returned.
    end: u64,
    /// Steps begun.
    steps: u32,
    /// Steps that gave a row.
    rows: u32,
    /// What the last step returned; -1 where that was not seen.
    status: i32,
    /// Steps whose result was not seen.
    unseen: u32,
}

impl Execution {
    /// Rows returned, where every result was seen.
    #[inline(always)]
    fn rows(&self) -> u32 {
        if self.unseen == 0 { self.rows } else { LeafEnd::UNKNOWN }
    }
}

/// `SQLITE_ROW`.
const ROW: i32 = 100;

/// By `sqlite3_stmt *`.
#[map]
static STATEMENTS: HashMap<u64, Execution> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// `sqlite3_step`: rdi is the statement. The first one after prepare or reset begins an
/// execution.
#[inline(always)]
pub fn step(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::get(hit.at.tid)?;
    let rsp = hit.rsp();
    thread.heal(&hit.at, rsp + 1);
    let statement = hit.rdi();
    if statement == 0 {
        return None;
    }
    if let Some(execution) = STATEMENTS.get_ptr_mut(statement) {
        // SAFETY: SQLite serialises the use of a statement; the entry stays valid.
        unsafe {
            (*execution).steps += 1;
            // Until its result is seen.
            (*execution).unseen += 1;
            (*execution).status = -1;
        }
    } else if !is_internal(statement) {
        let id = thread.fresh_id();
        let (parent, source) = match thread.current(hit) {
            found @ (_, ParentSource::Frame | ParentSource::Spawn) => found,
            // A worker thread: the link tells later.
            _ => (0, ParentSource::Unknown),
        };
        if leaf::start(hit, id, LeafKind::Statement, statement, parent, source) {
            if matches!(source, ParentSource::Unknown) {
                let inner = thread.top().is_some_and(|top| top.kind == kind::LIBRARY);
                sqlx::executed(thread, id, inner);
            }
            let (end, steps) = (hit.at.now, 1);
            let execution = Execution { id, end, steps, rows: 0, status: -1, unseen: 1 };
            if STATEMENTS.insert(statement, execution, 0).is_err() {
                count(Counter::LeavesFull);
                leaf::end(hit, id, hit.at.now, 0, -1);
            }
            capture_text(hit, id, statement);
        }
    }
    let frame = Frame {
        rsp,
        ret: 0,
        task: 0,
        this: statement,
        id: 0,
        since: hit.at.now,
        fn_id: 0,
        kind: kind::LIBRARY,
        flags: 0,
        panics: 0,
    };
    thread.push(&frame);
    Some(())
}

/// SQLite keeps no text of what it executes for itself alone, while it reads the schema.
#[inline(always)]
fn is_internal(statement: u64) -> bool {
    let Some(offset) = maps::config().map(|config| config.sql_text_offset) else { return false };
    offset != 0 && read::<u64>(statement + u64::from(offset)) == Some(0)
}

#[inline(always)]
fn capture_text(hit: &Hit, id: u64, statement: u64) -> Option<()> {
    let config = maps::config()?;
    if config.capture & Config::CAPTURE_SQL == 0 || config.sql_text_offset == 0 {
        return None;
    }
    let text = read::<u64>(statement + u64::from(config.sql_text_offset))?;
    emit_with::<Payload>(Counter::LostPayload, |record| {
        // SAFETY: `record` is reserved space of this type and every field is written.
        unsafe {
            (*record).key = statement;
            (*record).offset = 0;
            (*record).what = PayloadKind::SqlText as u8;
            (*record).reserved = 0;
            (*record).tail = [0; 8];
            core::ptr::write_bytes(
                (*record).bytes.as_mut_ptr().cast::<u64>(),
                0,
                Payload::CAPACITY / 8,
            );
            let read = bpf_probe_read_user_str(
                (*record).bytes.as_mut_ptr().cast(),
                Payload::CAPACITY as u32,
                text as *const _,
            );
            // The length counts the terminating zero.
            let len = if read > 0 { read as u32 - 1 } else { 0 };
            if read <= 0 {
                count(Counter::ReadFaults);
            }
            let full = len as usize == Payload::CAPACITY - 1;
            (*record).header = Header {
                kind: Kind::Payload as u8,
                flags: if full { flags::TRUNCATED } else { 0 },
                fn_id: 0,
                tid: hit.at.tid,
                ts: hit.at.now,
                id,
            };
            // How much more there is was not looked at.
            (*record).len = if full { len + 1 } else { len };
            (*record).captured = len as u16;
        }
    });
    Some(())
}

/// Behind a call of `sqlite3_step`, or on its `ret`.
#[inline(always)]
pub fn step_exit(hit: &Hit, cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit.at.tid)?;
    let entered_at = task::future_entry_rsp(hit, cookie);
    thread.heal(&hit.at, entered_at);
    let top = thread.top()?;
    if top.kind != kind::LIBRARY || top.rsp != entered_at {
        count(Counter::StrayExits);
        return None;
    }
    let statement = top.this;
    thread.pop();
    let execution = STATEMENTS.get_ptr_mut(statement)?;
    // SAFETY: as in `step`.
    let execution = unsafe { &mut *execution };
    execution.end = hit.at.now;
    if cookie.flags() & Cookie::RESULT == 0 {
        return None;
    }
    let result = hit.rax() as i32;
    execution.unseen -= 1;
    execution.status = result;
    if result == ROW {
        execution.rows += 1;
        return Some(());
    }
    // Another step begins anew: SQLite resets the statement by itself.
    let done = *execution;
    let _ = STATEMENTS.remove(statement);
    leaf::end(hit, done.id, done.end, done.rows(), result);
    Some(())
}

/// `sqlite3_reset`, `sqlite3_finalize`, `sqlite3VdbeDelete`: rdi is the statement, which may be null.
#[inline(always)]
pub fn reset(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let statement = hit.rdi();
    let execution = *unsafe_get(statement)?;
    let _ = STATEMENTS.remove(statement);
    leaf::end(hit, execution.id, execution.end, execution.rows(), execution.status);
    Some(())
}

#[inline(always)]
fn unsafe_get(statement: u64) -> Option<&'static Execution> {
    // SAFETY: SQLite serialises the use of a statement; the entry stays valid.
    STATEMENTS.get_ptr(statement).map(|at| unsafe { &*at })
}
