//! The last lines of the terminal: what runs right now, redrawn in place.

use std::io::{self, Write};
use std::time::Instant;

use tracer::span::MonoNs;

use super::block;
use super::forest::{Current, Forest};
use super::style::{Line, Role, Style};
use super::text;

/// Columns and rows of the terminal on standard output.
pub fn terminal_size() -> Option<(usize, usize)> {
    let (columns, rows) = terminal_size::terminal_size_of(io::stdout())?;
    Some((usize::from(columns.0), usize::from(rows.0)))
}

/// What the live area says beside the spans.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Spans so far.
    pub spans: u64,
    /// Traces shown so far.
    pub traces: u64,
    /// Nanoseconds since tracing began.
    pub elapsed: u64,
}

/// The lines of the live area.
pub fn area(
    forest: &Forest,
    totals: Totals,
    now: MonoNs,
    (columns, rows): (usize, usize),
    style: Style,
) -> Vec<String> {
    let limit = (rows / 3).clamp(1, 8);
    let (spans, traces, current) = forest.current(limit);
    // A full line makes some terminals begin another.
    let columns = columns.saturating_sub(1);
    let mut out = Vec::with_capacity(limit + 2);
    let mut status = Line::default();
    status.push(Role::Active, if spans > 0 { "▸ " } else { "· " });
    status.push(Role::Strong, format!("{} running", text::count(spans as u64)));
    let rest = [
        text::counted(totals.traces, "trace"),
        text::counted(totals.spans, "span"),
        text::duration(totals.elapsed / 1_000_000_000 * 1_000_000_000),
        "Ctrl-C detaches".to_owned(),
    ];
    status.push(Role::Dim, format!(" · {}", rest.join(" · ")));
    out.push(status);
    for trace in &current {
        out.push(running(trace, now));
    }
    if traces > current.len() {
        let mut more = Line::default();
        more.push(
            Role::Dim,
            format!("  … and {} more", text::count((traces - current.len()) as u64)),
        );
        out.push(more);
    }
    out.into_iter()
        .map(|mut line| {
            line.truncate(columns);
            line.paint(style)
        })
        .collect()
}

fn running(trace: &Current<'_>, now: MonoNs) -> Line {
    let mut line = Line::default();
    let mut span = |before: &str, span: &tracer::span::Span| {
        line.push(Role::Dim, before);
        line.push(Role::of_span(&span.name), text::sanitise(&span.name));
        if let Some(details) = block::details(span) {
            line.push(Role::Dim, format!(" {}", text::truncate(&details, 40)));
        }
        let late = if span.start_is_late { "≥" } else { "" };
        let elapsed = text::duration(now.0.saturating_sub(span.start.0));
        line.push(Role::Plain, format!(" {late}{elapsed}"));
    };
    span("  ", trace.oldest);
    if let Some(newest) = trace.newest {
        span(" › ", newest);
    }
    if trace.open > 2 {
        line.push(Role::Dim, format!(" (+{})", trace.open - 2));
    }
    line
}

/// Writes to a terminal: lines that stay, and below them the area that is redrawn.
pub struct Screen<W: Write> {
    out: W,
    /// Widths of the lines of the area as drawn: after a resize they may take more rows.
    drawn: Vec<usize>,
    redrawn: Option<Instant>,
}

impl<W: Write> Screen<W> {
    /// At most ten times a second.
    const PERIOD: std::time::Duration = std::time::Duration::from_millis(100);

    /// Nothing is drawn yet.
    pub fn new(out: W) -> Self {
        Self { out, drawn: vec![], redrawn: None }
    }

    /// Whether it is time to redraw the area.
    pub fn is_due(&self) -> bool {
        self.redrawn.is_none_or(|at| at.elapsed() >= Self::PERIOD)
    }

    /// Erases the area, so that something else may be written.
    pub fn erase(&mut self) -> io::Result<()> {
        let erasure = self.erasure(terminal_size().map_or(usize::MAX, |(columns, _)| columns));
        self.out.write_all(erasure.as_bytes())?;
        self.out.flush()
    }

    fn erasure(&mut self, columns: usize) -> String {
        let rows: usize =
            self.drawn.drain(..).map(|width| width.div_ceil(columns.max(1)).max(1)).sum();
        match rows {
            0 => String::new(),
            // The cursor is at the end of the last line, without a newline.
            1 => "\r\x1b[J".to_owned(),
            _ => format!("\r\x1b[{}A\x1b[J", rows - 1),
        }
    }

    /// Writes lines that stay, and the area anew below them; in one go, so that nothing flickers.
    pub fn draw(&mut self, lines: &[String], area: &[String], columns: usize) -> io::Result<()> {
        let mut frame = self.erasure(columns);
        for line in lines {
            frame.push_str(line);
            frame.push('\n');
        }
        frame.push_str(&area.join("\n"));
        self.drawn = area.iter().map(|line| visible_width(line)).collect();
        self.redrawn = Some(Instant::now());
        self.out.write_all(frame.as_bytes())?;
        self.out.flush()
    }
}

/// Columns of a painted line: its colours take none.
fn visible_width(line: &str) -> usize {
    let mut visible = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('\x1b') {
        visible.push_str(&rest[..at]);
        rest = rest[at..].split_once('m').map_or("", |(_, after)| after);
    }
    visible.push_str(rest);
    text::width(&visible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_erased_by_rows() {
        let mut screen = Screen::new(Vec::new());
        screen.draw(&["stays".to_owned()], &["a".to_owned(), "b".repeat(30)], 80).unwrap();
        assert_eq!(screen.out, format!("stays\na\n{}", "b".repeat(30)).as_bytes());
        screen.out.clear();
        // The terminal has become narrow: the second line now takes three rows.
        screen.draw(&[], &["c".to_owned()], 10).unwrap();
        assert_eq!(screen.out, b"\r\x1b[3A\x1b[Jc");
        screen.out.clear();
        screen.erase().unwrap();
        assert_eq!(screen.out, b"\r\x1b[J");
        screen.out.clear();
        screen.erase().unwrap();
        assert_eq!(screen.out, b"");
    }

    #[test]
    fn colours_take_no_columns() {
        assert_eq!(visible_width("\x1b[1;31mab\x1b[0m日"), 4);
    }
}
