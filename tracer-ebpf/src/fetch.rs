//! Values of the target for a span's attributes: carries out the fetches of a plan.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use tracer_ebpf::access::{Fetch, From, MAX_FETCHES, MAX_PER_FUNCTION, MAX_STEPS, Op, Step, Take};
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{Argument, Header, Kind, LongArgument, flags};

use crate::drops::{count, emit_with};
use crate::thread::{Hit, read};

#[map]
static FETCHES: Array<Fetch> = Array::with_max_entries(MAX_FETCHES, 0);

/// Fetches for span `id` of function `fn_id` all that sets out `from` there. `first` is the
/// function's [`tracer_ebpf::config::FnConfig::fetch`].
#[inline(always)]
pub fn all(hit: &Hit, fn_id: u16, first: u16, id: u64, from: From, base: u64) {
    let mut next = first;
    for _ in 0..MAX_PER_FUNCTION {
        if next == 0 {
            return;
        }
        let Some(fetch) = FETCHES.get(u32::from(next)) else { return };
        if fetch.from == from as u8 {
            // A value that is not there is an attribute that is not there.
            let _: Option<()> = one(hit, fn_id, id, base, fetch);
        }
        next = fetch.next;
    }
}

#[inline(always)]
fn one(hit: &Hit, fn_id: u16, id: u64, base: u64, fetch: &Fetch) -> Option<()> {
    let mut at = base;
    for index in 0..MAX_STEPS {
        if index >= usize::from(fetch.steps_len) {
            break;
        }
        at = step(at, &fetch.steps[index])?;
    }
    let offset = at + u64::from(fetch.offset);
    let most = u64::from(fetch.most);
    if fetch.take == Take::Slice as u8 {
        let start = read::<u64>(offset)?;
        let len = read::<u64>(at + u64::from(fetch.len_offset))?;
        send(hit, fn_id, id, fetch.slot, start, len, if len > most { most } else { len });
    } else {
        send(hit, fn_id, id, fetch.slot, offset, most, most);
    }
    Some(())
}

#[inline(always)]
fn step(at: u64, step: &Step) -> Option<u64> {
    let place = at + u64::from(step.offset);
    if step.op == Op::Deref as u8 {
        let to = read::<u64>(place)?;
        return if to == 0 { None } else { Some(to) };
    }
    let number = match step.width {
        1 => u64::from(read::<u8>(place)?),
        2 => u64::from(read::<u16>(place)?),
        4 => u64::from(read::<u32>(place)?),
        _ => read::<u64>(place)?,
    };
    let within = step.low <= number && number <= step.high;
    if within == (step.op == Op::Within as u8) { Some(at) } else { None }
}

macro_rules! send {
    ($record:ident, $hit:expr, $fn_id:expr, $id:expr, $slot:expr, $at:expr, $len:expr, $wanted:expr) => {
        emit_with::<$record>(Counter::LostPayload, |record| {
            let wanted = if $wanted > $record::CAPACITY as u64 {
                $record::CAPACITY as u32
            } else {
                $wanted as u32
            };
            let flags = if u64::from(wanted) < $len { flags::TRUNCATED } else { 0 };
            // SAFETY: `record` is reserved space of this type; every field is written below.
            unsafe {
                (*record).header = Header {
                    kind: Kind::$record as u8,
                    flags,
                    fn_id: $fn_id,
                    tid: $hit.tid,
                    ts: $hit.now,
                    id: $id,
                };
                (*record).len = if $len > u64::from(u32::MAX) { u32::MAX } else { $len as u32 };
                (*record).slot = $slot;
                (*record).reserved = 0;
                // The ring buffer's space holds earlier records: nothing stale may leave with it.
                core::ptr::write_bytes(
                    (*record).bytes.as_mut_ptr().cast::<u64>(),
                    0,
                    $record::CAPACITY / 8,
                );
                let bytes = (*record).bytes.as_mut_ptr().cast();
                if bpf_probe_read_user(bytes, wanted, $at as *const _) == 0 {
                    (*record).captured = wanted as u16;
                } else {
                    count(Counter::ReadFaults);
                    (*record).captured = 0;
                }
            }
        })
    };
}

/// Sends the first `wanted` of the `len` bytes at `at`.
#[inline(always)]
fn send(hit: &Hit, fn_id: u16, id: u64, slot: u8, at: u64, len: u64, wanted: u64) {
    if wanted <= Argument::CAPACITY as u64 {
        send!(Argument, hit, fn_id, id, slot, at, len, wanted);
    } else {
        send!(LongArgument, hit, fn_id, id, slot, at, len, wanted);
    }
}
