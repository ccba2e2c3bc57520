//! Running an operation: as often as asked, at a given rate, on several threads.

use crate::clock;

/// Runs `n` operations and returns something that depends on each.
pub type Op = fn(n: u64) -> u64;

/// What a run took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// Operations.
    pub ops: u64,
    /// Nanoseconds that passed while they ran.
    pub wall: u64,
    /// CPU time of the threads that ran them, nanoseconds.
    pub thread_cpu: u64,
    /// CPU time of the whole process from beginning to end, pauses and exports included.
    pub process_cpu: u64,
    /// Nanoseconds from beginning to end, pauses included.
    pub elapsed: u64,
    /// Keeps the operations from being optimised away.
    pub check: u64,
}

/// Operations between two pauses.
const CHUNK: u64 = 10_000;

/// Runs `ops` operations with pauses in between, in which `settle` may run: who consumes what an
/// operation leaves behind gets the time to do so, and nobody's queue overflows.
pub fn cost(op: Op, ops: u64, settle: fn()) -> Took {
    let mut took = Took::default();
    took.check ^= op(CHUNK.min(ops));
    settle();
    let (began, cpu) = (clock::wall(), clock::process_cpu());
    while took.ops < ops {
        let n = CHUNK.min(ops - took.ops);
        let (wall, thread) = (clock::wall(), clock::thread_cpu());
        took.check ^= op(n);
        took.thread_cpu += clock::thread_cpu() - thread;
        took.wall += clock::wall() - wall;
        took.ops += n;
        settle();
    }
    took.process_cpu = clock::process_cpu() - cpu;
    took.elapsed = clock::wall() - began;
    took
}

/// Runs `per_second` operations a second, in portions of a millisecond.
pub fn rate(op: Op, per_second: u64, seconds: u64) -> Took {
    const PORTIONS: u64 = 1000;
    let mut took = Took::default();
    let (began, cpu, thread) = (clock::wall(), clock::process_cpu(), clock::thread_cpu());
    for portion in 1..=seconds * PORTIONS {
        let due = per_second * portion / PORTIONS;
        let wall = clock::wall();
        took.check ^= op(due - took.ops);
        took.wall += clock::wall() - wall;
        took.ops = due;
        // Behind schedule it does not pause: what was asked for is what is done.
        let next = began + portion * (1_000_000_000 / PORTIONS);
        clock::sleep(next.saturating_sub(clock::wall()));
    }
    took.thread_cpu = clock::thread_cpu() - thread;
    took.process_cpu = clock::process_cpu() - cpu;
    took.elapsed = clock::wall() - began;
    took
}

/// Runs `ops` operations on `threads` threads as fast as they go.
pub fn burst(op: Op, ops: u64, threads: u64) -> Took {
    let (began, cpu) = (clock::wall(), clock::process_cpu());
    let each = ops / threads.max(1);
    let runs: Vec<_> = (0..threads)
        .map(|_| {
            std::thread::spawn(move || {
                let cpu = clock::thread_cpu();
                let check = op(each);
                (check, clock::thread_cpu() - cpu)
            })
        })
        .collect();
    let mut took = Took { ops: each * threads, ..Took::default() };
    for run in runs {
        let (check, cpu) = run.join().unwrap_or_default();
        took.check ^= check;
        took.thread_cpu += cpu;
    }
    took.wall = clock::wall() - began;
    took.elapsed = took.wall;
    took.process_cpu = clock::process_cpu() - cpu;
    took
}

/// Two threads hand a byte to and fro for some time: every handing over is a context switch.
/// Operations are round trips.
pub fn ping_pong(milliseconds: u64) -> std::io::Result<Took> {
    use std::io::{Read as _, Write as _};
    let (mut ping_out, mut ping_in) = std::io::pipe()?;
    let (mut pong_out, mut pong_in) = std::io::pipe()?;
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        // The end of the pipe is the end of the game.
        while ping_out.read_exact(&mut byte).is_ok() && pong_in.write_all(&byte).is_ok() {}
    });
    let (began, cpu) = (clock::wall(), clock::process_cpu());
    let mut took = Took::default();
    let mut byte = [1];
    while clock::wall() - began < milliseconds * 1_000_000 {
        for _ in 0..100 {
            ping_in.write_all(&byte)?;
            pong_out.read_exact(&mut byte)?;
        }
        took.ops += 100;
    }
    took.wall = clock::wall() - began;
    took.elapsed = took.wall;
    took.process_cpu = clock::process_cpu() - cpu;
    drop(ping_in);
    echo.join().map_err(|_| std::io::Error::other("the other thread panicked"))?;
    Ok(took)
}
