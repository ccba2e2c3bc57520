//! Atomic read-modify-write: the BPF target has the instructions, but `core::sync::atomic` offers
//! them only where compare-and-swap exists in every ISA version, so the intrinsics are called.

use core::intrinsics::{AtomicOrdering, atomic_xadd, atomic_xchg};

/// Adds to a word.
///
/// # Safety
/// `at` is valid and aligned.
#[inline(always)]
pub unsafe fn add(at: *mut u64, change: u64) {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(at, change) };
}

/// Replaces a word and returns what was there.
///
/// # Safety
/// `at` is valid and aligned.
#[inline(always)]
pub unsafe fn swap(at: *mut u64, value: u64) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::AcqRel }>(at, value) }
}
