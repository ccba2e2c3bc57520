//! Records that statements and requests have in common.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{
    Header, Kind, LeafEnd, LeafKind, LeafLink, LeafStart, ParentSource, PayloadHead, flags,
};

use crate::drops::{count, count_many, emit, emit_bytes, is_crowded};
use crate::hit::{Hit, Moment};

#[inline(always)]
fn header(hit: &Hit, kind: Kind, flags: u8, id: u64) -> Header {
    header_at(&hit.at, kind, flags, id)
}

/// What every record of a leaf begins with.
#[inline(always)]
pub fn header_at(at: &Moment, kind: Kind, flags: u8, id: u64) -> Header {
    Header { kind: kind as u8, flags, fn_id: 0, tid: at.tid, ts: at.now, id }
}

/// A leaf begins.
#[inline(always)]
pub fn start(
    hit: &Hit,
    id: u64,
    leaf: LeafKind,
    key: u64,
    parent: u64,
    source: ParentSource,
) -> bool {
    start_at(&hit.at, id, leaf, key, parent, source)
}

/// The same at a moment.
#[inline(always)]
pub fn start_at(
    at: &Moment,
    id: u64,
    leaf: LeafKind,
    key: u64,
    parent: u64,
    source: ParentSource,
) -> bool {
    let record = LeafStart {
        header: header_at(at, Kind::LeafStart, 0, id),
        parent,
        key,
        leaf: leaf as u8,
        source: source as u8,
        task: [0; 6],
    };
    emit(record, Counter::LostLeafStart)
}

/// The asker of a leaf is known.
#[inline(always)]
pub fn link(hit: &Hit, id: u64, parent: u64) {
    let record = LeafLink { header: header(hit, Kind::LeafLink, 0, id), parent };
    emit(record, Counter::LostLeafLink);
}

/// A leaf has ended.
#[inline(always)]
pub fn end(hit: &Hit, id: u64, end: u64, number: u32, status: i32) {
    end_at(&hit.at, id, end, number, status);
}

/// The same at a moment.
#[inline(always)]
pub fn end_at(at: &Moment, id: u64, end: u64, number: u32, status: i32) {
    let header = header_at(at, Kind::LeafEnd, 0, id);
    let record = LeafEnd { header, end, count: number, status };
    emit(record, Counter::LostLeafEnd);
}

/// A request to be served begins. It is a root unless its head says otherwise.
#[inline(always)]
pub fn serve(hit: &Hit, id: u64, key: u64, task: u64) -> bool {
    let [a, b, c, d, e, f, ..] = task.to_le_bytes();
    let record = LeafStart {
        header: header(hit, Kind::LeafStart, 0, id),
        parent: 0,
        key,
        leaf: LeafKind::ServedRequest as u8,
        source: ParentSource::Root as u8,
        task: [a, b, c, d, e, f],
    };
    emit(record, Counter::LostLeafStart)
}

/// A record of variable size, too large for the stack.
#[repr(C)]
struct Scratch {
    head: PayloadHead,
    bytes: [u8; PayloadHead::MOST],
}

/// By thread, since a program may be preempted for another one on the same CPU. Without
/// preallocation: only threads that send or receive have one.
#[map]
static SCRATCH: HashMap<u32, Scratch> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// A zeroed value to insert.
#[map]
static EMPTY_SCRATCH: Array<Scratch> = Array::with_max_entries(1, 0);

/// This thread's scratch record, begun where there is none.
#[inline(always)]
pub fn scratch(tid: u32) -> Option<*mut PayloadHead> {
    if let Some(scratch) = SCRATCH.get_ptr_mut(tid) {
        return Some(scratch.cast());
    }
    let _ = SCRATCH.insert(tid, EMPTY_SCRATCH.get(0)?, 0);
    let scratch = SCRATCH.get_ptr_mut(tid);
    if scratch.is_none() {
        count(Counter::LostPayload);
    }
    scratch.map(|scratch| scratch.cast())
}

/// Captures `len` bytes at `at`, or as many as `most` and one record allow, under the head in the
/// scratch record of thread `tid`. A global function: the verifier checks it once.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn capture_part(tid: u64, at: u64, len: u64, most: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(tid as u32) else { return 0 };
    let mut wanted = if len > most { most } else { len };
    if wanted > PayloadHead::MOST as u64 {
        wanted = PayloadHead::MOST as u64;
    }
    if wanted < len {
        count_many(Counter::PayloadCut, len - wanted);
    }
    if wanted != 0 && is_crowded() {
        count(Counter::PayloadSkipped);
        wanted = 0;
    }
    // SAFETY: the entry is this thread's own and stays valid; the helper zeroes what it cannot
    // read; of `bytes` no more leaves than was read.
    unsafe {
        let into = (&raw mut (*scratch).bytes).cast();
        if wanted != 0 && bpf_probe_read_user(into, wanted as u32, at as *const _) != 0 {
            count(Counter::ReadFaults);
            wanted = 0;
        }
        let head = &raw mut (*scratch).head;
        (*head).len = len as u32;
        (*head).captured = wanted as u16;
        (*head).header.flags = if wanted < len { flags::TRUNCATED } else { 0 };
        (*head).tail = [0; 8];
        if wanted < len && len >= 8 {
            let tail = (&raw mut (*head).tail).cast();
            if bpf_probe_read_user(tail, 8, (at + len - 8) as *const _) != 0 {
                count(Counter::ReadFaults);
            }
        }
        let size = size_of::<PayloadHead>() + (wanted & 0x1fff) as usize;
        emit_bytes(core::slice::from_raw_parts(scratch.cast(), size), Counter::LostPayload);
        (*head).offset += len;
    }
    wanted
}
