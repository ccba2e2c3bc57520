//! Burying dead frames: rare, so it is done by global functions. The verifier checks each of these
//! once on its own instead of at every call, which keeps loading the programs fast.
//!
//! Arguments are plain numbers: a global function knows nothing of its caller's pointers.

use tracer_ebpf::config::MAX_DEPTH;
use tracer_ebpf::counters::Counter;

use crate::drops::count;
use crate::hit::{Moment, read};
use crate::thread::{self, kind};
use crate::{future, task};

/// Removes every frame of thread `tid` that was entered below `alive`, innermost first.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn heal_frames(tid: u64, now: u64, alive: u64) -> u64 {
    for _ in 0..MAX_DEPTH {
        let Some(thread) = thread::known(tid as u32) else { return 0 };
        let Some(top) = thread.frame(0) else { return 0 };
        // SAFETY: a frame of this thread's stack.
        if unsafe { (*top).rsp } >= alive {
            return 0;
        }
        bury_frame(tid, now);
    }
    0
}

/// Removes the frames of thread `tid` that a panic has left, innermost first, up to one that is
/// certainly alive.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn verify_frames(tid: u64, now: u64) -> u64 {
    for _ in 0..MAX_DEPTH {
        if top_is_alive(tid) != 0 {
            return 0;
        }
        bury_frame(tid, now);
    }
    0
}

/// Whether the innermost frame of thread `tid` can be believed after a panic: it is younger than
/// the panic, or its return address is where it was and its coroutine is not poisoned. 1 also
/// where there is no frame.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn top_is_alive(tid: u64) -> u64 {
    let Some(thread) = thread::known(tid as u32) else { return 1 };
    let Some(top) = thread.frame(0) else { return 1 };
    // SAFETY: a frame of this thread's stack.
    let (rsp, ret, kind, panics) = unsafe { ((*top).rsp, (*top).ret, (*top).kind, (*top).panics) };
    if panics == thread.panics() {
        return 1;
    }
    // SAFETY: as above.
    let poisoned = kind == kind::FUTURE && unsafe { future::is_poisoned(top) };
    u64::from(!poisoned && read::<u64>(rsp) == Some(ret))
}

/// Removes the innermost frame and does what its exit would have done.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn bury_frame(tid: u64, now: u64) -> u64 {
    let Some(thread) = thread::known(tid as u32) else { return 0 };
    let Some(dead) = thread.top() else { return 0 };
    thread.pop();
    count(Counter::FramesHealed);
    let at = Moment { tid: tid as u32, now };
    let unwound = dead.panics != thread.panics();
    match dead.kind {
        kind::FUTURE => future::vanished(&at, &dead, unwound),
        kind::CALL => future::call_vanished(&at, &dead, unwound),
        kind::TASK => task::left(&at, &dead),
        _ => {}
    }
    0
}

/// A panic begins on thread `tid`: every frame is alive now, so what is its return address now is
/// what it must be later. Frames from before an earlier panic have been noted then.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn note_returns(tid: u64) -> u64 {
    for back in 0..MAX_DEPTH as u64 {
        if note_return(tid, back) == 0 {
            return 0;
        }
    }
    0
}

/// The same for the frame `back` steps above the innermost one; 0: that was the last.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn note_return(tid: u64, back: u64) -> u64 {
    let Some(thread) = thread::known(tid as u32) else { return 0 };
    let Some(frame) = thread.frame(back as u32) else { return 0 };
    // SAFETY: a frame of this thread's stack.
    unsafe {
        if (*frame).panics != thread.panics() {
            return 0;
        }
        (*frame).ret = read::<u64>((*frame).rsp).unwrap_or(0);
    }
    1
}
