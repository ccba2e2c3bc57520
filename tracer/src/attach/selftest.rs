//! One probe on this very process, hit from a second thread.

use std::path::PathBuf;

use aya::EbpfLoader;
use tracer_ebpf::counters::Counter;
use tracer_ebpf::hook::Hook;

use super::multi::Multi;
use super::probes::{Wired, count};
use crate::plan::{Coverage, Probe, ProbePlan};
use crate::target::{Cost, ModuleInfo};

/// Whether a `uprobe_multi` link with this process's PID fires on a thread other than the first.
pub(super) fn multi_fires_on_every_thread(function: extern "C" fn() -> u32) -> Result<(), String> {
    let offset = file_offset(function as usize as u64)?;
    let plan = ProbePlan {
        modules: vec![ModuleInfo {
            path: PathBuf::from("/proc/self/exe"),
            name: PathBuf::new(),
            build_id: None,
        }],
        probes: vec![Probe {
            module: 0,
            offset,
            bytes: Vec::new(),
            hook: Hook::TaskWake,
            cookie: tracer_ebpf::cookie::Cookie(0),
            cost: Cost::SingleStepped,
        }],
        functions: Vec::new(),
        configs: Vec::new(),
        fetches: Vec::new(),
        code: Vec::new(),
        processes: false,
        sql_text_offset: None,
        coverage: Coverage::default(),
    };
    let ns =
        rustix::fs::stat("/proc/self/ns/pid").map_err(|e| format!("/proc/self/ns/pid: {e}"))?;
    let mut ebpf = EbpfLoader::new()
        .map_max_entries("EVENTS", 4096)
        .map_max_entries("FUTURES", 16)
        .load(super::object::bytes())
        .map_err(|e| format!("{e:?}"))?;
    let _links = Multi::attach(&ebpf, &plan, std::process::id()).map_err(|e| e.to_string())?;
    let mut wired = Wired::new(&mut ebpf, ns.st_dev, ns.st_ino, std::process::id())
        .map_err(|e| e.to_string())?;
    wired.switch(true).map_err(|e| e.to_string())?;
    let spawned = std::thread::Builder::new().spawn(move || function());
    spawned.map_err(|e| e.to_string())?.join().map_err(|_| "the probed thread died".to_owned())?;
    let hits = count(&wired.counters, Counter::Hits).map_err(|e| e.to_string())?;
    if hits == 0 {
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
