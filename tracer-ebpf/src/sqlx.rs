//! The proven links from sqlx's worker threads to the futures that asked.
//!
//! The worker sends each result of a query through the query's own channel, and the asking future
//! receives from it: an item belongs to the next `recv` of its channel. `BEGIN`, `COMMIT` and the
//! like are answered once, through a oneshot channel that the asking future has made: its address
//! tells whose it is.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use tracer_ebpf::cookie::Cookie;
use tracer_ebpf::counters::Counter;

use crate::drops::count;
use crate::future::certain;
use crate::hit::{Hit, read};
use crate::thread::{self, ThreadRef};
use crate::{atomic, leaf};

/// Executions whose results wait in a channel. More than four before the first `recv` means
/// one query string of more than four statements; what does not fit is counted and unlinked.
const WAITING: usize = 4;

/// By channel address.
#[map]
static CHANNELS: HashMap<u64, [u64; WAITING]> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Spans that wait for a channel's next item, by channel address.
#[map]
static RECEIVING: HashMap<u64, u64> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Who made a oneshot channel, by its address; 0: nobody's span.
#[map]
static REPLIES: HashMap<u64, u64> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// A statement without an asker begins on a worker thread. `inner`: SQLite executes it as part of
/// another one, on whose behalf it then is; else what was executed before has had its answer, or
/// will never have one.
#[inline(always)]
pub fn executed(thread: ThreadRef, id: u64, inner: bool) {
    if inner && thread.statement() != 0 {
        if thread.inner_statement() == 0 {
            thread.set_inner_statement(id);
        } else {
            count(Counter::LeavesFull);
        }
        return;
    }
    thread.set_statement(id);
    thread.set_inner_statement(0);
}

/// `flume::Sender<T>::send`: rsi → `&Sender`, whose first word is the channel.
#[inline(always)]
pub fn channel_send(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let thread = thread::known(hit.at.tid)?;
    let (id, inner) = (thread.statement(), thread.inner_statement());
    if id == 0 {
        return None;
    }
    let channel = read::<u64>(hit.rsi())?;
    thread.set_statement(0);
    thread.set_inner_statement(0);
    wait_in(channel, id);
    if inner != 0 {
        wait_in(channel, inner);
    }
    Some(())
}

/// Lets an execution wait for the one who receives from the channel.
#[inline(always)]
fn wait_in(channel: u64, id: u64) {
    if let Some(waiting) = CHANNELS.get_ptr_mut(channel) {
        for slot in 0..WAITING {
            // SAFETY: the entry stays valid while the program runs; slots are aligned.
            // Only this worker fills slots; the asker empties them.
            unsafe {
                let slot = &raw mut (*waiting)[slot];
                if slot.read_volatile() == 0 {
                    slot.write_volatile(id);
                    return;
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
}

/// `flume::Shared<T>::recv`: rsi is the channel + 16. Where nothing waits yet, who asked is kept
/// until it has been answered.
#[inline(always)]
pub fn channel_recv(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let channel = hit.rsi().wrapping_sub(16);
    let thread = thread::get(hit.at.tid)?;
    thread.heal(&hit.at, hit.rsp());
    let Some(asker) = certain(thread.current(hit)) else {
        // Whoever it is takes them: they are nobody else's, and stay unlinked.
        let _ = CHANNELS.remove(channel);
        let _ = RECEIVING.remove(channel);
        return None;
    };
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

/// On the `ret` of `futures_channel::oneshot::channel`: rax and rdx, sender and receiver, are
/// the channel.
#[inline(always)]
pub fn reply_made(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let channel = hit.rax();
    if channel != hit.rdx() {
        return None;
    }
    let thread = thread::get(hit.at.tid)?;
    thread.heal(&hit.at, hit.rsp());
    match certain(thread.current(hit)) {
        Some(asker) if REPLIES.insert(channel, asker, 0).is_err() => count(Counter::LeavesFull),
        Some(_) => {}
        // Whose it is is not known, and no longer whose another at this address was.
        None => {
            let _ = REPLIES.remove(channel);
        }
    }
    Some(())
}

/// `futures_channel::oneshot::Sender<T>::send`: the sender, which is the channel, is rsi where
/// the result is returned through memory, else rdi. What this thread has executed last is what
/// is answered.
#[inline(always)]
pub fn reply_sent(hit: &Hit, _cookie: Cookie) -> Option<()> {
    let (rdi, rsi) = (hit.rdi(), hit.rsi());
    let mut channel = rsi;
    let mut found = REPLIES.get_ptr(rsi);
    if found.is_none() {
        channel = rdi;
        found = REPLIES.get_ptr(rdi);
    }
    // SAFETY: entries are single words.
    let asker = unsafe { *found? };
    let _ = REPLIES.remove(channel);
    let thread = thread::known(hit.at.tid)?;
    let (id, inner) = (thread.statement(), thread.inner_statement());
    if id != 0 {
        thread.set_statement(0);
        thread.set_inner_statement(0);
        leaf::link(hit, id, asker);
        if inner != 0 {
            leaf::link(hit, inner, asker);
        }
    }
    Some(())
}
