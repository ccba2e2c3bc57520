//! Signals that end tracing, as a flag to look at.

use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

static RECEIVED: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    RECEIVED.store(signal, Relaxed);
}

/// Notes SIGINT, SIGTERM and SIGHUP from now on. The second of a kind has its usual effect, so
/// that a hanging flush can be cut short; the kernel takes the probes away in any case.
pub fn watch() {
    install(true);
}

/// Notes them however often they come: `run` passes them on to its program.
pub fn watch_for_child() {
    install(false);
}

fn install(once: bool) {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe; `action` is
        // valid for the call, and its mask is empty.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = if once { libc::SA_RESETHAND } else { libc::SA_RESTART };
            // A process started with nohup ignores SIGHUP, and is meant to.
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut old);
            if old.sa_sigaction != libc::SIG_IGN {
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    }
}

/// The signal that arrived since the last call.
pub fn take() -> Option<i32> {
    match RECEIVED.swap(0, Relaxed) {
        0 => None,
        signal => Some(signal),
    }
}
