//! Values of the target for a span's attributes: carries out the fetches of a plan.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use tracer_ebpf::access::{
    Fetch, MAX_FETCHES, MAX_PER_FUNCTION, MAX_STEPS, Op, Origin, Step, Take,
};
use tracer_ebpf::config::FnConfig;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::event::{Argument, Header, Kind, LongArgument, flags};

use crate::drops::{count, emit_with};
use crate::hit::{Moment, read};

#[map]
static FETCHES: Array<Fetch> = Array::with_max_entries(MAX_FETCHES, 0);

/// Fetches for span `id` all that its function's plan takes `from` there.
#[inline(always)]
pub fn all(at: &Moment, fn_id: u16, function: &FnConfig, from: Origin, id: u64, base: u64) {
    let which = u64::from(function.fetch) | u64::from(fn_id) << 16 | (from as u64) << 32;
    fetch_values(which, u64::from(at.tid), at.now, id, base);
}

/// The same for the verifier, which checks a global function once on its own: see
/// [`crate::heal`]. `which`: first fetch, function, [`Origin`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn fetch_values(which: u64, tid: u64, now: u64, id: u64, base: u64) -> u64 {
    let at = Moment { tid: tid as u32, now };
    let mut next = which as u16;
    for _ in 0..MAX_PER_FUNCTION {
        if next == 0 {
            return 0;
        }
        let Some(fetch) = FETCHES.get(u32::from(next)) else { return 0 };
        if fetch.from == (which >> 32) as u8 {
            // A value that is not there is an attribute that is not there.
            let _: Option<()> = one(&at, (which >> 16) as u16, id, base, fetch);
        }
        next = fetch.next;
    }
    0
}

#[inline(always)]
fn one(now: &Moment, fn_id: u16, id: u64, base: u64, fetch: &Fetch) -> Option<()> {
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
        send(now, fn_id, id, fetch.slot, start, len, if len > most { most } else { len });
    } else {
        send(now, fn_id, id, fetch.slot, offset, most, most);
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
    ($record:ident, $now:expr, $fn_id:expr, $id:expr, $slot:expr, $at:expr, $len:expr, $wanted:expr) => {
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
                    tid: $now.tid,
                    ts: $now.now,
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
fn send(now: &Moment, fn_id: u16, id: u64, slot: u8, at: u64, len: u64, wanted: u64) {
    if wanted <= Argument::CAPACITY as u64 {
        send!(Argument, now, fn_id, id, slot, at, len, wanted);
    } else {
        send!(LongArgument, now, fn_id, id, slot, at, len, wanted);
    }
}
