//! SQLite statements, and the proven link from sqlx's worker thread to the future that asked.
//!
//! The worker sends each result through the query's own channel, and the asking future receives
//! from it: an item belongs to the next `recv` of its channel.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated::bpf_probe_read_user_str;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use tracer_ebpf::config::Config;
use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{Header, Kind, LeafKind, ParentSource, Payload, PayloadKind, flags};

use crate::drops::{count, emit_with};
use crate::future::certain;
use crate::hit::{Hit, read};
use crate::thread::{self, Frame, kind};
use crate::{atomic, leaf, maps, task};

/// An execution under way.
#[derive(Clone, Copy)]
#[repr(C)]
struct Execution {
    id: u64,
    /// When its last step returned.
    end: u64,
    steps: u32,
    status: i32,
}

/// By `sqlite3_stmt *`.
#[map]
static STATEMENTS: HashMap<u64, Execution> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Executions whose results wait in a channel. More than four before the first `recv` means
/// one query string of more than four statements; what does not fit is counted and unlinked.
const WAITING: usize = 4;

/// By channel address.
#[map]
static CHANNELS: HashMap<u64, [u64; WAITING]> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Spans that wait for a channel's next item, by channel address.
#[map]
static RECEIVING: HashMap<u64, u64> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

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
        unsafe { (*execution).steps += 1 };
    } else {
        let id = thread.fresh_id();
        let (parent, source) = match thread.current(hit) {
            found @ (_, ParentSource::Frame | ParentSource::Spawn) => found,
            // A worker thread: the link tells later.
            _ => (0, ParentSource::Unknown),
        };
        if leaf::start(hit, id, LeafKind::Statement, statement, parent, source) {
            if matches!(source, ParentSource::Unknown) {
                thread.set_statement(id);
            }
            let execution = Execution { id, end: hit.at.now, steps: 1, status: -1 };
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
            (*record).len = len;
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
    if cookie.flags() & Cookie::AT_RET != 0 {
        execution.status = hit.rax() as i32;
    }
    Some(())
}

/// `sqlite3_reset`, `sqlite3_finalize`: rdi is the statement, which may be null.
#[inline(always)]
pub fn reset(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let statement = hit.rdi();
    let execution = *unsafe_get(statement)?;
    let _ = STATEMENTS.remove(statement);
    // The last step found no further row.
    leaf::end(hit, execution.id, execution.end, execution.steps - 1, execution.status);
    Some(())
}

#[inline(always)]
fn unsafe_get(statement: u64) -> Option<&'static Execution> {
    // SAFETY: SQLite serialises the use of a statement; the entry stays valid.
    STATEMENTS.get_ptr(statement).map(|at| unsafe { &*at })
}

/// `flume::Sender<T>::send`: rsi → `&Sender`, whose first word is the channel.
#[inline(always)]
pub fn channel_send(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit.at.tid)?;
    let id = thread.statement();
    if id == 0 {
        return None;
    }
    let channel = read::<u64>(hit.rsi())?;
    thread.set_statement(0);
    if let Some(waiting) = CHANNELS.get_ptr_mut(channel) {
        for slot in 0..WAITING {
            // SAFETY: the entry stays valid while the program runs; slots are aligned.
            // Only this worker fills slots; the asker empties them.
            unsafe {
                let slot = &raw mut (*waiting)[slot];
                if slot.read_volatile() == 0 {
                    slot.write_volatile(id);
                    return Some(());
                }
            }
        }
        count(Counter::LeavesFull);
    } else {
        let mut waiting = [0; WAITING];
        waiting[0] = id;
        if CHANNELS.insert(channel, waiting, 0).is_err() {
            count(Counter::LeavesFull);
        }
    }
    Some(())
}

/// `flume::Shared<T>::recv`: rsi is the channel + 16. Where nothing waits yet, who asked is kept
/// until it has been answered.
#[inline(always)]
pub fn channel_recv(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let channel = hit.rsi().wrapping_sub(16);
    let thread = thread::get(hit.at.tid)?;
    thread.heal(&hit.at, hit.rsp());
    let asker = certain(thread.current(hit))?;
    if take_waiting(hit, channel, asker) == 0 && RECEIVING.insert(channel, asker, 0).is_err() {
        count(Counter::LeavesFull);
    }
    Some(())
}

/// `flume::async::RecvFut<T>::reset_hook`: a receive is over. rdi is the future, which holds a
/// receiver (tag 0) or a reference to one. What was sent since this very span asked, it has got;
/// a future that another span drops has got nothing.
#[inline(always)]
pub fn channel_done(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let future = hit.rdi();
    let mut channel = read::<u64>(future + 8)?;
    if read::<u8>(future)? != 0 {
        channel = read::<u64>(channel)?;
    }
    // SAFETY: entries are single words.
    let asked = unsafe { RECEIVING.get(channel) }.copied()?;
    let thread = thread::get(hit.at.tid)?;
    thread.heal(&hit.at, hit.rsp());
    if certain(thread.current(hit)) == Some(asked) && take_waiting(hit, channel, asked) != 0 {
        let _ = RECEIVING.remove(channel);
    }
    Some(())
}

/// Links what waits in the channel to the span that receives it.
#[inline(always)]
fn take_waiting(hit: &Hit, channel: u64, asker: u64) -> u32 {
    let Some(waiting) = CHANNELS.get_ptr_mut(channel) else { return 0 };
    let mut taken = 0;
    for slot in 0..WAITING {
        // SAFETY: the entry stays valid while the program runs; slots are aligned.
        let id = unsafe { atomic::swap(&raw mut (*waiting)[slot], 0) };
        if id != 0 {
            leaf::link(hit, id, asker);
            taken += 1;
        }
    }
    taken
}

/// `flume::Shared<T>::disconnect_all`: rdi is the channel + 16. Once the asker has gone, what
/// waits will not be received; the address may be used again.
#[inline(always)]
pub fn channel_close(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let channel = hit.rdi().wrapping_sub(16);
    let by_asker = thread::known(hit.at.tid).is_none_or(|thread| thread.task() != 0);
    if by_asker {
        let _ = CHANNELS.remove(channel);
        let _ = RECEIVING.remove(channel);
    }
    Some(())
}
