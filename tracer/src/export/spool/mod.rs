//! Batches on disk, for as long as an endpoint does not take them: a queue of bounded size that
//! survives a restart.
//!
//! Segments are files that are only ever appended to; `cursor` says how far they have been sent
//! and is replaced atomically. After a crash a batch may be sent twice, and the last may be cut
//! off; both are noticed by their ids and checksums. It is not synced to the device at every
//! record: what the machine's own crash costs is the last few seconds.

mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use segment::{At, MAGIC, Reader};

/// A spool's place and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// A folder of its own, made if it is missing. One process at a time can use it.
    pub dir: PathBuf,
    /// The most that it may hold, in bytes. When it is full, the oldest spans go.
    pub max_bytes: u64,
}

/// What fits into a segment: small beside the spool, since full ones go as a whole.
const SEGMENT_BYTES: u64 = 4 << 20;
/// More than lies between a fork and an exec.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
const SMALLEST_SEGMENT: u64 = 4 << 10;

/// Where a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    segment: u64,
    /// Behind its last byte.
    end: u64,
}

/// A batch that was kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) place: Place,
    pub(super) tag: u64,
    pub(super) spans: u64,
    pub(super) payload: Vec<u8>,
}

/// Spans that will never be read again, by the tag that they were kept under.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// The spool was full.
    pub(super) evicted: Vec<(u64, u64)>,
    /// What was read is not what was written.
    pub(super) corrupt: Vec<(u64, u64)>,
    /// Records of which not even that is known; each held one span or more.
    pub(super) unknown: u64,
}

#[derive(Debug)]
struct Segment {
    id: u64,
    bytes: u64,
}

/// The queue on disk.
#[derive(Debug)]
pub(super) struct Spool {
    config: SpoolConfig,
    /// Oldest first.
    segments: VecDeque<Segment>,
    bytes: u64,
    /// The last segment, open for appending.
    writer: Option<File>,
    /// How far it has been read. Everything before it is gone or held by the reader.
    read: Place,
    /// Spans behind `read`.
    unread: u64,
    lost: Lost,
    _lock: File,
}

impl Spool {
    /// Opens or makes it, and finds what an earlier run left.
    pub(super) fn open(config: SpoolConfig) -> io::Result<Self> {
        // Spans may say more of a program than others should know.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.dir)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(config.dir.join("lock"))?;
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                // A child of the last owner holds it, too, between its fork and its exec.
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(LOCK_PATIENCE / 20);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::other("another process uses it"));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        let mut segments = VecDeque::new();
        for entry in fs::read_dir(&config.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".seg"));
            if let Some(id) = id.and_then(|id| u64::from_str_radix(id, 16).ok()) {
                segments.push_back(Segment { id, bytes: entry.metadata()?.len() });
            }
        }
        segments.make_contiguous().sort_unstable_by_key(|segment| segment.id);
        let mut read = read_cursor(&config.dir).unwrap_or_default();
        let bytes = segments.iter().map(|segment| segment.bytes).sum();
        let mut spool = Self {
            config,
            segments,
            bytes,
            writer: None,
            read,
            unread: 0,
            lost: Lost::default(),
            _lock: lock,
        };
        // Sent already, and its file outlived the crash.
        while spool.segments.front().is_some_and(|segment| segment.id < read.segment) {
            spool.remove_front();
        }
        match spool.segments.front() {
            Some(front) if front.id == read.segment => {}
            Some(front) => read = Place { segment: front.id, end: 0 },
            None => read.end = 0,
        }
        spool.read = read;
        spool.unread = (0..spool.segments.len())
            .map(|at| spool.scan(at).iter().map(|(_, spans)| spans).sum::<u64>())
            .sum();
        Ok(spool)
    }

    /// Spans that wait, without those of a record that is being sent.
    pub(super) const fn unread(&self) -> u64 {
        self.unread
    }

    pub(super) fn dir(&self) -> &Path {
        &self.config.dir
    }

    /// A record was whole, and what it holds is not a batch.
    pub(super) fn damaged(&mut self, record: &Record) {
        self.lost.corrupt.push((record.tag, record.spans));
    }

    /// What was lost since the last call.
    pub(super) fn take_lost(&mut self) -> Lost {
        std::mem::take(&mut self.lost)
    }

    /// Keeps a batch. Makes room by removing the oldest segments.
    pub(super) fn append(&mut self, tag: u64, spans: u32, payload: &[u8]) -> io::Result<()> {
        let record = segment::record(tag, spans, payload)?;
        let length = record.len() as u64;
        if length > self.config.max_bytes {
            return Err(io::Error::other("a batch is larger than the spool may be"));
        }
        let limit = (self.config.max_bytes / 8).clamp(SMALLEST_SEGMENT, SEGMENT_BYTES);
        let full = self.segments.back().is_none_or(|last| last.bytes + length > limit);
        if self.writer.is_none() || full {
            self.begin_segment()?;
        }
        while self.bytes + length > self.config.max_bytes && self.segments.len() > 1 {
            self.evict();
        }
        let (Some(writer), Some(last)) = (&mut self.writer, self.segments.back_mut()) else {
            return Err(io::Error::other("no segment"));
        };
        if let Err(error) = writer.write_all(&record) {
            // Half a record would make all behind it unreadable.
            let _ = writer.set_len(last.bytes);
            self.writer = None;
            return Err(error);
        }
        last.bytes += length;
        self.bytes += length;
        self.unread += u64::from(spans);
        Ok(())
    }

    /// The oldest batch that has not been handed out. The one before must be done with. What
    /// cannot be read is counted and skipped.
    pub(super) fn next(&mut self) -> Option<Record> {
        loop {
            while self.segments.front().is_some_and(|front| front.id < self.read.segment) {
                self.remove_front();
            }
            let front = self.segments.front()?;
            if front.id != self.read.segment {
                self.read = Place { segment: front.id, end: 0 };
            }
            let found = Reader::open(&self.path(self.read.segment), self.read.end)
                .and_then(|mut reader| Ok((reader.next()?, reader.offset())));
            match found {
                Ok((At::Record(header, payload), end)) => {
                    self.read.end = end;
                    let spans = u64::from(header.spans);
                    self.unread = self.unread.saturating_sub(spans);
                    return Some(Record { place: self.read, tag: header.tag, spans, payload });
                }
                Ok((At::Damaged(header), end)) => {
                    self.read.end = end;
                    let spans = u64::from(header.spans);
                    self.unread = self.unread.saturating_sub(spans);
                    self.lost.corrupt.push((header.tag, spans));
                }
                Ok((At::End, _)) if self.segments.len() == 1 => return None,
                Ok((At::End, _)) => self.read = Place { segment: self.read.segment + 1, end: 0 },
                Ok((At::Unreadable, _)) | Err(_) => self.give_up_segment(),
            }
        }
    }

    /// The rest of the segment that is being read cannot be.
    fn give_up_segment(&mut self) {
        let later = (1..self.segments.len()).flat_map(|at| self.scan(at));
        let later: u64 = later.map(|(_, spans)| spans).sum();
        match self.unread.saturating_sub(later) {
            // A record that was cut off, or a header that makes no sense.
            0 => self.lost.unknown += 1,
            known => self.lost.corrupt.push((0, known)),
        }
        self.unread = later;
        if self.segments.len() == 1 {
            self.writer = None;
        }
        self.read = Place { segment: self.read.segment + 1, end: 0 };
    }

    /// The record at `place` and all before it are done with.
    pub(super) fn done(&mut self, place: Place) {
        if self.unread == 0 && self.segments.len() == 1 && self.read <= place {
            // Nothing is left: nothing need be on disk.
            self.remove_front();
        }
        write_cursor(&self.config.dir, place);
    }

    /// Whether the record at `place` would be found again by the next run.
    pub(super) fn holds(&self, place: Place) -> bool {
        self.segments.iter().any(|segment| segment.id == place.segment)
    }

    /// Makes sure that the device has what was appended.
    pub(super) fn sync(&mut self) {
        if let Some(writer) = &self.writer {
            let _ = writer.sync_data();
        }
    }

    fn path(&self, id: u64) -> PathBuf {
        self.config.dir.join(format!("{id:016x}.seg"))
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.sync();
        let id = self.segments.back().map_or(self.read.segment, |last| last.id).saturating_add(1);
        let path = self.path(id);
        let mut file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(&path)?;
        if let Err(error) = file.write_all(MAGIC) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.writer = Some(file);
        self.segments.push_back(Segment { id, bytes: MAGIC.len() as u64 });
        self.bytes += MAGIC.len() as u64;
        Ok(())
    }

    /// What is unread in the segment at this position.
    fn scan(&self, at: usize) -> Vec<(u64, u64)> {
        let Some(segment) = self.segments.get(at).filter(|s| s.id >= self.read.segment) else {
            return vec![];
        };
        let from = if segment.id == self.read.segment { self.read.end } else { 0 };
        let mut found: Vec<(u64, u64)> = vec![];
        let Ok(mut reader) = Reader::open(&self.path(segment.id), from) else {
            return found;
        };
        while let Ok(Ok(header)) = reader.skip() {
            let spans = u64::from(header.spans);
            match found.last_mut() {
                Some((tag, count)) if *tag == header.tag => *count += spans,
                _ => found.push((header.tag, spans)),
            }
        }
        found
    }

    fn evict(&mut self) {
        let unread = self.scan(0);
        self.unread = self.unread.saturating_sub(unread.iter().map(|(_, spans)| spans).sum());
        self.lost.evicted.extend(unread);
        self.remove_front();
    }

    fn remove_front(&mut self) {
        if let Some(segment) = self.segments.pop_front() {
            self.bytes -= segment.bytes;
            let _ = fs::remove_file(self.path(segment.id));
            if self.segments.is_empty() {
                self.writer = None;
            }
        }
    }
}

fn read_cursor(dir: &Path) -> Option<Place> {
    let text = fs::read_to_string(dir.join("cursor")).ok()?;
    let (segment, end) = text.trim().split_once(' ')?;
    Some(Place { segment: segment.parse().ok()?, end: end.parse().ok()? })
}

/// A cursor that cannot be written costs batches that are sent twice after a restart, no more.
fn write_cursor(dir: &Path, place: Place) {
    let new = dir.join("cursor.new");
    let written = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(format!("{} {}\n", place.segment, place.end).as_bytes())
        })
        .and_then(|()| fs::rename(&new, dir.join("cursor")));
    if let Err(error) = written {
        tracing::debug!(%error, "spool cursor");
    }
}
