//! The floor: what no tracer that writes a record at a function's beginning and at its end can be
//! cheaper than. Probes on the same instructions, one record of 32 bytes each, and somebody who
//! takes them away.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use super::kernel;

const RING: u32 = 16 << 20;
const RECORD: i32 = 32;

/// Probes in place. Dropping it takes them away.
#[derive(Debug)]
pub struct Floor {
    _links: Vec<OwnedFd>,
    stop: Arc<AtomicBool>,
    consumer: Option<JoinHandle<u64>>,
}

/// An instruction: opcode, destination and source register, offset, immediate.
const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    code as u64
        | (dst as u64) << 8
        | (src as u64) << 12
        | (off as u16 as u64) << 16
        | (imm as u32 as u64) << 32
}

/// Helpers, `include/uapi/linux/bpf.h`.
mod helper {
    pub const KTIME_GET_NS: i32 = 5;
    pub const GET_CURRENT_PID_TGID: i32 = 14;
    pub const RINGBUF_RESERVE: i32 = 131;
    pub const RINGBUF_SUBMIT: i32 = 132;
}

fn program(ring: &OwnedFd) -> [u64; 18] {
    const LD_IMM64: u8 = 0x18;
    const MOV_K: u8 = 0xb7;
    const MOV_X: u8 = 0xbf;
    const CALL: u8 = 0x85;
    const JEQ_K: u8 = 0x15;
    const STX_DW: u8 = 0x7b;
    const EXIT: u8 = 0x95;
    const NO_WAKEUP: i32 = 1;
    [
        insn(LD_IMM64, 1, 1, 0, ring.as_raw_fd()),
        0,
        insn(MOV_K, 2, 0, 0, RECORD),
        insn(MOV_K, 3, 0, 0, 0),
        insn(CALL, 0, 0, 0, helper::RINGBUF_RESERVE),
        insn(JEQ_K, 0, 0, 10, 0),
        insn(MOV_X, 6, 0, 0, 0),
        insn(CALL, 0, 0, 0, helper::KTIME_GET_NS),
        insn(STX_DW, 6, 0, 0, 0),
        insn(CALL, 0, 0, 0, helper::GET_CURRENT_PID_TGID),
        insn(STX_DW, 6, 0, 8, 0),
        insn(STX_DW, 6, 0, 16, 0),
        insn(STX_DW, 6, 0, 24, 0),
        insn(MOV_X, 1, 6, 0, 0),
        insn(MOV_K, 2, 0, 0, NO_WAKEUP),
        insn(CALL, 0, 0, 0, helper::RINGBUF_SUBMIT),
        insn(MOV_K, 0, 0, 0, 0),
        insn(EXIT, 0, 0, 0, 0),
    ]
}

impl Floor {
    /// Places a probe at each of `offsets` in the file `path`, for `pid`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(path: &Path, offsets: &[u64], pid: u32) -> Result<Self> {
        let ring = kernel::create_ring(RING).context("a ring buffer")?;
        let program = kernel::load_program(&program(&ring)).context("the floor's program")?;
        let link = kernel::link(&program, path, offsets, pid).context("the floor's probes")?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let mut ring = Ring::map(&ring)?;
        let consumer = std::thread::spawn(move || {
            let mut seen = 0;
            while !told.load(Ordering::Relaxed) {
                seen += ring.drain();
                std::thread::sleep(Duration::from_millis(10));
            }
            seen + ring.drain()
        });
        Ok(Self { _links: vec![link], stop, consumer: Some(consumer) })
    }

    /// Takes the probes away and returns how many records there were.
    pub fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.consumer.take().and_then(|thread| thread.join().ok()).unwrap_or(0)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The consumer's side of a ring buffer, `kernel/bpf/ringbuf.c`: a page with the consumer's
/// position, a page with the producer's, the data twice.
struct Ring {
    consumer: *const AtomicU64,
    producer: *const AtomicU64,
    data: *const u8,
}

// SAFETY: the mappings are never unmapped, and the positions are atomic.
unsafe impl Send for Ring {}

const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
const HEADER: u64 = 8;

impl Ring {
    fn map(ring: &OwnedFd) -> Result<Self> {
        const PAGE: usize = 4096;
        let map = |length: usize, protection: i32, offset: usize| {
            // SAFETY: a new mapping of a descriptor that we own, wherever the kernel likes.
            let at = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    length,
                    protection,
                    libc::MAP_SHARED,
                    ring.as_raw_fd(),
                    offset as i64,
                )
            };
            if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at) }
        };
        let consumer = map(PAGE, libc::PROT_READ | libc::PROT_WRITE, 0)?;
        let producer = map(PAGE + 2 * RING as usize, libc::PROT_READ, PAGE)?;
        // SAFETY: the data begin one page into that mapping.
        let data = unsafe { producer.cast::<u8>().add(PAGE) };
        Ok(Self { consumer: consumer.cast(), producer: producer.cast(), data })
    }

    fn drain(&mut self) -> u64 {
        // SAFETY: both pages stay mapped.
        let (consumer, producer) = unsafe { (&*self.consumer, &*self.producer) };
        let mut seen = 0;
        let mut at = consumer.load(Ordering::Relaxed);
        while at < producer.load(Ordering::Acquire) {
            let place = (at % u64::from(RING)) as usize;
            // SAFETY: a header lies at every position between consumer and producer.
            let header = unsafe { &*self.data.add(place).cast::<AtomicU32>() };
            let header = header.load(Ordering::Acquire);
            if header & BUSY != 0 {
                break;
            }
            seen += u64::from(header & DISCARD == 0);
            let length = u64::from(header & !(BUSY | DISCARD));
            at += (length + HEADER).next_multiple_of(8);
            consumer.store(at, Ordering::Release);
        }
        seen
    }
}
