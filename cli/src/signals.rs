//! Signals: as a flag to look at for commands that trace, as something to wait for in the service.

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

/// Signals that a thread of their own waits for.
pub struct Waited(libc::sigset_t);

/// Keeps SIGINT, SIGTERM and SIGHUP from every thread that begins from now on, so that one can
/// wait for them.
pub fn hold() -> Waited {
    // SAFETY: the set is initialised by sigemptyset before it is read; all pointers are valid for
    // the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        Waited(set)
    }
}

impl Waited {
    /// Waits for the next one.
    pub fn next(&self) -> i32 {
        loop {
            let mut signal = 0;
            // SAFETY: the set is initialised, and the signal is written to a valid place.
            if unsafe { libc::sigwait(&self.0, &mut signal) } == 0 {
                return signal;
            }
        }
    }
}
