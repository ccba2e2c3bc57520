//! Live probes: placed all or none, switched on together, gone when dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::{Ebpf, EbpfLoader};
use serde::{Deserialize, Serialize};
use tracer_ebpf::access::{Fetch, MAX_FETCHES};
use tracer_ebpf::config::{Config, FnConfig, MAX_FUNCTIONS};
use tracer_ebpf::counters::Counter;

use super::error::AttachError;
use super::features;
use super::multi::Multi;
use super::perf::PerfEvents;
use super::processes::Processes;
use super::suspects;
use crate::events::Counters;
use crate::plan::ProbePlan;
use crate::target::PidNamespace;

/// How probes are placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// `uprobe_multi` where the kernel has it, else perf events.
    #[default]
    Auto,
    /// `uprobe_multi` links (kernel 6.6+).
    UprobeMulti,
    /// One perf event per probe.
    PerfEvent,
}

impl Mechanism {
    /// The word that users and scripts see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::UprobeMulti => "uprobe-multi",
            Self::PerfEvent => "perf-event",
        }
    }
}

/// How to attach.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// How probes are placed.
    pub mechanism: Mechanism,
    /// Size of the ring buffer in bytes; rounded up to a power of two of at least a page.
    pub ring_bytes: u32,
    /// Live futures that can be followed at once.
    pub max_futures: u32,
    /// Capture the text of SQL statements.
    pub capture_sql: bool,
    /// Capture the beginning of what goes through TLS: needed to see where an answer ends.
    pub capture_tls: bool,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self {
            mechanism: Mechanism::Auto,
            ring_bytes: 16 << 20,
            max_futures: 131_072,
            capture_sql: true,
            capture_tls: true,
        }
    }
}

#[derive(Debug)]
enum Links {
    Multi(Multi),
    PerfEvents(PerfEvents),
}

/// Probes in a live process. Dropping it removes every link, program and map.
pub struct AttachedProbes {
    // Links go first: no program may run on maps that are going away.
    links: Links,
    _processes: Option<Processes>,
    wired: Wired,
    ring: RingBuf<MapData>,
    _ebpf: Ebpf,
}

/// The maps that steer and watch the programs.
pub(super) struct Wired {
    config: Array<MapData, WireConfig>,
    settings: Config,
    pub(super) counters: PerCpuArray<MapData, u64>,
}

impl Wired {
    /// Takes the maps and names the process, in its own pid namespace. Switched off.
    pub(super) fn new(
        ebpf: &mut Ebpf,
        ns_dev: u64,
        ns_ino: u64,
        tgid: u32,
    ) -> Result<Self, AttachError> {
        let settings = Config {
            ns_dev: kernel_dev(ns_dev),
            ns_ino,
            tgid,
            active: 0,
            sql_text_offset: 0,
            capture: 0,
        };
        Ok(Self { config: take(ebpf, "CONFIG")?, settings, counters: take(ebpf, "COUNTERS")? })
    }

    /// Makes every program a no-op, or undoes that.
    pub(super) fn switch(&mut self, on: bool) -> Result<(), AttachError> {
        self.settings.active = u32::from(on);
        self.config
            .set(0, WireConfig(self.settings), 0)
            .map_err(|source| AttachError::Map { map: "CONFIG", source })
    }
}

/// One counter, summed over CPUs.
pub(super) fn count(
    counters: &PerCpuArray<MapData, u64>,
    counter: Counter,
) -> Result<u64, AttachError> {
    let per_cpu = counters
        .get(&(counter as u32), 0)
        .map_err(|source| AttachError::Map { map: "COUNTERS", source })?;
    Ok(per_cpu.iter().sum())
}

/// [`Config`] as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct WireConfig(Config);
// SAFETY: `repr(C)`, integers only, no padding.
unsafe impl aya::Pod for WireConfig {}

/// [`FnConfig`] as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct WireFn(FnConfig);
// SAFETY: `repr(C)`, integers only, no padding.
unsafe impl aya::Pod for WireFn {}

/// [`Fetch`] as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct WireFetch(Fetch);
// SAFETY: `repr(C)`, integers only, no padding.
unsafe impl aya::Pod for WireFetch {}

impl AttachedProbes {
    /// Loads the programs, fills their tables, places every probe of the plan, and only then
    /// switches them on. `pid` is the process as this process sees it.
    ///
    /// # Errors
    /// Nothing of ours is left behind when this fails.
    pub fn attach(
        plan: &ProbePlan,
        pid: u32,
        namespace: PidNamespace,
        options: &AttachOptions,
    ) -> Result<Self, AttachError> {
        check_code(plan)?;
        let multi = match options.mechanism {
            Mechanism::Auto => features().uprobe_multi.is_ok(),
            Mechanism::PerfEvent => false,
            Mechanism::UprobeMulti => match &features().uprobe_multi {
                Ok(()) => true,
                Err(why) => {
                    return Err(AttachError::NoUprobeMulti {
                        source: io::Error::other(why.clone()),
                    });
                }
            },
        };
        let ring_bytes = options.ring_bytes.clamp(4096, 1 << 30).next_power_of_two();
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("EVENTS", ring_bytes)
            .map_max_entries("FUTURES", options.max_futures)
            .load(super::object::bytes())
            .map_err(not_permitted)?;

        fill_functions(&mut ebpf, &plan.configs)?;
        fill_fetches(&mut ebpf, &plan.fetches)?;
        let links = if multi {
            Links::Multi(Multi::attach(&ebpf, plan, pid)?)
        } else {
            Links::PerfEvents(PerfEvents::attach(&mut ebpf, plan)?)
        };
        let processes = if plan.processes { Processes::attach(&mut ebpf) } else { None };
        let ring = take(&mut ebpf, "EVENTS")?;
        let mut wired = Wired::new(&mut ebpf, namespace.dev, namespace.ino, namespace.pid)?;
        wired.settings.sql_text_offset = plan.sql_text_offset.unwrap_or(0);
        if options.capture_sql {
            wired.settings.capture |= Config::CAPTURE_SQL;
        }
        if options.capture_tls {
            wired.settings.capture |= Config::CAPTURE_TLS;
        }
        let mut table: HashMap<MapData, u32, u8> = take(&mut ebpf, "SUSPECTS")?;
        let suspect = |table: &mut HashMap<MapData, u32, u8>| {
            let threads = suspects::threads(pid);
            for (tid, _) in &threads {
                table
                    .insert(tid, 1, 0)
                    .map_err(|source| AttachError::Map { map: "SUSPECTS", source })?;
            }
            Ok::<_, AttachError>(threads)
        };
        suspect(&mut table)?;
        wired.switch(true)?;
        // Once more, for threads that began between the two.
        let threads = suspect(&mut table)?;
        let ranges = suspects::probed_ranges(pid, plan);
        for (tid, task) in &threads {
            if suspects::is_outside(pid, task, &ranges).is_some() {
                // A thread that cannot be cleared stays under suspicion.
                let _ = table.remove(tid);
            }
        }
        Ok(Self { links, _processes: processes, wired, ring, _ebpf: ebpf })
    }

    /// Which mechanism is in use.
    pub fn mechanism(&self) -> Mechanism {
        match self.links {
            Links::Multi(_) => Mechanism::UprobeMulti,
            Links::PerfEvents(_) => Mechanism::PerfEvent,
        }
    }

    /// Links that hold the probes.
    pub fn links(&self) -> usize {
        match &self.links {
            Links::Multi(multi) => multi.links(),
            Links::PerfEvents(events) => events.links(),
        }
    }

    /// Makes every program a no-op, or undoes that. Records already written stay to be drained.
    ///
    /// # Errors
    /// When the kernel refuses the update.
    pub fn switch(&mut self, on: bool) -> Result<(), AttachError> {
        self.wired.switch(on)
    }

    /// Hands every record that is waiting to `each`, oldest first, at most `limit`. Returns how
    /// many there were.
    pub fn drain(&mut self, limit: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut seen = 0;
        while seen < limit {
            let Some(record) = self.ring.next() else { break };
            each(&record);
            seen += 1;
        }
        seen
    }

    /// End records lost so far: [`Counters::ends_lost`], without reading all the others.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn ends_lost(&self) -> Result<u64, AttachError> {
        let mut some = Counters::default();
        for counter in Counters::ENDS {
            some.set_from_cpus(counter, [count(&self.wired.counters, counter)?]);
        }
        Ok(some.ends_lost())
    }

    /// The counters, summed over CPUs.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn counters(&self) -> Result<Counters, AttachError> {
        let mut all = Counters::default();
        for &counter in Counter::ALL {
            all.set_from_cpus(counter, [count(&self.wired.counters, counter)?]);
        }
        Ok(all)
    }

    /// How long to wait between drains: short enough that a burst fits the ring, long enough that
    /// the tracer wakes at most a hundred times a second.
    pub const DRAIN_INTERVAL: Duration = Duration::from_millis(10);
}

/// The kernel encodes a device as `major << 20 | minor`; `stat` as glibc's `makedev` does.
fn kernel_dev(dev: u64) -> u64 {
    u64::from(libc::major(dev)) << 20 | u64::from(libc::minor(dev))
}

fn not_permitted(error: aya::EbpfError) -> AttachError {
    use aya::maps::MapError;
    match error {
        aya::EbpfError::MapError(MapError::CreateError { io_error, name: _ })
            if io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            AttachError::NotPermitted { source: io_error }
        }
        error => AttachError::Load(error),
    }
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, AttachError>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(AttachError::Missing { kind: "map", name })?;
    T::try_from(map).map_err(|source| AttachError::Map { map: name, source })
}

fn fill_functions(ebpf: &mut Ebpf, configs: &[FnConfig]) -> Result<(), AttachError> {
    debug_assert!(configs.len() < MAX_FUNCTIONS as usize, "the plan bounds its functions");
    let map =
        ebpf.map_mut("FUNCTIONS").ok_or(AttachError::Missing { kind: "map", name: "FUNCTIONS" })?;
    let failed = |source| AttachError::Map { map: "FUNCTIONS", source };
    let mut table: Array<&mut MapData, WireFn> = map.try_into().map_err(failed)?;
    for (index, config) in configs.iter().enumerate() {
        table.set(index as u32 + 1, WireFn(*config), 0).map_err(failed)?;
    }
    Ok(())
}

fn fill_fetches(ebpf: &mut Ebpf, fetches: &[Fetch]) -> Result<(), AttachError> {
    debug_assert!(fetches.len() < MAX_FETCHES as usize, "the plan bounds its fetches");
    let map =
        ebpf.map_mut("FETCHES").ok_or(AttachError::Missing { kind: "map", name: "FETCHES" })?;
    let failed = |source| AttachError::Map { map: "FETCHES", source };
    let mut table: Array<&mut MapData, WireFetch> = map.try_into().map_err(failed)?;
    for (index, fetch) in fetches.iter().enumerate() {
        table.set(index as u32 + 1, WireFetch(*fetch), 0).map_err(failed)?;
    }
    Ok(())
}

/// Compares every site with the file that is about to be probed: a probe in the middle of an
/// instruction would corrupt the target.
fn check_code(plan: &ProbePlan) -> Result<(), AttachError> {
    let mut files: BTreeMap<usize, File> = BTreeMap::new();
    for probe in &plan.probes {
        let path = &plan.modules[probe.module].path;
        let file = match files.entry(probe.module) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(
                File::open(path)
                    .map_err(|source| AttachError::File { path: path.clone(), source })?,
            ),
        };
        let mut found = vec![0; probe.bytes.len()];
        let same = file.read_exact_at(&mut found, probe.offset).is_ok() && found == probe.bytes;
        if !same || probe.bytes.is_empty() {
            return Err(AttachError::CodeChanged { path: path.clone(), offset: probe.offset });
        }
    }
    Ok(())
}
