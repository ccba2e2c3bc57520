//! `switches`: what context switches of the target cost while it is traced and no probe is hit.

use anyhow::Result;

use super::Bench;
use super::cost::FUNCTIONS;
use super::stats::{Figure, Samples};
use super::tracers::Ours;

/// Two threads hand a byte to and fro, traced and untraced by turns.
///
/// # Errors
/// Something does not run.
pub fn run(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut target = bench.target()?;
    let (mut without, mut with) = (Samples::default(), Samples::default());
    for _ in 0..bench.rounds {
        // On one CPU: every handing over is a switch between the two threads.
        without.push(target.run("pingpong 1000")?.per_op() / 1000.0);
        let ours = Ours::attach(&bench.programs, target.pid(), &FUNCTIONS, &[], bench.dir)?;
        with.push(target.run("pingpong 1000")?.per_op() / 1000.0);
        ours.finish()?.must_be_whole()?;
    }
    Ok(vec![
        Figure::new("a byte to and fro, untraced", "µs", &without),
        Figure::new("a byte to and fro, traced, no probe hit", "µs", &with),
        Figure::new("traced / untraced", "×", &with.per(&without)).at_most(1.05),
    ])
}
