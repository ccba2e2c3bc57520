//! Values fetched for a span: one typed event, whatever the size of its record.

use tracer_ebpf::event as wire;
use wire::Kind;

use super::decode::{FnId, KernelId, Malformed, Stamp, exact};

/// A value fetched for a span. It may come before the span's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument<'a> {
    /// When and where.
    pub at: Stamp,
    /// Which span.
    pub id: KernelId,
    /// Its function.
    pub function: FnId,
    /// Which of the function's fetches.
    pub slot: u8,
    /// How many bytes there were.
    pub len: u32,
    /// The first of them.
    pub bytes: &'a [u8],
}

impl<'a> Argument<'a> {
    /// Reads a record of either size; header and kind have been read.
    pub(super) fn decode(
        bytes: &'a [u8],
        kind: Kind,
        (at, id, function): (Stamp, KernelId, FnId),
    ) -> Result<Self, Malformed> {
        let (len, captured, slot, from, capacity) = match kind {
            Kind::LongArgument => {
                let raw: wire::LongArgument = exact(bytes, kind)?;
                let from = std::mem::offset_of!(wire::LongArgument, bytes);
                (raw.len, raw.captured, raw.slot, from, wire::LongArgument::CAPACITY)
            }
            _ => {
                let raw: wire::Argument = exact(bytes, kind)?;
                let from = std::mem::offset_of!(wire::Argument, bytes);
                (raw.len, raw.captured, raw.slot, from, wire::Argument::CAPACITY)
            }
        };
        let captured = usize::from(captured);
        if captured > capacity || captured as u64 > u64::from(len) {
            let value = captured as u64;
            return Err(Malformed::Field { kind, field: "captured", value });
        }
        Ok(Self { at, id, function, slot, len, bytes: &bytes[from..from + captured] })
    }
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::event::Wire as _;

    use super::*;
    use crate::events::Event;

    fn short(len: u32, captured: u16) -> wire::Argument {
        wire::Argument {
            header: wire::Header {
                kind: Kind::Argument as u8,
                flags: 0,
                fn_id: 3,
                tid: 7,
                ts: 1_000,
                id: 42,
            },
            len,
            captured,
            slot: 2,
            reserved: 0,
            bytes: [b'x'; wire::Argument::CAPACITY],
        }
    }

    #[test]
    fn both_sizes_are_one_event() {
        let raw = short(4, 4);
        let Ok(Event::Argument(read)) = Event::decode(raw.as_bytes()) else { panic!() };
        assert_eq!((read.bytes, read.slot, read.function), (&b"xxxx"[..], 2, FnId(3)));
        let mut header = raw.header;
        header.kind = Kind::LongArgument as u8;
        let raw = wire::LongArgument {
            header,
            len: 999,
            captured: 256,
            slot: 1,
            reserved: 0,
            bytes: [b'y'; wire::LongArgument::CAPACITY],
        };
        let Ok(Event::Argument(read)) = Event::decode(raw.as_bytes()) else { panic!() };
        assert_eq!((read.bytes.len(), read.len), (256, 999));
    }

    #[test]
    fn more_bytes_than_there_are_is_malformed() {
        for raw in [short(40, 33), short(3, 4)] {
            assert!(matches!(
                Event::decode(raw.as_bytes()),
                Err(Malformed::Field { field: "captured", .. })
            ));
        }
    }
}
