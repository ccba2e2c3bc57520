//! Reads a recording back. The file may be hostile: lengths are bounded, nothing panics.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use super::loss::CountersAt;
use super::record::{self, Ending};
use crate::plan::TraceMeta;

/// Why a recording cannot be read, or not further.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Not a recording at all.
    #[error("not a recording of orchestrate-trace (its first line is missing)")]
    NotARecording,
    /// Written by another version.
    #[error(
        "a recording of format `{found}`, while this version reads `{}`: use the \
         orchestrate-trace that made it", record::MAGIC.trim_end()
    )]
    Version {
        /// The first line found.
        found: String,
    },
    /// The metadata is missing, too long, or no metadata.
    #[error("the recording's metadata cannot be read: {why}")]
    Meta {
        /// What is wrong.
        why: String,
    },
    /// A block with an unknown tag or an impossible length, or not readable.
    #[error("the recording is damaged at byte {offset}: {why}")]
    Damaged {
        /// Where the block begins.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// Reading failed.
    #[error("reading the recording failed at byte {offset}")]
    Io {
        /// Where.
        offset: u64,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// One block of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block<'a> {
    /// A raw record, for [`Decoder`](super::Decoder).
    Record(&'a [u8]),
    /// The counters so far.
    Counters(CountersAt),
    /// The end.
    End(Ending),
}

/// A recording being read.
#[derive(Debug)]
pub struct Replay<R> {
    from: BufReader<R>,
    meta: Arc<TraceMeta>,
    offset: u64,
    buffer: Vec<u8>,
    ended: bool,
    truncated: Option<u64>,
}

impl<R: Read> Replay<R> {
    /// Reads the head of a recording.
    pub fn open(from: R) -> Result<Self, ReplayError> {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        read_line(&mut from, &mut line, 128)?;
        if line != record::MAGIC.as_bytes() {
            let name = record::MAGIC.trim_end().trim_end_matches(char::is_numeric);
            return Err(match line.strip_prefix(name.as_bytes()) {
                Some(_) => ReplayError::Version {
                    found: String::from_utf8_lossy(line.trim_ascii_end()).into_owned(),
                },
                None => ReplayError::NotARecording,
            });
        }
        let mut offset = line.len() as u64;
        line.clear();
        read_line(&mut from, &mut line, record::MAX_META)?;
        if line.last() != Some(&b'\n') {
            let why =
                if line.len() >= record::MAX_META { "it is too long" } else { "it is cut off" };
            return Err(ReplayError::Meta { why: why.to_owned() });
        }
        offset += line.len() as u64;
        let meta = serde_json::from_slice(&line)
            .map_err(|why| ReplayError::Meta { why: why.to_string() })?;
        let (buffer, ended, truncated) = (Vec::new(), false, None);
        Ok(Self { from, meta: Arc::new(meta), offset, buffer, ended, truncated })
    }

    /// What was recorded beside the events.
    pub const fn meta(&self) -> &Arc<TraceMeta> {
        &self.meta
    }

    /// The next block; `None` after the last one, and where the file was cut off.
    pub fn next_block(&mut self) -> Result<Option<Block<'_>>, ReplayError> {
        if self.ended || self.truncated.is_some() {
            return Ok(None);
        }
        let begin = self.offset;
        let mut head = [0; 5];
        if !self.fill(&mut head)? {
            self.truncated = Some(begin);
            return Ok(None);
        }
        let [tag, len @ ..] = head;
        let len = u32::from_le_bytes(len) as usize;
        let most = match tag {
            record::RECORD => record::MAX_RECORD,
            record::COUNTERS | record::END => record::MAX_JSON,
            _ => return self.damaged(begin, format!("unknown block {tag:#04x}")),
        };
        if len > most {
            return self.damaged(begin, format!("a block of {len} bytes (at most {most})"));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(len, 0);
        let complete = self.fill(&mut buffer);
        self.buffer = buffer;
        if !complete? {
            self.truncated = Some(begin);
            return Ok(None);
        }
        match tag {
            record::RECORD => Ok(Some(Block::Record(&self.buffer))),
            record::COUNTERS => match serde_json::from_slice(&self.buffer) {
                Ok(counters) => Ok(Some(Block::Counters(counters))),
                Err(why) => self.damaged(begin, why.to_string()),
            },
            _ => match serde_json::from_slice(&self.buffer) {
                Ok(ending) => {
                    self.ended = true;
                    Ok(Some(Block::End(ending)))
                }
                Err(why) => self.damaged(begin, why.to_string()),
            },
        }
    }

    /// Where the file was cut off (the byte at which the incomplete block begins); known once
    /// [`Self::next_block`] has given `None`.
    pub const fn truncated(&self) -> Option<u64> {
        self.truncated
    }

    /// After damage nothing more is read: block boundaries are lost.
    fn damaged(&mut self, offset: u64, why: String) -> Result<Option<Block<'_>>, ReplayError> {
        self.ended = true;
        Err(ReplayError::Damaged { offset, why })
    }

    /// Fills `into`; `false` where the file ends before.
    fn fill(&mut self, into: &mut [u8]) -> Result<bool, ReplayError> {
        match self.from.read_exact(into) {
            Ok(()) => {
                self.offset += into.len() as u64;
                Ok(true)
            }
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(source) => {
                self.ended = true;
                Err(ReplayError::Io { offset: self.offset, source })
            }
        }
    }
}

fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>, most: usize) -> Result<(), ReplayError> {
    match from.take(most as u64).read_until(b'\n', line) {
        Ok(_) => Ok(()),
        Err(source) => Err(ReplayError::Io { offset: 0, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use tracer_ebpf::counters::Counter;

    use super::super::{Counters, Recorder, StopReason};
    use super::*;
    use crate::plan::TargetMeta;
    use crate::span::{ClockAnchor, MonoNs};

    fn meta() -> TraceMeta {
        TraceMeta {
            seed: "0123456789abcdef0123456789abcdef".into(),
            anchor: ClockAnchor { offset_ns: 5 },
            target: TargetMeta { pid: 7, executable: PathBuf::from("/bin/x"), build_id: None },
            functions: Vec::new(),
        }
    }

    fn counters() -> Counters {
        let mut counters = Counters::default();
        counters.set_from_cpus(Counter::LostPayload, [3]);
        counters
    }

    fn recording() -> Vec<u8> {
        let mut recorder = Recorder::begin(Vec::new(), &meta()).unwrap();
        recorder.record(b"first").unwrap();
        recorder.counters(MonoNs(9), &counters()).unwrap();
        recorder.record(b"second").unwrap();
        recorder.end(MonoNs(10), &counters(), StopReason::TargetExited).unwrap()
    }

    /// The records, how many other blocks, where it was cut off.
    type All = (Vec<Vec<u8>>, usize, Option<u64>);

    /// Reads all of it.
    fn read(bytes: &[u8]) -> Result<All, ReplayError> {
        let mut replay = Replay::open(bytes)?;
        let (mut records, mut others) = (Vec::new(), 0);
        while let Some(block) = replay.next_block()? {
            match block {
                Block::Record(bytes) => records.push(bytes.to_vec()),
                Block::Counters(_) | Block::End(_) => others += 1,
            }
        }
        assert!(replay.next_block().unwrap().is_none());
        Ok((records, others, replay.truncated()))
    }

    #[test]
    fn gives_back_what_was_recorded() {
        let bytes = recording();
        let mut replay = Replay::open(&bytes[..]).unwrap();
        assert_eq!(**replay.meta(), meta());
        assert_eq!(replay.next_block().unwrap(), Some(Block::Record(b"first")));
        let at_nine = CountersAt { at: MonoNs(9), counters: counters() };
        assert_eq!(replay.next_block().unwrap(), Some(Block::Counters(at_nine)));
        assert_eq!(replay.next_block().unwrap(), Some(Block::Record(b"second")));
        let last = CountersAt { at: MonoNs(10), counters: counters() };
        let ending = Ending { last, why: StopReason::TargetExited };
        assert_eq!(replay.next_block().unwrap(), Some(Block::End(ending)));
        assert_eq!(replay.next_block().unwrap(), None);
        assert_eq!(replay.truncated(), None);
    }

    #[test]
    fn a_recording_cut_off_anywhere_gives_what_is_whole_and_says_so() {
        let bytes = recording();
        let body = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 1;
        let mut seen = 0;
        for cut in body..bytes.len() {
            let (records, _, truncated) = read(&bytes[..cut]).unwrap();
            assert!(truncated.is_some_and(|at| at >= body as u64 && at <= cut as u64));
            assert!(records.len() >= seen);
            seen = records.len();
        }
        assert_eq!(seen, 2);
        for cut in 0..body {
            assert!(read(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn refuses_what_is_no_recording() {
        assert!(matches!(read(b"\x7fELF"), Err(ReplayError::NotARecording)));
        let error = read(b"orchestrate-trace recording 2\n{}\n").unwrap_err();
        assert!(matches!(error, ReplayError::Version { .. }));
        assert!(error.to_string().contains("recording 2"), "{error}");
        let error = read(b"orchestrate-trace recording 1\n{}\n").unwrap_err();
        assert!(matches!(error, ReplayError::Meta { .. }));
    }

    #[test]
    fn refuses_a_huge_length_before_reading_it() {
        let mut bytes = recording();
        let whole = bytes.len();
        bytes.truncate(whole - 1);
        let body = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 1;
        bytes[body + 1..body + 5].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = read(&bytes).unwrap_err();
        assert!(error.to_string().contains("4294967295 bytes"), "{error}");
    }

    #[test]
    fn does_not_write_what_it_would_not_read() {
        let mut recorder = Recorder::begin(Vec::new(), &meta()).unwrap();
        assert!(recorder.record(&[0; record::MAX_RECORD + 1]).is_err());
    }

    proptest! {
        #[test]
        fn damage_is_an_error_or_goes_unnoticed_but_never_a_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = recording();
            for (at, to) in changes {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            let _ = read(&bytes);
        }
    }
}
