//! `memory`: resident and in eBPF maps, idle and at work.

use anyhow::Result;

use super::Bench;
use super::cost::FUNCTIONS;
use super::procfs::Look;
use super::stats::{Figure, Samples};
use super::tracers::Ours;

const MIB: f64 = (1 << 20) as f64;

/// Measures.
///
/// # Errors
/// Something does not run.
pub fn run(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut idle = [Samples::default(), Samples::default(), Samples::default()];
    let mut busy = idle.clone();
    for _ in 0..bench.rounds {
        let mut target = bench.target()?;
        let ours = Ours::attach(&bench.programs, target.pid(), &FUNCTIONS, &[], bench.dir)?;
        let push = |to: &mut [Samples; 3]| {
            let look = Look::at(ours.pid())?;
            for (samples, bytes) in to.iter_mut().zip([look.rss, look.maps, look.rss + look.maps]) {
                samples.push(bytes as f64 / MIB);
            }
            anyhow::Ok(())
        };
        target.run("pingpong 300")?;
        push(&mut idle)?;
        target.run("rate once 10000 3")?;
        push(&mut busy)?;
        ours.finish()?.must_be_whole()?;
    }
    let mut figures = vec![];
    for (when, samples, most) in [("idle", idle, 40.0), ("at 10,000 spans/s", busy, 64.0)] {
        let [rss, maps, both] = &samples;
        figures.push(Figure::new(format!("{when}: resident"), "MiB", rss));
        figures.push(Figure::new(format!("{when}: eBPF maps"), "MiB", maps));
        figures.push(Figure::new(format!("{when}: in all"), "MiB", both).at_most(most));
    }
    Ok(figures)
}
