//! Colours, and when to use them.

use std::fmt::Write as _;
use std::io::IsTerminal;

use clap::ColorChoice;

use super::text;

/// What a piece of text is; how it looks is decided here alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing special.
    Plain,
    /// Beside the point.
    Dim,
    /// A heading, a total.
    Strong,
    /// Something good.
    Good,
    /// Something to look at.
    Warning,
    /// Something bad.
    Bad,
    /// Something going on.
    Active,
    /// A span of `agent_execution`.
    Agent,
    /// A span of `tool_call`.
    Tool,
    /// A span of `database_query`.
    Database,
    /// A span of `http_request`.
    Http,
    /// A span of `api_call`.
    Api,
}

impl Role {
    /// The role of spans of this name.
    pub fn of_span(name: &str) -> Self {
        match name {
            "agent_execution" => Self::Agent,
            "tool_call" | "process" => Self::Tool,
            "database_query" => Self::Database,
            "http_request" => Self::Http,
            "api_call" => Self::Api,
            _ => Self::Strong,
        }
    }

    const fn sgr(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Dim => "2",
            Self::Strong => "1",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "1;31",
            Self::Active => "36",
            Self::Agent => "1;35",
            Self::Tool => "1;33",
            Self::Database => "36",
            Self::Http => "34",
            Self::Api => "32",
        }
    }
}

/// Paints text, or leaves it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// Without colours.
    pub const PLAIN: Self = Self { colours: false };
    /// With colours, whatever the output is.
    #[cfg(test)]
    pub const COLOURED: Self = Self { colours: true };

    /// For standard output.
    pub fn for_stdout(choice: ColorChoice) -> Self {
        Self::choose(choice, std::io::stdout().is_terminal(), |name| std::env::var(name).ok())
    }

    /// For standard error.
    pub fn for_stderr(choice: ColorChoice) -> Self {
        Self::choose(choice, std::io::stderr().is_terminal(), |name| std::env::var(name).ok())
    }

    /// `--color`, then `NO_COLOR` (<https://no-color.org>), then `CLICOLOR_FORCE`, then whether
    /// it is a terminal that can.
    fn choose(choice: ColorChoice, terminal: bool, env: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| env(name).filter(|value| !value.is_empty());
        let colours = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if set("NO_COLOR").is_some() => false,
            ColorChoice::Auto if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            ColorChoice::Auto => {
                terminal
                    && set("TERM").is_none_or(|term| term != "dumb")
                    && set("CLICOLOR").is_none_or(|value| value != "0")
            }
        };
        Self { colours }
    }

    /// Appends `text`, painted.
    pub fn push(self, out: &mut String, role: Role, text: &str) {
        if self.colours && role != Role::Plain && !text.is_empty() {
            let _ = write!(out, "\x1b[{}m{text}\x1b[0m", role.sgr());
        } else {
            out.push_str(text);
        }
    }

    /// `text`, painted.
    pub fn paint(self, role: Role, text: &str) -> String {
        let mut out = String::new();
        self.push(&mut out, role, text);
        out
    }
}

/// A line made of painted pieces, of known width.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pieces: Vec<(Role, String)>,
}

impl Line {
    /// Appends a piece.
    pub fn push(&mut self, role: Role, text: impl Into<String>) {
        self.pieces.push((role, text.into()));
    }

    /// Columns it takes.
    pub fn width(&self) -> usize {
        self.pieces.iter().map(|(_, piece)| text::width(piece)).sum()
    }

    /// Cuts it to `columns`, with `…` where something is left out.
    pub fn truncate(&mut self, columns: usize) {
        if self.width() <= columns {
            return;
        }
        let mut left = columns;
        let mut kept = Vec::new();
        for (role, piece) in self.pieces.drain(..) {
            let wide = text::width(&piece);
            // The piece that fills the line exactly is cut as well: more follows it.
            if wide < left {
                left -= wide;
                kept.push((role, piece));
            } else {
                let cut = text::truncate(&format!("{piece}…"), left).into_owned();
                kept.push((role, cut));
                break;
            }
        }
        self.pieces = kept;
    }

    /// Appends spaces up to `columns`.
    pub fn pad(&mut self, columns: usize) {
        let width = self.width();
        if width < columns {
            self.push(Role::Plain, " ".repeat(columns - width));
        }
    }

    /// As one string, without trailing spaces.
    pub fn paint(&self, style: Style) -> String {
        let mut out = String::new();
        for (role, piece) in &self.pieces {
            style.push(&mut out, *role, piece);
        }
        out.truncate(out.trim_end_matches(' ').len());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_decides() {
        let choose = |choice, terminal, vars: &[(&str, &str)]| {
            Style::choose(choice, terminal, |name| {
                vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
            })
            .colours
        };
        assert!(choose(ColorChoice::Auto, true, &[]));
        assert!(!choose(ColorChoice::Auto, false, &[]));
        assert!(!choose(ColorChoice::Auto, true, &[("NO_COLOR", "1")]));
        assert!(choose(ColorChoice::Auto, true, &[("NO_COLOR", "")]));
        assert!(choose(ColorChoice::Auto, false, &[("CLICOLOR_FORCE", "1")]));
        assert!(!choose(ColorChoice::Auto, false, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
        assert!(!choose(ColorChoice::Auto, true, &[("TERM", "dumb")]));
        assert!(choose(ColorChoice::Always, false, &[("NO_COLOR", "1")]));
        assert!(!choose(ColorChoice::Never, true, &[("CLICOLOR_FORCE", "1")]));
    }

    #[test]
    fn lines_are_cut_by_columns() {
        let mut line = Line::default();
        line.push(Role::Strong, "日本");
        line.push(Role::Dim, " (k=value)");
        assert_eq!(line.width(), 14);
        let cut = |columns| {
            let mut line = line.clone();
            line.truncate(columns);
            assert!(line.width() <= columns, "{columns}");
            line.paint(Style::PLAIN)
        };
        assert_eq!(cut(14), "日本 (k=value)");
        assert_eq!(cut(13), "日本 (k=valu…");
        assert_eq!(cut(4), "日…");
        assert_eq!(cut(5), "日本…");
        assert_eq!(cut(0), "");
        assert_eq!(line.paint(Style::COLOURED), "\x1b[1m日本\x1b[0m\x1b[2m (k=value)\x1b[0m");
    }
}
