//! Records that statements and requests have in common.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{
    Header, Kind, LeafEnd, LeafKind, LeafLink, LeafStart, ParentSource, Payload, PayloadKind, flags,
};

use crate::drops::{count, emit, emit_with};
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
        reserved: [0; 6],
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

/// Captures `len` bytes at `at`, or as many as fit.
#[inline(always)]
pub fn payload(hit: &Hit, id: u64, what: PayloadKind, key: u64, at: u64, len: u32) {
    emit_with::<Payload>(Counter::LostPayload, |record| {
        let wanted = if len as usize > Payload::CAPACITY { Payload::CAPACITY as u32 } else { len };
        let truncated = len > wanted;
        // SAFETY: `record` is reserved space of this type; every field is written below, and the
        // helper zeroes what it cannot read.
        unsafe {
            (*record).header =
                header(hit, Kind::Payload, if truncated { flags::TRUNCATED } else { 0 }, id);
            (*record).key = key;
            (*record).len = len;
            (*record).what = what as u8;
            (*record).reserved = 0;
            (*record).tail = [0; 8];
            // The ring buffer's space holds earlier records: nothing stale may leave with it.
            core::ptr::write_bytes(
                (*record).bytes.as_mut_ptr().cast::<u64>(),
                0,
                Payload::CAPACITY / 8,
            );
            let read =
                bpf_probe_read_user((*record).bytes.as_mut_ptr().cast(), wanted, at as *const _);
            if read == 0 {
                (*record).captured = wanted as u16;
            } else {
                count(Counter::ReadFaults);
                (*record).captured = 0;
            }
            if truncated {
                let tail = (*record).tail.as_mut_ptr().cast();
                if bpf_probe_read_user(tail, 8, (at + u64::from(len) - 8) as *const _) != 0 {
                    count(Counter::ReadFaults);
                }
            }
        }
    });
}
