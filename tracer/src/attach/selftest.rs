//! One probe on this very process, hit from a second thread.

use std::os::fd::AsRawFd as _;
use std::path::Path;

use super::sys::{self, Tally};

/// Whether a `uprobe_multi` link with this process's PID fires on a thread other than the first.
/// With a program of its own: those that trace take the verifier a quarter of a second.
pub(super) fn multi_fires_on_every_thread(function: extern "C" fn() -> u32) -> Result<(), String> {
    let offset = file_offset(function as usize as u64)?;
    let tally = Tally::new().map_err(|e| e.to_string())?;
    let _link = sys::link_uprobe_multi(
        tally.program.as_raw_fd(),
        Path::new("/proc/self/exe"),
        &[offset],
        &[0],
        std::process::id(),
    )
    .map_err(|e| e.to_string())?;
    let spawned = std::thread::Builder::new().spawn(move || function());
    spawned.map_err(|e| e.to_string())?.join().map_err(|_| "the probed thread died".to_owned())?;
    if tally.count().map_err(|e| e.to_string())? == 0 {
        return Err("hits on threads other than the first do not arrive".to_owned());
    }
    Ok(())
}

/// Offset in our executable of the code at `address`.
fn file_offset(address: u64) -> Result<u64, String> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| e.to_string())?;
    maps.lines()
        .find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let start = u64::from_str_radix(start, 16).ok()?;
            let end = u64::from_str_radix(end, 16).ok()?;
            let file = u64::from_str_radix(words.nth(1)?, 16).ok()?;
            (start..end).contains(&address).then(|| address - start + file)
        })
        .ok_or_else(|| "our own code is not mapped".to_owned())
}
