//! One thread that owns the file. The channel to it is bounded: a workload faster than the disk
//! waits rather than loses lines, since a record with holes proves nothing.

use crate::{Line, Stamp};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::Duration;

const CAPACITY: usize = 16 * 1024;
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// A line, or the end.
type Message = Option<Line>;

static SENDER: OnceLock<SyncSender<Message>> = OnceLock::new();

/// Starts the record in `path`. Until then, and without it, lines are discarded.
///
/// # Errors
/// If the file cannot be created, or if a record was started before.
pub fn init(path: &Path) -> io::Result<Finish> {
    let file = BufWriter::new(File::create(path)?);
    let (sender, receiver) = sync_channel(CAPACITY);
    SENDER.set(sender).map_err(|_| io::Error::other("the record was started before"))?;
    let thread =
        std::thread::Builder::new().name("record".into()).spawn(move || run(file, &receiver))?;
    write(Line::Begin {
        pid: std::process::id(),
        args: std::env::args().collect(),
        at: Stamp::now(),
    });
    Ok(Finish { thread })
}

/// Ends the record.
#[must_use]
pub struct Finish {
    thread: JoinHandle<io::Result<()>>,
}

impl Finish {
    /// Writes the last line and flushes.
    ///
    /// # Errors
    /// If any line could not be written.
    pub fn finish(self) -> io::Result<()> {
        if let Some(sender) = SENDER.get() {
            // It fails only if the thread ended on an error, which `join` reports.
            sender.send(None).ok();
        }
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the record's thread panicked")))
    }
}

pub(crate) fn write(line: Line) {
    if let Some(sender) = SENDER.get() {
        sender.send(Some(line)).ok();
    }
}

fn run(mut file: BufWriter<File>, receiver: &Receiver<Message>) -> io::Result<()> {
    let mut lines = 0;
    let mut dirty = false;
    loop {
        match receiver.recv_timeout(FLUSH_EVERY) {
            Ok(Some(line)) => {
                put(&mut file, &line)?;
                lines += 1;
                // A steady stream never times out, so flush by count as well.
                dirty = lines % 256 != 0;
                if !dirty {
                    file.flush()?;
                }
            }
            Err(RecvTimeoutError::Timeout) if dirty => {
                file.flush()?;
                dirty = false;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(None) | Err(RecvTimeoutError::Disconnected) => {
                put(&mut file, &Line::End { lines, at: Stamp::now() })?;
                return file.flush();
            }
        }
    }
}

fn put(file: &mut BufWriter<File>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *file, line)?;
    file.write_all(b"\n")
}
