//! With sessions that do what a script says.

use std::rc::Rc;
use std::thread;

use clap::ColorChoice;
use tracer::span::{ClockAnchor, Outcome, Span};

use super::*;
use crate::args::ViewArgs;
use crate::fake::{self, Step};
use crate::render::fixture;
use crate::sink;

fn spans(trace: u128) -> Vec<Output> {
    fixture::agent(trace, 0).into_iter().map(Output::Ended).collect()
}

fn traced(
    sessions: Vec<Box<dyn Session>>,
    json: bool,
    clock: Clock,
    duration: Option<Duration>,
) -> (Exit, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let view =
        ViewArgs { json, output: Some(file.path().to_owned()), min_duration: None, quiet: false };
    let mut sink = sink::sink(&view, ColorChoice::Never, false).unwrap();
    let destinations = Destinations::default();
    let settings = Run { sink: &mut *sink, destinations: &destinations, duration, clock };
    let exit = run(sessions, settings, &mut Alone).unwrap();
    (exit, std::fs::read_to_string(file.path()).unwrap())
}

#[test]
fn a_recording_becomes_trees() {
    let finished = Rc::default();
    let steps =
        vec![(spans(1), Ok(PollStatus::Running)), (spans(2), Ok(PollStatus::EndOfRecording))];
    let (exit, text) =
        traced(vec![fake::session(1, steps, &finished)], false, Clock::Recorded, None);
    assert_eq!(exit, Exit::Ok);
    assert_eq!(text.matches(" trace ").count(), 2, "{text}");
    assert_eq!(text.matches("└── api_call (model=claude)").count(), 2, "{text}");
    assert!(!text.contains('\x1b'));
    assert_eq!(*finished.borrow(), [1]);
}

#[test]
fn targets_end_one_by_one() {
    let finished = Rc::default();
    let one = fake::session(1, vec![(spans(1), Ok(PollStatus::TargetExited))], &finished);
    let late = (vec![], Ok(PollStatus::Running));
    let two = fake::session(2, vec![late, (spans(2), Ok(PollStatus::TargetExec))], &finished);
    let (exit, text) = traced(vec![one, two], true, Clock::Live, None);
    assert_eq!(exit, Exit::Ok);
    assert_eq!(*finished.borrow(), [1, 2]);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    assert!(lines.iter().all(|line| line["v"] == 1));
    assert_eq!(of("span").len(), 12);
    let events: Vec<_> =
        of("event").iter().map(|e| (e["name"].clone(), e["pid"].clone())).collect();
    assert_eq!(events, [("target_exited".into(), 1.into()), ("target_exec".into(), 2.into())]);
    assert_eq!(of("summary").len(), 2);
}

#[test]
fn a_failing_session_is_detached_and_said() {
    let finished = Rc::default();
    let steps = vec![(spans(1), Err("the ring buffer is gone"))];
    let (exit, text) = traced(vec![fake::session(7, steps, &finished)], true, Clock::Live, None);
    assert_eq!(exit, Exit::Failed);
    assert_eq!(*finished.borrow(), [7]);
    assert!(text.contains("the ring buffer is gone"));
    assert_eq!(text.matches("\"type\":\"span\"").count(), 6);
}

#[test]
fn the_time_ends_it_and_what_is_open_is_shown() {
    let finished = Rc::default();
    let open: Span = fixture::ending(fixture::agent(3, 0).remove(0), Outcome::Running);
    let mut scripted = fake::session(
        9,
        vec![(vec![Output::Started(open.clone())], Ok(PollStatus::Running))],
        &finished,
    );
    scripted.left = vec![Output::Ended(open)];
    let time = Some(Duration::from_millis(60));
    let (exit, text) = traced(vec![scripted], false, Clock::Live, time);
    assert_eq!(exit, Exit::Ok);
    assert_eq!(*finished.borrow(), [9]);
    assert!(text.contains("agent_execution") && text.contains("running"), "{text}");
}

struct NobodyReads;

impl Sink for NobodyReads {
    fn source(&mut self, _: Source) {}
    fn started(&mut self, _: Source, _: Span) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn ended(&mut self, _: Source, _: Span) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn event(&mut self, _: Event, _: Role, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn tick(&mut self, _: MonoNs) -> io::Result<()> {
        Ok(())
    }
    fn end(&mut self, _: MonoNs) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn account(&mut self, _: &Account) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn is_stdout(&self) -> bool {
        false
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_cleanly() {
    let finished = Rc::default();
    let session: Step = (spans(1), Ok(PollStatus::Running));
    let sessions: Vec<Box<dyn Session>> = vec![fake::session(5, vec![session], &finished)];
    let destinations = Destinations::default();
    let settings = Run {
        sink: &mut NobodyReads,
        destinations: &destinations,
        duration: None,
        clock: Clock::Live,
    };
    assert_eq!(run(sessions, settings, &mut Alone).unwrap(), Exit::Ok);
    assert_eq!(*finished.borrow(), [5]);
}

/// Not a test: what the live view looks like. Run it on a terminal with
/// `cargo test -p orchestrate-trace live_view -- --ignored --nocapture`.
#[test]
#[ignore = "for people's eyes"]
fn live_view() {
    let now = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        u64::try_from(now.tv_sec * 1_000 + now.tv_nsec / 1_000_000).unwrap()
    };
    let mut sink = sink::sink(&ViewArgs::default(), ColorChoice::Auto, false).unwrap();
    let source = Source { index: 0, pid: 4242, anchor: ClockAnchor::now() };
    sink.source(source);
    let begin = now();
    let mut todo: Vec<(u64, Output)> = (0..6)
        .flat_map(|i| fixture::agent(i + 1, begin + u64::try_from(i).unwrap() * 700))
        .flat_map(|span| {
            let open = fixture::ending(span.clone(), Outcome::Running);
            let (from, to) = (span.start.0 / 1_000_000, span.end.unwrap().0 / 1_000_000);
            [(from, Output::Started(open)), (to, Output::Ended(span))]
        })
        .collect();
    todo.sort_by_key(|(at, _)| *at);
    for (at, output) in todo {
        while now() < at {
            sink.tick(MonoNs(now() * 1_000_000)).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        match output {
            Output::Started(span) => sink.started(source, span).unwrap(),
            Output::Ended(span) => sink.ended(source, span).unwrap(),
        }
    }
    sink.event(Event::new("x", None), Role::Warning, "warning: something for people").unwrap();
    sink.end(MonoNs(now() * 1_000_000)).unwrap();
}
