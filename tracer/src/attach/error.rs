//! What can go wrong between a plan and live probes.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why probes could not be placed.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The kernel refuses eBPF to this user.
    #[error(
        "the kernel refuses to load eBPF programs ({source}); run as root or with CAP_BPF and \
         CAP_PERFMON, and see `orchestrate-trace doctor`"
    )]
    NotPermitted {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The object could not be parsed or its maps could not be made.
    #[error("the eBPF object could not be loaded: {0}")]
    Load(#[from] aya::EbpfError),
    /// The object could not be parsed.
    #[error("the eBPF object is malformed: {0}")]
    Object(#[from] aya_obj::ParseError),
    /// Its type information could not be adapted to this kernel.
    #[error("the eBPF object's type information cannot be used: {0}")]
    Types(#[from] aya_obj::btf::BtfError),
    /// The object's references could not be resolved.
    #[error("the eBPF object could not be linked: {0}")]
    Link(#[from] aya_obj::relocation::EbpfRelocationError),
    /// A map could not be used.
    #[error("the eBPF map {map}: {source}")]
    Map {
        /// Which.
        map: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// The object and this program do not belong together.
    #[error("the eBPF object has no {kind} `{name}`: it was built from other sources")]
    Missing {
        /// "map" or "program".
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The verifier refused a program.
    #[error("the kernel refused the eBPF program: {source}\n{log}")]
    Rejected {
        /// The kernel's answer.
        source: io::Error,
        /// The end of the verifier's log.
        log: String,
    },
    /// The same, told by the library that makes the fallback's links.
    #[error("the kernel refused the eBPF program: {source}")]
    Program {
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A link could not be made.
    #[error("{}: the kernel refused {count} probes: {source}", path.display())]
    Refused {
        /// The file to be probed.
        path: PathBuf,
        /// How many.
        count: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The fallback could not place a probe.
    #[error("{}: no probe at offset {offset:#x}: {source}", path.display())]
    PerfEvent {
        /// The file to be probed.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// The file changed between inspection and attaching.
    #[error(
        "{}: the code at offset {offset:#x} is not what was inspected; the file was overwritten \
         in place, so no probe is placed",
        path.display()
    )]
    CodeChanged {
        /// The file to be probed.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// The file to be probed could not be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The switch asks for what this kernel does not have.
    #[error("this kernel has no usable uprobe_multi link ({source}); use --mechanism perf-event")]
    NoUprobeMulti {
        /// The kernel's answer.
        source: io::Error,
    },
}
