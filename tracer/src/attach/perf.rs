//! The fallback below kernel 6.6: one perf event per probe, on all processes of the file, with
//! the process filter in the program. Never scoped to the PID: that would make every context
//! switch of the target pay for every probe.

use std::num::NonZeroUsize;

use aya::Ebpf;
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};

use super::error::AttachError;
use super::object::PROGRAM;
use crate::plan::ProbePlan;

/// The links; each closes its perf event when dropped.
#[derive(Debug)]
pub(super) struct PerfEvents {
    links: Vec<UProbeLink>,
}

/// Closing a perf event waits for an RCU grace period. They pass in parallel, so many threads
/// close more of them in one.
const CLOSERS: usize = 64;

impl PerfEvents {
    pub(super) fn attach(ebpf: &mut Ebpf, plan: &ProbePlan) -> Result<Self, AttachError> {
        let program: &mut UProbe = ebpf
            .program_mut(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or(AttachError::Missing { kind: "program", name: PROGRAM })?;
        program.load().map_err(|source| AttachError::Program { source: Box::new(source) })?;
        let mut links = Vec::with_capacity(plan.probes.len());
        for probe in &plan.probes {
            let path = &plan.modules[probe.module].path;
            let failed = |source| AttachError::PerfEvent {
                path: path.clone(),
                offset: probe.offset,
                source: Box::new(source),
            };
            let point = UProbeAttachPoint {
                location: UProbeAttachLocation::AbsoluteOffset(probe.offset),
                cookie: Some(probe.cookie.with_hook(probe.hook).0),
            };
            let id = program.attach(point, path, UProbeScope::AllProcesses).map_err(failed)?;
            links.push(program.take_link(id).map_err(failed)?);
        }
        Ok(Self { links })
    }

    pub(super) fn links(&self) -> usize {
        self.links.len()
    }
}

impl Drop for PerfEvents {
    fn drop(&mut self) {
        let links = std::mem::take(&mut self.links);
        let share = links.len().div_ceil(CLOSERS).max(1);
        debug_assert!(NonZeroUsize::new(share).is_some());
        let mut links = links.into_iter();
        std::thread::scope(|scope| {
            loop {
                let some: Vec<UProbeLink> = links.by_ref().take(share).collect();
                if some.is_empty() {
                    break;
                }
                scope.spawn(move || drop(some));
            }
        });
    }
}
