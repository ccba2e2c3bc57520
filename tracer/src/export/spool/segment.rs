//! The file format: a magic word, then records, each with a checksum over all of it.
//!
//! ```text
//! segment: "OTSPOOL1" record*
//! record:  crc32 u32 | length u32 | spans u32 | tag u64 | payload      (little endian)
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

pub(super) const MAGIC: &[u8; 8] = b"OTSPOOL1";
pub(super) const HEADER: usize = 20;
/// Larger than any batch: a length beyond it is none.
const LARGEST: u32 = 64 << 20;

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    crc: u32,
    pub(super) length: u32,
    pub(super) spans: u32,
    pub(super) tag: u64,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let tag = u64::from(word(12)) | u64::from(word(16)) << 32;
        Self { crc: word(0), length: word(4), spans: word(8), tag }
    }

    pub(super) const fn record_bytes(self) -> u64 {
        HEADER as u64 + self.length as u64
    }
}

/// A record as it is written.
pub(super) fn record(tag: u64, spans: u32, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length <= LARGEST);
    let length = length.ok_or_else(|| io::Error::other("a batch is too large for the spool"))?;
    let mut bytes = vec![0; 4];
    bytes.extend(length.to_le_bytes());
    bytes.extend(spans.to_le_bytes());
    bytes.extend(tag.to_le_bytes());
    bytes.extend(payload);
    let crc = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// What is at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum At {
    /// A record that is whole.
    Record(Header, Vec<u8>),
    /// A record whose contents changed; what follows it can be read.
    Damaged(Header),
    /// Nothing that could be read, and nothing behind it.
    Unreadable,
    /// The end.
    End,
}

/// Reads a segment from `offset` on.
pub(super) struct Reader {
    file: File,
    offset: u64,
    size: u64,
}

impl Reader {
    /// # Errors
    /// The file cannot be read. One without the magic word is all unreadable.
    pub(super) fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut magic = [0; MAGIC.len()];
        let known = size == 0 || (file.read_exact(&mut magic).is_ok() && magic == *MAGIC);
        let offset = offset.max(MAGIC.len() as u64);
        // Behind its end, and not at it: unreadable.
        Ok(Self { file, offset: if known { offset } else { u64::MAX }, size })
    }

    /// The header here, and moves behind its record.
    pub(super) fn skip(&mut self) -> io::Result<Result<Header, At>> {
        if self.offset == self.size || self.size == 0 {
            return Ok(Err(At::End));
        }
        let left = self.size.saturating_sub(self.offset);
        if left < HEADER as u64 {
            return Ok(Err(At::Unreadable));
        }
        self.file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = [0; HEADER];
        self.file.read_exact(&mut bytes)?;
        let header = Header::parse(&bytes);
        if header.length > LARGEST || header.record_bytes() > left {
            return Ok(Err(At::Unreadable));
        }
        self.offset += header.record_bytes();
        Ok(Ok(header))
    }

    /// What is here, checked, and moves behind it.
    pub(super) fn next(&mut self) -> io::Result<At> {
        let start = self.offset;
        let header = match self.skip()? {
            Ok(header) => header,
            Err(at) => return Ok(at),
        };
        self.file.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![0; HEADER + header.length as usize];
        self.file.read_exact(&mut bytes)?;
        if crc32fast::hash(&bytes[4..]) != header.crc {
            return Ok(At::Damaged(header));
        }
        bytes.drain(..HEADER);
        Ok(At::Record(header, bytes))
    }

    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }
}
