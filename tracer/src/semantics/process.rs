//! `process`: what a child process says about itself. Keys are those of OpenTelemetry's semantic
//! conventions for processes, 1.40.

use super::captured::Captured;
use super::redact;
use crate::events::LeafKind;
use crate::span::{Span, Value};

/// Adds what was seen of a child process to its span.
pub(super) fn describe(span: &mut Span, captured: &Captured) {
    if captured.leaf != Some(LeafKind::Process) {
        return;
    }
    let mut add = |key: &str, value: Value| span.attributes.push((key.to_owned(), value));
    if let Some(name) = captured.executable.as_deref().filter(|name| !name.is_empty()) {
        add("process.executable.name", redact::lossy(name, true).into_owned().into());
    }
    add("process.pid", i64::try_from(span.address).unwrap_or_default().into());
    if let Some(status) = captured.end.and_then(|end| end.status) {
        match status & 0x7f {
            0 => add("process.exit.code", i64::from(status >> 8 & 0xff).into()),
            signal => add("error.type", signal_name(signal).into()),
        }
    }
}

/// As `signal(7)` calls it.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracer_ebpf::event::{Header, Kind, LeafEnd, LeafStart, ParentSource, ProcessExec, Wire};

    use super::*;
    use crate::assemble::Output;
    use crate::pipeline::{Options, Pipeline};
    use crate::plan::{TargetMeta, TraceMeta};
    use crate::span::{ClockAnchor, Outcome, SpanKind};

    /// The span of a child that ended with `status`.
    fn child(status: i32, executes: bool) -> Span {
        let meta = TraceMeta {
            seed: "5".to_owned(),
            anchor: ClockAnchor { offset_ns: 0 },
            target: TargetMeta { pid: 1, executable: "x".into(), build_id: None },
            functions: Vec::new(),
        };
        let mut pipeline = Pipeline::new(Arc::new(meta), &Options::default());
        let header =
            |kind: Kind, ts| Header { kind: kind as u8, flags: 0, fn_id: 0, tid: 1, ts, id: 9 };
        let mut name = [0; ProcessExec::CAPACITY];
        name[..7].copy_from_slice(b"gr\x1b[mep");
        let start = LeafStart {
            header: header(Kind::LeafStart, 1),
            parent: 0,
            key: 4242,
            leaf: LeafKind::Process as u8,
            source: ParentSource::Root as u8,
            task: [0; 6],
        };
        let exec = ProcessExec { header: header(Kind::ProcessExec, 2), name };
        let end =
            LeafEnd { header: header(Kind::LeafEnd, 30), end: 30, count: LeafEnd::UNKNOWN, status };
        let mut out = Vec::new();
        pipeline.record(start.as_bytes(), &mut out);
        if executes {
            pipeline.record(exec.as_bytes(), &mut out);
        }
        pipeline.record(end.as_bytes(), &mut out);
        let Some(Output::Ended(span)) = out.pop() else { panic!("{out:?}") };
        span
    }

    #[test]
    fn a_child_says_what_it_was_and_how_it_ended() {
        let text = |span: &Span| -> Vec<String> {
            span.attributes.iter().map(|(key, value)| format!("{key}={value:?}")).collect()
        };
        let exited = child(3 << 8, true);
        assert_eq!(
            (&*exited.name, exited.kind, exited.outcome),
            ("process", SpanKind::Internal, Outcome::Returned)
        );
        assert_eq!(exited.duration_ns(), Some(29));
        assert_eq!(
            text(&exited),
            [
                "process.executable.name=Str(\"grep\")",
                "process.pid=Int(4242)",
                "process.exit.code=Int(3)"
            ]
        );
        let killed = child(9, false);
        assert_eq!(killed.outcome, Outcome::Error);
        assert_eq!(text(&killed), ["process.pid=Int(4242)", "error.type=Str(\"SIGKILL\")"]);
        // With a core dump.
        assert_eq!(
            text(&child(0x8b, false)).last().map(String::as_str),
            Some("error.type=Str(\"SIGSEGV\")")
        );
        assert_eq!(child(-1, false).outcome, Outcome::Unknown);
    }
}
