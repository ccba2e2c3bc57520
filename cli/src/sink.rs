//! Where a trace is shown: as JSON lines, as trees in a file or a pipe, or live on a terminal.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};

use clap::ColorChoice;
use tracer::span::{ClockAnchor, MonoNs, Span};

use crate::args::ViewArgs;
use crate::exit::CliError;
use crate::render::block::{self, Layout, Origin};
use crate::render::forest::{Block, Bounds, Forest};
use crate::render::json::{self, Event};
use crate::render::live::{self, Screen, Totals};
use crate::render::style::{Role, Style};
use crate::render::summary::{self, Account};

/// Which process something comes from.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its place among the processes traced.
    pub index: usize,
    /// Its id.
    pub pid: u32,
    /// Monotonic to wall clock.
    pub anchor: ClockAnchor,
}

/// Takes everything that a command has to tell. An error of kind `BrokenPipe` means that nobody
/// reads any more.
pub trait Sink {
    /// Announces a source; indices begin at 0.
    fn source(&mut self, source: Source);
    /// A span began.
    fn started(&mut self, source: Source, span: Span) -> io::Result<()>;
    /// A span ended, or tracing did.
    fn ended(&mut self, source: Source, span: Span) -> io::Result<()>;
    /// Something about the tracing itself; `message` is for people.
    fn event(&mut self, event: Event, role: Role, message: &str) -> io::Result<()>;
    /// Time has passed.
    fn tick(&mut self, now: MonoNs) -> io::Result<()>;
    /// Nothing more will come but the account.
    fn end(&mut self, now: MonoNs) -> io::Result<()>;
    /// The account at the end.
    fn account(&mut self, account: &Account) -> io::Result<()>;
    /// Whether it writes to standard output: then a reader that goes away ends tracing.
    fn is_stdout(&self) -> bool;
}

/// The sink that the command line asks for. `shared_terminal`: somebody else writes to it too.
pub fn sink(
    view: &ViewArgs,
    color: ColorChoice,
    shared_terminal: bool,
) -> Result<Box<dyn Sink>, CliError> {
    let sink = loud(view, color, shared_terminal || view.quiet)?;
    Ok(if view.quiet { Box::new(Quiet(sink)) } else { sink })
}

fn loud(
    view: &ViewArgs,
    color: ColorChoice,
    shared_terminal: bool,
) -> Result<Box<dyn Sink>, CliError> {
    let messages = Messages { style: Style::for_stderr(color) };
    let min_ns =
        view.min_duration.map_or(0, |min| u64::try_from(min.as_nanos()).unwrap_or(u64::MAX));
    let (out, stdout): (Box<dyn Write>, bool) = match &view.output {
        None => (Box::new(BufWriter::new(io::stdout())), true),
        Some(path) => {
            let file = File::create(path)
                .map_err(|error| CliError::failed(format_args!("{}: {error}", path.display())))?;
            (Box::new(BufWriter::new(file)), false)
        }
    };
    if view.json {
        return Ok(Box::new(JsonSink { out, stdout, messages, min_ns }));
    }
    let terminal = stdout && io::stdout().is_terminal();
    let style = if stdout { Style::for_stdout(color) } else { Style::PLAIN };
    Ok(Box::new(TreeSink {
        screen: Screen::new(out),
        forest: Forest::new(Bounds::default()),
        sources: vec![],
        style,
        terminal,
        live: terminal && !shared_terminal && std::env::var_os("TERM").is_none_or(|t| t != "dumb"),
        stdout,
        messages,
        min_ns,
        began: None,
        spans: 0,
        traces: 0,
    }))
}

/// Everything but spans.
struct Quiet(Box<dyn Sink>);

impl Sink for Quiet {
    fn source(&mut self, source: Source) {
        self.0.source(source);
    }

    fn started(&mut self, _: Source, _: Span) -> io::Result<()> {
        Ok(())
    }

    fn ended(&mut self, _: Source, _: Span) -> io::Result<()> {
        Ok(())
    }

    fn event(&mut self, event: Event, role: Role, message: &str) -> io::Result<()> {
        self.0.event(event, role, message)
    }

    fn tick(&mut self, now: MonoNs) -> io::Result<()> {
        self.0.tick(now)
    }

    fn end(&mut self, now: MonoNs) -> io::Result<()> {
        self.0.end(now)
    }

    fn account(&mut self, account: &Account) -> io::Result<()> {
        self.0.account(account)
    }

    fn is_stdout(&self) -> bool {
        self.0.is_stdout()
    }
}

/// Messages for people, on standard error.
struct Messages {
    style: Style,
}

impl Messages {
    fn print(&self, role: Role, message: &str) {
        // Nobody is there to be told that standard error is closed.
        let _ = writeln!(io::stderr(), "{}", self.style.paint(role, message));
    }

    fn account(&self, account: &Account) {
        let lines = summary::lines(account, self.style).join("\n");
        let _ = writeln!(io::stderr(), "{lines}");
    }
}

struct JsonSink {
    out: Box<dyn Write>,
    stdout: bool,
    messages: Messages,
    min_ns: u64,
}

impl Sink for JsonSink {
    fn source(&mut self, _: Source) {}

    fn started(&mut self, _: Source, _: Span) -> io::Result<()> {
        Ok(())
    }

    fn ended(&mut self, source: Source, span: Span) -> io::Result<()> {
        if span.duration_ns().is_some_and(|ns| ns < self.min_ns) {
            return Ok(());
        }
        json::span(&mut self.out, &span, source.anchor, source.pid)
    }

    fn event(&mut self, event: Event, role: Role, message: &str) -> io::Result<()> {
        if matches!(role, Role::Warning | Role::Bad) {
            self.messages.print(role, message);
        }
        json::line(&mut self.out, &event)?;
        self.out.flush()
    }

    fn tick(&mut self, _: MonoNs) -> io::Result<()> {
        self.out.flush()
    }

    fn end(&mut self, _: MonoNs) -> io::Result<()> {
        self.out.flush()
    }

    fn account(&mut self, account: &Account) -> io::Result<()> {
        json::line(&mut self.out, &summary::json(account))?;
        self.out.flush()
    }

    fn is_stdout(&self) -> bool {
        self.stdout
    }
}

struct TreeSink {
    screen: Screen<Box<dyn Write>>,
    forest: Forest,
    sources: Vec<Source>,
    style: Style,
    terminal: bool,
    live: bool,
    stdout: bool,
    messages: Messages,
    min_ns: u64,
    began: Option<MonoNs>,
    spans: u64,
    traces: u64,
}

impl TreeSink {
    fn lines(&mut self, blocks: &[Block], now: MonoNs, columns: usize) -> Vec<String> {
        let layout = Layout { width: self.terminal.then_some(columns), style: self.style };
        let mut out = vec![];
        for block in blocks {
            let span = |row: &crate::render::forest::Row| {
                row.span.end.unwrap_or(now).0.saturating_sub(row.span.start.0)
            };
            if block.rows.iter().map(span).max().unwrap_or(0) < self.min_ns {
                continue;
            }
            self.traces += u64::from(!block.continued);
            let Some(source) = self.sources.get(block.source) else { continue };
            let pid = (self.sources.len() > 1).then_some(source.pid);
            out.extend(block::lines(block, Origin { anchor: source.anchor, pid }, now, layout));
        }
        out
    }

    fn show(&mut self, blocks: &[Block], now: MonoNs, last: bool) -> io::Result<()> {
        let size = live::terminal_size().unwrap_or((100, 24));
        let lines = self.lines(blocks, now, size.0);
        let area = if self.live && !last {
            let elapsed = self.began.map_or(0, |began| now.0.saturating_sub(began.0));
            let totals = Totals { spans: self.spans, traces: self.traces, elapsed };
            live::area(&self.forest, totals, now, size, self.style)
        } else {
            vec![]
        };
        if lines.is_empty() && area.is_empty() && !self.live {
            return Ok(());
        }
        self.screen.draw(&lines, &area, size.0)
    }
}

impl Sink for TreeSink {
    fn source(&mut self, source: Source) {
        self.sources.push(source);
    }

    fn started(&mut self, source: Source, span: Span) -> io::Result<()> {
        self.forest.started(source.index, span);
        Ok(())
    }

    fn ended(&mut self, source: Source, span: Span) -> io::Result<()> {
        self.spans += 1;
        self.forest.ended(source.index, span);
        Ok(())
    }

    fn event(&mut self, _: Event, role: Role, message: &str) -> io::Result<()> {
        self.screen.erase()?;
        self.messages.print(role, message);
        Ok(())
    }

    fn tick(&mut self, now: MonoNs) -> io::Result<()> {
        self.began.get_or_insert(now);
        if !self.screen.is_due() {
            return Ok(());
        }
        let blocks = self.forest.ready(now);
        if blocks.is_empty() && !self.live {
            return Ok(());
        }
        self.show(&blocks, now, false)
    }

    fn end(&mut self, now: MonoNs) -> io::Result<()> {
        let blocks = self.forest.drain(now);
        self.show(&blocks, now, true)?;
        if self.forest.left_out() > 0 {
            let more = crate::render::text::counted(self.forest.left_out(), "more span");
            let more = format!("… {more} not shown: too many traces were under way at once");
            self.screen.draw(&[self.style.paint(Role::Warning, &more)], &[], usize::MAX)?;
        }
        Ok(())
    }

    fn account(&mut self, account: &Account) -> io::Result<()> {
        self.messages.account(account);
        Ok(())
    }

    fn is_stdout(&self) -> bool {
        self.stdout
    }
}
