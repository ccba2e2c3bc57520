//! Bytes to events, in order, with every loss counted; and recordings of them.

mod argument;
mod decode;
mod loss;
mod record;
mod replay;
mod scrub;

pub use argument::Argument;
pub use decode::{
    Decoder, Event, FnId, KernelId, LeafEnd, LeafLink, LeafStart, Malformed, Payload, ProcessExec,
    SpanEnd, SpanStart, Stamp, TaskAddr, TaskEnd,
};
pub use loss::{Counters, CountersAt};
pub use record::{Ending, Recorder, StopReason};
pub use replay::{Block, Replay, ReplayError};
pub use tracer_ebpf::event::{EndHow, Kind, LeafKind, ParentSource, PayloadKind};
