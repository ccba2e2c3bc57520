//! Records that statements and requests have in common.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{
    Header, Kind, LeafEnd, LeafKind, LeafLink, LeafStart, ParentSource, PayloadHead, PayloadKind,
    flags,
};

use crate::drops::{count, count_many, emit, emit_bytes, is_crowded};
use crate::thread::Hit;

#[inline(always)]
fn header(hit: &Hit, kind: Kind, flags: u8, id: u64) -> Header {
    Header { kind: kind as u8, flags, fn_id: 0, tid: hit.tid, ts: hit.now, id }
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
    let record = LeafStart {
        header: header(hit, Kind::LeafStart, 0, id),
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
    let record = LeafEnd { header: header(hit, Kind::LeafEnd, 0, id), end, count: number, status };
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

/// Part of a request or response.
pub struct Part {
    /// Which leaf.
    pub id: u64,
    /// Its connection.
    pub key: u64,
    /// Bytes of it before this part.
    pub offset: u64,
    /// At most so many bytes of it are captured.
    pub budget: u64,
    /// What it is part of.
    pub what: PayloadKind,
}

/// Captures `len` bytes at `at`, or as many as the budget and one record allow. Not inlined: it
/// is called in loops.
#[inline(never)]
pub fn capture(hit: &Hit, part: &Part, at: u64, len: u32) -> u32 {
    let scratch = match SCRATCH.get_ptr_mut(hit.key) {
        Some(scratch) => scratch,
        None => {
            let Some(empty) = EMPTY_SCRATCH.get(0) else { return 0 };
            let _ = SCRATCH.insert(hit.key, empty, 0);
            let Some(scratch) = SCRATCH.get_ptr_mut(hit.key) else {
                count(Counter::LostPayload);
                return 0;
            };
            scratch
        }
    };
    let room = part.budget.saturating_sub(part.offset);
    let mut wanted = u64::from(len);
    if wanted > room {
        count_many(Counter::PayloadCut, wanted - room);
        wanted = room;
    }
    if wanted > PayloadHead::MOST as u64 {
        count_many(Counter::PayloadCut, wanted - PayloadHead::MOST as u64);
        wanted = PayloadHead::MOST as u64;
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
        let truncated = u64::from(len) > wanted;
        (*scratch).head = PayloadHead {
            header: header(hit, Kind::Payload, if truncated { flags::TRUNCATED } else { 0 }, part.id),
            key: part.key,
            offset: part.offset,
            len,
            captured: wanted as u16,
            what: part.what as u8,
            reserved: 0,
            tail: [0; 8],
        };
        if truncated && len >= 8 {
            let tail = (&raw mut (*scratch).head.tail).cast();
            if bpf_probe_read_user(tail, 8, (at + u64::from(len) - 8) as *const _) != 0 {
                count(Counter::ReadFaults);
            }
        }
        let size = size_of::<PayloadHead>() + wanted as usize;
        emit_bytes(core::slice::from_raw_parts(scratch.cast(), size), Counter::LostPayload);
    }
    wanted as u32
}
