//! A tree as lines: names and attributes, outcome, duration, and a bar on a common time axis.

use tracer::span::{ClockAnchor, MonoNs, Outcome, Span, Value};

use super::forest::{Block, Row};
use super::style::{Line, Role, Style};
use super::text;

/// Columns of a duration, with its `≥`.
const DURATION: usize = 9;
/// A value's share of a line.
const MAX_VALUE: usize = 48;
/// Labels in output without a width are padded up to here.
const MAX_PAD: usize = 96;

/// How blocks are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Columns; `None`: as long as it takes, for files and pipes.
    pub width: Option<usize>,
    /// Colours.
    pub style: Style,
}

/// What is known about where a block comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Monotonic to wall clock.
    pub anchor: ClockAnchor,
    /// Shown where several processes are traced.
    pub pid: Option<u32>,
}

/// The lines of `block`. `now` is where open spans have got to.
pub fn lines(block: &Block, origin: Origin, now: MonoNs, layout: Layout) -> Vec<String> {
    let axis = Axis::of(block, now);
    let mut out = Vec::with_capacity(block.rows.len() + 2);
    let single = block.rows.len() == 1 && block.left_out == 0;
    if !single || block.continued {
        out.push(header(block, origin, layout));
    }
    let mut labels: Vec<Line> =
        block.rows.iter().map(|row| label(row, single.then_some(origin.pid).flatten())).collect();
    let columns = match layout.width {
        Some(width) => Columns::fitting(width),
        None => {
            let widest = labels.iter().map(Line::width).max().unwrap_or(0);
            Columns { label: widest.min(MAX_PAD), bar: 0 }
        }
    };
    for (row, label) in block.rows.iter().zip(&mut labels) {
        out.push(line(row, label, &axis, now, columns, layout));
    }
    if block.left_out > 0 {
        let more = format!("… {} not shown", text::counted(block.left_out, "more span"));
        out.push(layout.style.paint(Role::Warning, &more));
    }
    out
}

#[derive(Clone, Copy)]
struct Columns {
    label: usize,
    bar: usize,
}

impl Columns {
    fn fitting(width: usize) -> Self {
        let bar = match width {
            0..72 => 0,
            72..100 => 16,
            100..140 => 24,
            _ => 32,
        };
        let right = DURATION + 1 + if bar > 0 { bar + 1 } else { 0 };
        Self { label: width.saturating_sub(right).max(8), bar }
    }
}

/// The time that the bars stand for.
struct Axis {
    start: u64,
    length: u64,
}

impl Axis {
    fn of(block: &Block, now: MonoNs) -> Self {
        let fresh =
            || block.rows.iter().filter(|row| !row.context && !(block.continued && row.open));
        let start = fresh().map(|row| row.span.start.0).min().unwrap_or(0);
        let end = fresh().map(|row| end_of(&row.span, now)).max().unwrap_or(start);
        Self { start, length: end.saturating_sub(start).max(1) }
    }

    /// A span's bar in `cells` cells.
    fn bar(&self, span: &Span, now: MonoNs, cells: usize) -> String {
        let cell = |at: u64| {
            let at = u128::from(at.saturating_sub(self.start).min(self.length));
            let scaled = at * cells as u128 / u128::from(self.length);
            usize::try_from(scaled).unwrap_or(cells).min(cells)
        };
        let from = cell(span.start.0).min(cells - 1);
        let to = cell(end_of(span, now)).max(from);
        let bar = if to > from { "━".repeat(to - from) } else { "╸".to_owned() };
        format!("{}{bar}", " ".repeat(from))
    }
}

fn end_of(span: &Span, now: MonoNs) -> u64 {
    span.end.unwrap_or(now).0.max(span.start.0)
}

fn header(block: &Block, origin: Origin, layout: Layout) -> String {
    let mut line = Line::default();
    let start = block.rows.first().map_or(MonoNs(0), |row| row.span.start);
    line.push(Role::Dim, text::time_of_day(origin.anchor.unix_ns(start)));
    line.push(Role::Dim, format!(" trace {}", block.trace_id));
    if let Some(pid) = origin.pid {
        line.push(Role::Dim, format!(" pid {pid}"));
    }
    if block.continued {
        line.push(Role::Dim, " (continued)");
    }
    if let Some(width) = layout.width {
        line.truncate(width);
    }
    line.paint(layout.style)
}

fn label(row: &Row, pid: Option<u32>) -> Line {
    let mut line = Line::default();
    if let Some((last, above)) = row.more_follow.split_last() {
        let mut prefix: String =
            above.iter().map(|more| if *more { "│   " } else { "    " }).collect();
        prefix.push_str(if *last { "├── " } else { "└── " });
        line.push(Role::Dim, prefix);
    }
    let context = row.context;
    let name = if context { Role::Dim } else { Role::of_span(&row.span.name) };
    line.push(name, text::sanitise(&row.span.name));
    if let Some(details) = details(&row.span) {
        line.push(Role::Dim, format!(" {details}"));
    }
    if let Some(reason) = row.span.orphan {
        line.push(Role::Warning, format!(" [orphan: {}]", reason.as_str()));
    }
    if row.more_follow.is_empty() && row.span.parent_id.is_some() {
        line.push(Role::Dim, " [parent shown above]");
    }
    if let Some(pid) = pid {
        line.push(Role::Dim, format!(" pid {pid}"));
    }
    line
}

/// `(agent_id=7, agent_type=coder)`: a span's own short attributes, or else its function. The
/// standard's dotted ones say the same at greater length.
pub fn details(span: &Span) -> Option<String> {
    let own: Vec<String> = span
        .attributes
        .iter()
        .filter(|(key, _)| !key.contains('.'))
        .map(|(key, value)| {
            let value = match value {
                Value::Bool(b) => b.to_string(),
                Value::Int(n) => n.to_string(),
                Value::Str(s) => text::truncate(&text::sanitise(s), MAX_VALUE).into_owned(),
            };
            format!("{}={value}", text::sanitise(key))
        })
        .collect();
    if !own.is_empty() {
        return Some(format!("({})", own.join(", ")));
    }
    let named_after_it = span.function.is_empty() || span.function == span.name;
    (!named_after_it).then(|| text::sanitise(&span.function).into_owned())
}

/// A mark and a word for outcomes worth a mark.
fn outcome(row: &Row) -> Option<(Role, &'static str, &'static str)> {
    let shown = if row.open { Outcome::Running } else { row.span.outcome };
    let (role, mark) = match shown {
        Outcome::Returned => return None,
        Outcome::Error => (Role::Bad, "✗"),
        Outcome::Panicked => (Role::Bad, "‼"),
        Outcome::Cancelled => (Role::Warning, "⊘"),
        Outcome::Running => (Role::Active, "▸"),
        Outcome::Unknown => (Role::Warning, "?"),
    };
    Some((role, mark, shown.as_str()))
}

fn line(
    row: &Row,
    label: &mut Line,
    axis: &Axis,
    now: MonoNs,
    columns: Columns,
    layout: Layout,
) -> String {
    let outcome = outcome(row).filter(|_| !row.context);
    let late = if row.span.start_is_late { "≥" } else { "" };
    let length = end_of(&row.span, now).saturating_sub(row.span.start.0);
    let duration = format!("{late}{}", text::duration(length));
    let duration =
        format!("{}{duration}", " ".repeat(DURATION.saturating_sub(text::width(&duration))));

    let Some(width) = layout.width else {
        label.pad(columns.label);
        label.push(Role::Plain, format!(" {duration}"));
        if let Some((role, _, word)) = outcome {
            label.push(Role::Plain, "  ");
            label.push(role, word);
        }
        return label.paint(layout.style);
    };
    let mark = outcome.map(|(role, mark, word)| {
        let text = if width >= 60 { format!("{mark} {word}") } else { mark.to_owned() };
        (role, text)
    });
    let taken = mark.as_ref().map_or(0, |(_, text)| text::width(text) + 1);
    label.truncate(columns.label.saturating_sub(taken));
    if let Some((role, text)) = mark {
        label.pad(columns.label - taken + 1);
        label.push(role, text);
    }
    label.pad(columns.label);
    label.push(Role::Plain, format!(" {duration}"));
    if columns.bar > 0 && !row.context {
        let role = if row.open { Role::Active } else { Role::of_span(&row.span.name) };
        label.push(Role::Plain, " ");
        label.push(role, axis.bar(&row.span, now, columns.bar));
    }
    label.truncate(width);
    label.paint(layout.style)
}
