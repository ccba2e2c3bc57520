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
    let widest = block.rows.iter().zip(&labels).map(|(row, label)| {
        let mark = mark(row, layout.width).map_or(0, |(_, mark)| text::width(&mark) + 1);
        label.width() + mark
    });
    let columns = match layout.width {
        Some(width) => {
            let columns = Columns::fitting(width, widest.max().unwrap_or(0));
            // One span alone has no place on a time axis.
            Columns { bar: if single { 0 } else { columns.bar }, ..columns }
        }
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
    /// What is left of durations is for labels first. Labels are given their room in steps, so
    /// that the columns of one block seldom differ from the next one's.
    fn fitting(width: usize, widest: usize) -> Self {
        let room = width.saturating_sub(DURATION + 1).max(8);
        let least_bar = match width {
            0..72 => return Self { label: room, bar: 0 },
            72..100 => 16,
            _ => 24,
        };
        let most = room - least_bar - 1;
        let label = (widest.div_ceil(16) * 16).clamp(48.min(most), most);
        Self { label, bar: (room - label - 1).min(48) }
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
            || block.rows.iter().filter(|row| !(row.context || block.continued && row.open));
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

/// What spans of processes are known by: they have no short attributes.
const OF_PROCESSES: [(&str, &str); 2] =
    [("process.executable.name", "executable"), ("process.exit.code", "exit_code")];

/// `(agent_id=7, agent_type=coder)`: a span's own short attributes, or else its function. The
/// standard's dotted ones say the same at greater length.
pub fn details(span: &Span) -> Option<String> {
    let short = |key: &str| match OF_PROCESSES.iter().find(|(long, _)| *long == key) {
        Some((_, short)) => Some((*short).to_owned()),
        None => (!key.contains('.')).then(|| key.to_owned()),
    };
    let own: Vec<String> = span
        .attributes
        .iter()
        .filter_map(|(key, value)| Some((short(key)?, value)))
        .map(|(key, value)| {
            let value = match value {
                Value::Bool(b) => b.to_string(),
                Value::Int(n) => n.to_string(),
                Value::Str(s) => text::truncate(&text::sanitise(s), MAX_VALUE).into_owned(),
                Value::Texts(all) => {
                    text::truncate(&text::sanitise(&all.join(",")), MAX_VALUE).into_owned()
                }
            };
            format!("{}={value}", text::sanitise(&key))
        })
        .collect();
    if !own.is_empty() {
        return Some(format!("({})", own.join(", ")));
    }
    let named_after_it = span.function.is_empty() || span.function == span.name;
    (!named_after_it).then(|| text::sanitise(short_path(&span.function)).into_owned())
}

/// The last two segments of a path: `a::tools::ToolExecutor::execute` → `ToolExecutor::execute`.
fn short_path(path: &str) -> &str {
    let mut depth = 0;
    let mut starts = vec![0];
    for (at, c) in path.char_indices() {
        match c {
            '<' | '(' | '[' | '{' => depth += 1,
            '>' | ')' | ']' | '}' => depth -= 1,
            ':' if depth == 0 && path[..at].ends_with(':') => starts.push(at + 1),
            _ => {}
        }
    }
    &path[starts[starts.len().saturating_sub(2)]..]
}

/// A mark for outcomes worth one, and the word for it where there is room.
fn mark(row: &Row, width: Option<usize>) -> Option<(Role, String)> {
    let shown = if row.open { Outcome::Running } else { row.span.outcome };
    let (role, mark) = match shown {
        _ if row.context => return None,
        Outcome::Returned => return None,
        Outcome::Error => (Role::Bad, "✗"),
        Outcome::Panicked => (Role::Bad, "!"),
        Outcome::Cancelled => (Role::Warning, "⊘"),
        Outcome::Running => (Role::Active, "▸"),
        Outcome::Unknown => (Role::Warning, "?"),
    };
    let text = match width {
        None => shown.as_str().to_owned(),
        Some(0..60) => mark.to_owned(),
        Some(_) => format!("{mark} {}", shown.as_str()),
    };
    Some((role, text))
}

fn line(
    row: &Row,
    label: &mut Line,
    axis: &Axis,
    now: MonoNs,
    columns: Columns,
    layout: Layout,
) -> String {
    let mark = mark(row, layout.width);
    let late = if row.span.start_is_late { "≥" } else { "" };
    let length = end_of(&row.span, now).saturating_sub(row.span.start.0);
    let duration = format!("{late}{}", text::duration(length));
    let duration =
        format!("{}{duration}", " ".repeat(DURATION.saturating_sub(text::width(&duration))));

    let Some(width) = layout.width else {
        label.pad(columns.label);
        label.push(Role::Plain, format!(" {duration}"));
        if let Some((role, word)) = mark {
            label.push(Role::Plain, "  ");
            label.push(role, word);
        }
        return label.paint(layout.style);
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixture;
    use crate::render::forest::{Bounds, Forest};
    use tracer::span::OrphanReason;

    const NOW: MonoNs = MonoNs(10_000_000_000);
    const ORIGIN: Origin =
        Origin { anchor: ClockAnchor { offset_ns: 43_384_123_000_000 }, pid: None };

    fn rendered(spans: Vec<Span>, width: Option<usize>) -> String {
        let mut forest = Forest::new(Bounds::default());
        for span in spans {
            forest.ended(0, span);
        }
        let layout = Layout { width, style: Style::PLAIN };
        let blocks = forest.drain(NOW);
        blocks
            .iter()
            .flat_map(|block| lines(block, ORIGIN, NOW, layout))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_tree_on_a_terminal() {
        let expected = "\
12:03:05.123Z trace 0000000000000007000000000000feed
agent_execution (agent_id=7, agent_type=coder)           1.24 s ━━━━━━━━━━━━━━━━
├── tool_call (tool_name=Bash)                           310 ms ━━━━
│   └── database_query (query_type=SELECT)              2.00 ms ╸
├── tool_call (tool_name=读取文件)         ! panicked   81.0 ms     ━
│   └── http_request (method=POST, path=/v1/files/a-…   60.0 ms     ━
└── api_call (model=claude)               ⊘ cancelled    780 ms      ━━━━━━━━━━";
        assert_eq!(rendered(fixture::agent(7, 1_000), Some(80)), expected);
    }

    #[test]
    fn a_tree_on_a_narrow_terminal() {
        let expected = "\
12:03:05.123Z trace 0000000000000007000…
agent_execution (agent_id=7, …    1.24 s
├── tool_call (tool_name=Bash)    310 ms
│   └── database_query (query…   2.00 ms
├── tool_call (tool_name=读… !   81.0 ms
│   └── http_request (method=…   60.0 ms
└── api_call (model=claude)  ⊘    780 ms";
        assert_eq!(rendered(fixture::agent(7, 1_000), Some(40)), expected);
    }

    #[test]
    fn a_tree_in_a_file() {
        let expected = "\
12:03:05.123Z trace 0000000000000007000000000000feed
agent_execution (agent_id=7, agent_type=coder)                                               1.24 s
├── tool_call (tool_name=Bash)                                                               310 ms
│   └── database_query (query_type=SELECT)                                                  2.00 ms
├── tool_call (tool_name=读取文件)                                                          81.0 ms  panicked
│   └── http_request (method=POST, path=/v1/files/a-rather-long-path/that/goes/on/and/on)   60.0 ms
└── api_call (model=claude)                                                                  780 ms  cancelled";
        assert_eq!(rendered(fixture::agent(7, 1_000), None), expected);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut spans = fixture::agent(7, 1_000);
        // A chain of thirty more, deep enough for every width.
        for id in 10..40 {
            let parent = if id == 10 { 6 } else { id - 1 };
            spans.push(fixture::span(7, id, Some(parent), "日本語の名前", 1_500, 9));
        }
        for width in [1, 10, 20, 39, 40, 59, 60, 71, 72, 80, 99, 100, 139, 140, 200, 500] {
            for line in rendered(spans.clone(), Some(width)).lines() {
                assert!(text::width(line) <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn a_single_span_is_one_line() {
        let mut span = fixture::span(7, 1, None, "database_query", 1_000, 2);
        span.orphan = Some(OrphanReason::Unlinked);
        span.start_is_late = true;
        let expected = "database_query orchestrate::database_query [orphan: unlinked]  ≥2.00 ms";
        assert_eq!(rendered(vec![span.clone()], None), expected);
        let open = fixture::ending(span, Outcome::Running);
        let expected =
            "database_query orchestrate::database_query [orphan: unlinked]   ≥9.00 s  running";
        assert_eq!(rendered(vec![open], None), expected);
    }

    #[test]
    fn paths_are_short() {
        for (path, short) in [
            ("main", "main"),
            ("a::main", "a::main"),
            ("a::tools::ToolExecutor::execute", "ToolExecutor::execute"),
            ("<a::B as c::D<e::F>>::poll", "<a::B as c::D<e::F>>::poll"),
            ("x::<impl a::B>::f::{{closure}}", "f::{{closure}}"),
            ("", ""),
        ] {
            assert_eq!(short_path(path), short);
        }
    }

    #[test]
    fn a_process_is_known_by_its_program() {
        let attributes =
            [("process.executable.name", "bash"), ("process.pid", "7"), ("process.exit.code", "1")];
        let span = fixture::with(fixture::span(7, 1, None, "process", 1_000, 2), &attributes);
        assert_eq!(details(&span).as_deref(), Some("(executable=bash, exit_code=1)"));
    }

    #[test]
    fn text_of_the_target_is_harmless() {
        let span = fixture::with(
            fixture::span(7, 1, None, "tool\x1b]0;x\x07call", 1_000, 2),
            &[("tool_name", "a\nb\u{202e}c"), ("k\x1b[2J", "v")],
        );
        let line = rendered(vec![span], Some(100));
        assert!(!line.chars().any(|c| c != '\n' && text::is_unsafe(c)), "{line:?}");
        assert_eq!(line.lines().count(), 1);
    }
}
