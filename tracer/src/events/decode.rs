//! One record's bytes to one typed [`Event`]. Whatever the bytes are, this never panics.

use std::fmt;
use std::num::NonZeroU64;

use tracer_ebpf::event as wire;
use wire::{EndHow, Kind, LeafKind, ParentSource, PayloadKind, Wire, flags};

use super::Argument;
use crate::span::MonoNs;

/// A span's or leaf's id, given by the kernel side: unique for the life of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelId(NonZeroU64);

impl KernelId {
    /// `None` for 0, which means "no span" on the wire.
    pub const fn new(id: u64) -> Option<Self> {
        match NonZeroU64::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for KernelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Index of a function in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FnId(pub u16);

/// Address of a tokio task's `Header`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskAddr(pub NonZeroU64);

impl TaskAddr {
    /// `None` for 0: outside any task.
    pub const fn new(addr: u64) -> Option<Self> {
        match NonZeroU64::new(addr) {
            Some(addr) => Some(Self(addr)),
            None => None,
        }
    }
}

/// When and where a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When.
    pub ts: MonoNs,
    /// Thread, in the target's own pid namespace.
    pub tid: u32,
}

/// A coroutine's first poll, or the call of a plain function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanStart {
    /// When and where.
    pub at: Stamp,
    /// Its id.
    pub id: KernelId,
    /// Which function.
    pub function: FnId,
    /// Its parent, where `source` names one.
    pub parent: Option<KernelId>,
    /// How the parent was found.
    pub source: ParentSource,
    /// Address of the coroutine; for a plain function the stack pointer at its entry.
    pub addr: u64,
    /// The tokio task it began in.
    pub task: Option<TaskAddr>,
    /// First seen suspended: it began earlier.
    pub late: bool,
}

/// The end of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanEnd {
    /// When and where.
    pub at: Stamp,
    /// Which span.
    pub id: KernelId,
    /// How it ended.
    pub how: EndHow,
    /// How often it was polled and for how many nanoseconds, where that is known.
    pub polled: Option<(u32, u64)>,
    /// Found afterwards: `at.ts` is an upper bound.
    pub healed: bool,
}

/// A task's future is gone while spans begun in it were open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// When and where.
    pub at: Stamp,
    /// Which task.
    pub task: TaskAddr,
}

/// A statement or a request begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafStart {
    /// When and where.
    pub at: Stamp,
    /// Its id.
    pub id: KernelId,
    /// The span that asked, where `source` names one.
    pub parent: Option<KernelId>,
    /// How the parent was found.
    pub source: ParentSource,
    /// `sqlite3_stmt *`, `SSL *`, a socket's descriptor, or a process id.
    pub key: u64,
    /// What it is.
    pub kind: LeafKind,
    /// The task that serves it, for a request that is served.
    pub task: Option<TaskAddr>,
}

/// The span that asked for an earlier leaf is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafLink {
    /// When and where.
    pub at: Stamp,
    /// Which leaf.
    pub id: KernelId,
    /// Who asked; `None`: asked outside any probed span.
    pub parent: Option<KernelId>,
}

/// A statement or a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafEnd {
    /// When and where this was known.
    pub at: Stamp,
    /// Which leaf.
    pub id: KernelId,
    /// When its last activity ended.
    pub end: MonoNs,
    /// Rows returned, or bytes read; `None` where that is not known.
    pub count: Option<u32>,
    /// SQLite's last result code, or a process's wait status; `None` where it is not known.
    pub status: Option<i32>,
}

/// Bytes captured for a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// When and where.
    pub at: Stamp,
    /// Which leaf.
    pub id: KernelId,
    /// `sqlite3_stmt *`, `SSL *` or a socket's descriptor.
    pub key: u64,
    /// What the bytes are.
    pub what: PayloadKind,
    /// Bytes of the request or response before these.
    pub offset: u64,
    /// How many there were.
    pub len: u32,
    /// The first of them.
    pub bytes: &'a [u8],
    /// The last of them, right-aligned, where `len` exceeds `bytes.len()`.
    pub tail: [u8; 8],
}

/// A child process has executed a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessExec<'a> {
    /// When.
    pub at: Stamp,
    /// Which leaf.
    pub id: KernelId,
    /// The file's name, or its beginning.
    pub name: &'a [u8],
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A span begins.
    SpanStart(SpanStart),
    /// A span ended.
    SpanEnd(SpanEnd),
    /// A task ended.
    TaskEnd(TaskEnd),
    /// A leaf begins.
    LeafStart(LeafStart),
    /// A leaf's asker is known.
    LeafLink(LeafLink),
    /// A leaf ended.
    LeafEnd(LeafEnd),
    /// Bytes of a leaf.
    Payload(Payload<'a>),
    /// A value of a span.
    Argument(Argument<'a>),
    /// A child process has executed a program.
    ProcessExec(ProcessExec<'a>),
}

/// Why a record is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No such kind.
    #[error("a record of unknown kind {kind}")]
    Kind {
        /// The number found.
        kind: u8,
    },
    /// Not the length of its kind.
    #[error("a {kind:?} record of {len} bytes instead of {expected}")]
    Length {
        /// The record's kind.
        kind: Kind,
        /// Its length.
        len: usize,
        /// What that should be.
        expected: usize,
    },
    /// Too short for any record.
    #[error("a record of {len} bytes is shorter than a header")]
    Short {
        /// Its length.
        len: usize,
    },
    /// An id of 0.
    #[error("a {kind:?} record with id 0")]
    ZeroId {
        /// The record's kind.
        kind: Kind,
    },
    /// A field holds a number that means nothing.
    #[error("a {kind:?} record whose field `{field}` is {value}")]
    Field {
        /// The record's kind.
        kind: Kind,
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

impl<'a> Event<'a> {
    /// Reads one record.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header =
            wire::Header::from_bytes(bytes).ok_or(Malformed::Short { len: bytes.len() })?;
        let wire::Header { kind, flags: flag, fn_id, tid, ts, id } = header;
        let kind = Kind::from_u8(kind).ok_or(Malformed::Kind { kind })?;
        let at = Stamp { ts: MonoNs(ts), tid };
        let id = KernelId::new(id).ok_or(Malformed::ZeroId { kind })?;
        let bad = |field, value| Malformed::Field { kind, field, value };
        Ok(match kind {
            Kind::SpanStart => {
                let raw: wire::SpanStart = exact(bytes, kind)?;
                let source =
                    raw.source().ok_or_else(|| bad("task_and_source", raw.task_and_source))?;
                let parent = match source {
                    ParentSource::Frame | ParentSource::Spawn => KernelId::new(raw.parent),
                    _ => None,
                };
                let late = flag & flags::LATE != 0;
                let (addr, task) = (raw.addr, TaskAddr::new(raw.task()));
                let function = FnId(fn_id);
                Self::SpanStart(SpanStart { at, id, function, parent, source, addr, task, late })
            }
            Kind::SpanEnd => {
                let raw: wire::SpanEnd = exact(bytes, kind)?;
                let how = EndHow::from_u8(raw.how).ok_or_else(|| bad("how", raw.how.into()))?;
                let polled = (raw.polls != 0).then_some((raw.polls, raw.busy_ns));
                Self::SpanEnd(SpanEnd { at, id, how, polled, healed: flag & flags::HEALED != 0 })
            }
            Kind::TaskEnd => {
                let _: wire::TaskEnd = exact(bytes, kind)?;
                Self::TaskEnd(TaskEnd { at, task: TaskAddr(id.0) })
            }
            Kind::LeafStart => {
                let raw: wire::LeafStart = exact(bytes, kind)?;
                let leaf =
                    LeafKind::from_u8(raw.leaf).ok_or_else(|| bad("leaf", raw.leaf.into()))?;
                let source = ParentSource::from_u8(raw.source)
                    .ok_or_else(|| bad("source", raw.source.into()))?;
                let parent = match source {
                    ParentSource::Frame | ParentSource::Spawn | ParentSource::Link => {
                        KernelId::new(raw.parent)
                    }
                    _ => None,
                };
                let [a, b, c, d, e, f] = raw.task;
                let task = TaskAddr::new(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]));
                let key = raw.key;
                Self::LeafStart(LeafStart { at, id, parent, source, key, kind: leaf, task })
            }
            Kind::LeafLink => {
                let raw: wire::LeafLink = exact(bytes, kind)?;
                Self::LeafLink(LeafLink { at, id, parent: KernelId::new(raw.parent) })
            }
            Kind::LeafEnd => {
                let raw: wire::LeafEnd = exact(bytes, kind)?;
                let status = (raw.status != -1).then_some(raw.status);
                let count = (raw.count != wire::LeafEnd::UNKNOWN).then_some(raw.count);
                Self::LeafEnd(LeafEnd { at, id, end: MonoNs(raw.end), count, status })
            }
            Kind::Payload => {
                let expected = size_of::<wire::PayloadHead>();
                let wrong = |expected| Malformed::Length { kind, len: bytes.len(), expected };
                let raw = wire::PayloadHead::from_bytes(bytes).ok_or_else(|| wrong(expected))?;
                let what =
                    PayloadKind::from_u8(raw.what).ok_or_else(|| bad("what", raw.what.into()))?;
                let captured = usize::from(raw.captured);
                if captured > wire::PayloadHead::MOST || u32::from(raw.captured) > raw.len {
                    return Err(bad("captured", raw.captured.into()));
                }
                // Records of fixed size are longer than what was captured.
                let captured = bytes
                    .get(expected..expected + captured)
                    .filter(|_| bytes.len() <= expected + wire::PayloadHead::MOST)
                    .ok_or_else(|| wrong(expected + captured))?;
                let wire::PayloadHead { key, offset, len, tail, .. } = raw;
                Self::Payload(Payload { at, id, key, what, offset, len, bytes: captured, tail })
            }
            Kind::Argument | Kind::LongArgument => {
                Self::Argument(Argument::decode(bytes, kind, (at, id, FnId(fn_id)))?)
            }
            Kind::ProcessExec => {
                let _: wire::ProcessExec = exact(bytes, kind)?;
                let name = &bytes[std::mem::offset_of!(wire::ProcessExec, name)..];
                let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
                Self::ProcessExec(ProcessExec { at, id, name: &name[..end] })
            }
        })
    }

    /// When and where it was written.
    pub const fn at(&self) -> Stamp {
        match self {
            Self::SpanStart(e) => e.at,
            Self::SpanEnd(e) => e.at,
            Self::TaskEnd(e) => e.at,
            Self::LeafStart(e) => e.at,
            Self::LeafLink(e) => e.at,
            Self::LeafEnd(e) => e.at,
            Self::Payload(e) => e.at,
            Self::Argument(e) => e.at,
            Self::ProcessExec(e) => e.at,
        }
    }
}

pub(super) fn exact<T: Wire>(bytes: &[u8], kind: Kind) -> Result<T, Malformed> {
    let wrong = Malformed::Length { kind, len: bytes.len(), expected: size_of::<T>() };
    if bytes.len() != size_of::<T>() {
        return Err(wrong);
    }
    T::from_bytes(bytes).ok_or(wrong)
}

/// Decodes records and counts those that are none.
#[derive(Debug, Default)]
pub struct Decoder {
    records: u64,
    malformed: u64,
    first: Option<Malformed>,
}

impl Decoder {
    /// The event in `bytes`; a malformed record is counted and gives `None`.
    pub fn decode<'a>(&mut self, bytes: &'a [u8]) -> Option<Event<'a>> {
        self.records += 1;
        match Event::decode(bytes) {
            Ok(event) => Some(event),
            Err(why) => {
                self.malformed += 1;
                self.first.get_or_insert(why);
                None
            }
        }
    }

    /// Records seen, malformed ones included.
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Records that were none. Anything but 0 means that the two sides disagree on the format.
    pub const fn malformed(&self) -> u64 {
        self.malformed
    }

    /// What was wrong with the first malformed record.
    pub const fn first_malformed(&self) -> Option<Malformed> {
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: Kind) -> wire::Header {
        wire::Header { kind: kind as u8, flags: 0, fn_id: 3, tid: 7, ts: 1_000, id: 42 }
    }

    fn payload(len: u32, captured: u16) -> wire::Payload {
        wire::Payload {
            header: header(Kind::Payload),
            key: 9,
            len,
            captured,
            what: PayloadKind::Response as u8,
            offset: 7,
            reserved: 0,
            tail: *b"tailtail",
            bytes: [b'x'; wire::Payload::CAPACITY],
        }
    }

    #[test]
    fn a_span_start_keeps_task_and_source_apart() {
        let raw = wire::SpanStart {
            header: wire::Header { flags: flags::LATE, ..header(Kind::SpanStart) },
            parent: 41,
            addr: 0x7f00_0000_1000,
            task_and_source: wire::SpanStart::pack(0x7f00_dead_beef, ParentSource::Spawn),
        };
        let Ok(Event::SpanStart(start)) = Event::decode(raw.as_bytes()) else { panic!() };
        assert_eq!(start.task, TaskAddr::new(0x7f00_dead_beef));
        assert_eq!(start.source, ParentSource::Spawn);
        assert_eq!(start.parent, KernelId::new(41));
        assert_eq!((start.function, start.late), (FnId(3), true));
    }

    #[test]
    fn a_parent_counts_only_where_the_source_names_one() {
        let raw = wire::SpanStart {
            header: header(Kind::SpanStart),
            parent: 41,
            addr: 0,
            task_and_source: wire::SpanStart::pack(0, ParentSource::Unknown),
        };
        let Ok(Event::SpanStart(start)) = Event::decode(raw.as_bytes()) else { panic!() };
        assert_eq!(start.parent, None);
        assert_eq!(start.task, None);
    }

    #[test]
    fn no_polls_means_not_known() {
        let mut raw = wire::SpanEnd {
            header: header(Kind::SpanEnd),
            busy_ns: 5,
            polls: 0,
            how: EndHow::Returned as u8,
            reserved: [0; 3],
        };
        let Ok(Event::SpanEnd(end)) = Event::decode(raw.as_bytes()) else { panic!() };
        assert_eq!(end.polled, None);
        raw.polls = 2;
        let Ok(Event::SpanEnd(end)) = Event::decode(raw.as_bytes()) else { panic!() };
        assert_eq!(end.polled, Some((2, 5)));
    }

    #[test]
    fn a_payload_lends_what_was_captured() {
        let raw = payload(1_000, 300);
        let Ok(Event::Payload(read)) = Event::decode(raw.as_bytes()) else { panic!() };
        assert_eq!((read.bytes.len(), read.len, read.offset), (300, 1_000, 7));
        // Without the zeros behind.
        let short = Event::decode(&raw.as_bytes()[..56 + 300]);
        assert_eq!(short, Ok(Event::Payload(read)));
        assert!(Event::decode(&raw.as_bytes()[..56 + 299]).is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(Event::decode(&[]), Err(Malformed::Short { len: 0 }));
        let mut raw = payload(1_000, 300);
        raw.captured = 513;
        assert!(matches!(Event::decode(raw.as_bytes()), Err(Malformed::Length { .. })));
        raw = payload(10_000, 4_097);
        assert!(matches!(
            Event::decode(raw.as_bytes()),
            Err(Malformed::Field { field: "captured", .. })
        ));
        raw = payload(10, 11);
        assert!(Event::decode(raw.as_bytes()).is_err());
        raw = payload(10, 10);
        raw.header.id = 0;
        assert_eq!(Event::decode(raw.as_bytes()), Err(Malformed::ZeroId { kind: Kind::Payload }));
        raw.header.kind = 99;
        assert_eq!(Event::decode(raw.as_bytes()), Err(Malformed::Kind { kind: 99 }));
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(raw.as_bytes()), None);
        assert_eq!((decoder.records(), decoder.malformed()), (1, 1));
        assert_eq!(decoder.first_malformed(), Some(Malformed::Kind { kind: 99 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(
            kind in prop_oneof![0u8..9, 16u8..21],
            size in prop::sample::select(vec![0usize, 8, 24, 32, 40, 48, 56, 64, 88, 288, 560, 568]),
            noise in prop::collection::vec(any::<u8>(), 568),
        ) {
            let mut bytes = noise[..size].to_vec();
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if let Ok(event) = Event::decode(&bytes) {
                prop_assert_eq!(event.at().tid.to_ne_bytes(), &bytes[4..8]);
            }
        }
    }
}
