//! Work spread over a few threads; nothing here is worth a pool.

use std::num::NonZero;
use std::thread;

/// More threads than this disturb the machine more than they help.
const MAX_THREADS: usize = 4;
/// Fewer items than this are not worth a thread.
const MIN_CHUNK: usize = 16;

/// Applies `f` to every item, in order, on up to [`MAX_THREADS`] threads.
pub(super) fn map<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    if threads < 2 || items.len() < 2 * MIN_CHUNK {
        return items.iter().map(f).collect();
    }
    // Several chunks a thread: items differ in size, and neighbours alike.
    let chunk = items.len().div_ceil(threads * 8).max(MIN_CHUNK);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let chunks: Vec<&[T]> = items.chunks(chunk).collect();
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(chunk) = chunks.get(at) else { return done };
            done.push((at, chunk.iter().map(&f).collect::<Vec<R>>()));
        }
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for other in others {
            match other.join() {
                Ok(part) => done.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().flat_map(|(_, part)| part).collect()
}
