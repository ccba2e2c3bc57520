//! A word on what takes longer than half a second.

use std::io::{IsTerminal, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs `work`; says `what` on the terminal while it takes its time, and takes it back.
pub fn during<T>(what: &str, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    thread::scope(|scope| {
        let (done, wait) = mpsc::channel::<()>();
        scope.spawn(move || {
            if wait.recv_timeout(Duration::from_millis(500)) == Err(mpsc::RecvTimeoutError::Timeout)
            {
                let mut err = std::io::stderr();
                let _ = write!(err, "{what} …");
                let _ = err.flush();
                let _ = wait.recv();
                let _ = write!(err, "\r\x1b[K");
            }
        });
        let result = work();
        drop(done);
        result
    })
}
