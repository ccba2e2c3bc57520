//! `attach`: how long it takes to attach and to detach, by number of probes and size of binary,
//! and how much memory that takes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::harness::wait_for;

use super::filler::{self, GROUPS};
use super::procfs::Look;
use super::stats::{Figure, Samples};
use super::target::Target;
use super::tracers::{Ours, floor, probe_sites};
use super::{Bench, PATIENCE};

const MIB: f64 = (1 << 20) as f64;

/// One way to attach: what is asked for, and what came of it.
struct Case {
    name: String,
    functions: Vec<String>,
    attach: Samples,
    detach: Samples,
    kill: Samples,
    peak: Samples,
    probes: usize,
}

impl Case {
    fn new(name: String, groups: usize) -> Self {
        let functions = GROUPS.iter().take(groups).map(|(name, _)| format!("filler::{name}"));
        Self {
            name,
            functions: functions.collect(),
            attach: Samples::default(),
            detach: Samples::default(),
            kill: Samples::default(),
            peak: Samples::default(),
            probes: 0,
        }
    }

    fn round(&mut self, bench: &Bench<'_>, target: &Target) -> Result<()> {
        let functions: Vec<&str> = self.functions.iter().map(String::as_str).collect();
        let attach = || {
            let began = Instant::now();
            let ours = Ours::attach(&bench.programs, target.pid(), &functions, &[], bench.dir)?;
            anyhow::Ok((ours, began.elapsed()))
        };
        let (mut ours, took) = attach()?;
        self.attach.push(took.as_secs_f64());
        self.probes = probe_sites(target.program())?.len();
        let look = Look::at(ours.pid())?;
        self.peak.push((look.peak_rss + look.maps) as f64 / MIB);
        let began = Instant::now();
        ours.interrupt();
        gone(target)?;
        self.detach.push(began.elapsed().as_secs_f64());
        ours.finish()?;

        let (mut ours, _) = attach()?;
        let began = Instant::now();
        ours.process().signal(libc::SIGKILL);
        gone(target)?;
        self.kill.push(began.elapsed().as_secs_f64());
        Ok(())
    }

    fn figures(&self, goals: [f64; 2]) -> [Figure; 4] {
        let Self { name, attach, detach, kill, peak, probes, .. } = self;
        let of = format!("{name}, {probes} probes");
        [
            Figure::new(format!("{of}: attached after"), "s", attach).at_most(goals[0]),
            Figure::new(format!("{of}: detached after"), "s", detach).at_most(0.25),
            Figure::new(format!("{of}: killed, gone after"), "s", kill).at_most(0.25),
            Figure::new(format!("{of}: peak memory"), "MiB", peak).at_most(goals[1]),
        ]
    }
}

/// Waits until no probe is left in the target's executable.
fn gone(target: &Target) -> Result<()> {
    wait_for("the probes to go", PATIENCE, || {
        Ok(probe_sites(target.program()).is_err().then_some(()))
    })
}

/// Measures.
///
/// # Errors
/// Something does not build or run.
pub fn run(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    ensure!(cfg!(target_arch = "x86_64"), "the large binaries are made of x86-64 code");
    let mut figures = vec![];
    for (mib, goals) in [(25, [0.5, 150.0]), (200, [3.0, 300.0])] {
        let binary = filler::binary(mib << 20, bench.dir)?;
        let target = Target::start(&binary)?;
        let mut cases: Vec<_> = (1..=GROUPS.len())
            .map(|groups| Case::new(format!("a binary of {mib} MB"), groups))
            .collect();
        for _ in 0..bench.rounds {
            for case in &mut cases {
                case.round(bench, &target)?;
            }
        }
        figures.extend(cases.iter().flat_map(|case| case.figures(goals)));
        if mib == 25 {
            figures.extend(links(bench, &target)?);
        }
    }
    if let Some(binary) = &bench.binary {
        figures.extend(inspect(bench, binary)?);
    }
    Ok(figures)
}

/// What the kernel alone needs to place a thousand probes and to take them away.
fn links(bench: &Bench<'_>, target: &Target) -> Result<Vec<Figure>> {
    let case = Case::new(String::new(), GROUPS.len());
    let functions: Vec<&str> = case.functions.iter().map(String::as_str).collect();
    let ours = Ours::attach(&bench.programs, target.pid(), &functions, &[], bench.dir)?;
    let sites = probe_sites(target.program())?;
    ours.finish()?;
    let (mut placed, mut taken) = (Samples::default(), Samples::default());
    for _ in 0..bench.rounds {
        let began = Instant::now();
        let floor = floor(target, &sites)?;
        placed.push(began.elapsed().as_secs_f64());
        let began = Instant::now();
        floor.finish();
        taken.push(began.elapsed().as_secs_f64());
    }
    let name = format!("the kernel alone, {} probes", sites.len());
    Ok(vec![
        Figure::new(format!("{name}: placed"), "s", &placed).at_most(0.25),
        Figure::new(format!("{name}: taken away"), "s", &taken).at_most(0.25),
    ])
}

/// A binary of somebody's own: what inspection takes.
fn inspect(bench: &Bench<'_>, binary: &std::path::Path) -> Result<Vec<Figure>> {
    let mut took = Samples::default();
    for _ in 0..bench.rounds {
        let mut command = std::process::Command::new(&bench.programs.tracer);
        command.arg("inspect").arg(binary).arg("--json");
        let began = Instant::now();
        crate::sh::output(&mut command)?;
        took.push(began.elapsed().max(Duration::from_nanos(1)).as_secs_f64());
    }
    Ok(vec![Figure::new(format!("{}: inspected after", binary.display()), "s", &took)])
}
