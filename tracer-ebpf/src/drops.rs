//! Counters, and records that are written or counted.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::Wire;

use crate::atomic;

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

/// User space drains it by the clock: a wakeup per event would cost more than the event.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// Adds one. Atomic: a program may be preempted, and another may run on the same CPU meanwhile.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is valid and aligned for as long as the program runs.
        unsafe { atomic::add(slot, 1) };
    }
}

/// Writes a record, or counts `lost`.
#[inline(always)]
pub fn emit<T: Wire>(record: T, lost: Counter) -> bool {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        count(lost);
        return false;
    };
    entry.write(record);
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    count(Counter::Records);
    true
}

/// Like [`emit`] for records too large for the stack: `fill` writes every byte in place.
#[inline(always)]
pub fn emit_with<T: Wire>(lost: Counter, fill: impl FnOnce(*mut T)) -> bool {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        count(lost);
        return false;
    };
    fill(entry.as_mut_ptr());
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    count(Counter::Records);
    true
}

/// Like [`emit`] for records of variable size: `bytes` as they are.
#[inline(always)]
pub fn emit_bytes(bytes: &[u8], lost: Counter) {
    if EVENTS.output::<[u8]>(bytes, u64::from(BPF_RB_NO_WAKEUP)).is_err() {
        count(lost);
    } else {
        count(Counter::Records);
    }
}

/// The ring buffer is more than half full: what is only nice to have should wait.
#[inline(always)]
pub fn is_crowded() -> bool {
    EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) > EVENTS.query(u64::from(BPF_RB_RING_SIZE)) / 2
}

/// Adds `n`.
#[inline(always)]
pub fn count_many(counter: Counter, n: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: as in `count`.
        unsafe { atomic::add(slot, n) };
    }
}
