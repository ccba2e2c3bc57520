//! What can be seen of a target, for people.

use super::style::{Role, Style};
use super::text;
use crate::engine::{AttributeView, CoverageView, EntryStatus, EntryView};

/// Functions listed for one entry; `--json` has them all.
const MAX_LISTED: usize = 12;

/// The report of `inspect`.
pub fn lines(coverage: &CoverageView, style: Style) -> Vec<String> {
    let CoverageView { executable, build_id, tokio_version, entries, debuginfo, landmarks } =
        coverage;
    let executable = executable.to_string_lossy();
    let mut out = vec![style.paint(Role::Strong, &text::sanitise(&executable))];
    let unknown = || "none".to_owned();
    out.push(format!("  build-id  {}", build_id.clone().unwrap_or_else(unknown)));
    let tokio = tokio_version.as_deref().map_or_else(|| "not found".into(), text::sanitise);
    out.push(format!("  tokio     {tokio}"));
    for (path, used, note) in debuginfo {
        let (role, mark) = if *used { (Role::Good, "✓") } else { (Role::Warning, "–") };
        let path = path.to_string_lossy();
        let (path, note) = (text::sanitise(&path), text::sanitise(note));
        out.push(format!("  debuginfo {} {path}: {note}", style.paint(role, mark)));
    }
    out.push(String::new());
    out.push(style.paint(Role::Strong, "Spans"));
    for one in entries {
        entry(one, style, &mut out);
    }
    if entries.is_empty() {
        out.push("  none: the profile has no entry; name functions with --function".to_owned());
    }
    out.push(String::new());
    out.push(style.paint(Role::Strong, "Runtime and libraries"));
    let widest = landmarks.iter().map(|(name, _, _)| text::width(name)).max().unwrap_or(0);
    for (name, count, note) in landmarks {
        let pad = " ".repeat(widest - text::width(name));
        let role = if *count > 0 { Role::Plain } else { Role::Dim };
        let found = if *count > 0 { text::counted(*count, "probe") } else { "none".to_owned() };
        let note = note.as_deref().map(|note| format!("  {}", text::sanitise(note)));
        let line = format!("  {name}{pad}  {found}{}", note.unwrap_or_default());
        out.push(style.paint(role, &line));
    }
    out.push(String::new());
    out.push(totals(coverage));
    out
}

fn totals(coverage: &CoverageView) -> String {
    let count = |status| coverage.entries.iter().filter(|entry| entry.status == status).count();
    let functions = coverage.entries.iter().flat_map(|entry| &entry.functions);
    let (probes, dear) = functions.fold((0, 0), |(probes, dear), function| {
        let own = u64::from(function.entries) + u64::from(function.exits);
        (probes + own, dear + if function.cost == "single_stepped" { own } else { 0 })
    });
    let mut text = format!(
        "{} probed, {} partly, {} inlined, {} missing; {}",
        count(EntryStatus::Probed),
        count(EntryStatus::Partly),
        count(EntryStatus::Inlined),
        count(EntryStatus::Missing),
        text::counted(probes, "probe")
    );
    if dear > 0 {
        text.push_str(&format!(
            ", {} on a dear instruction (about 1 µs a hit, 10 µs in a virtual machine)",
            text::count(dear)
        ));
    }
    text
}

fn entry(entry: &EntryView, style: Style, out: &mut Vec<String>) {
    let EntryView { span, pattern, status, functions, inlined, reason, attributes } = entry;
    let (role, mark, word) = match status {
        EntryStatus::Probed => (Role::Good, "✓", "probed"),
        EntryStatus::Partly => (Role::Warning, "◐", "partly probed"),
        EntryStatus::Inlined => (Role::Warning, "◌", "inlined"),
        EntryStatus::Missing => (Role::Dim, "–", "missing"),
    };
    let mark = style.paint(role, mark);
    let name = style.paint(Role::of_span(span), &text::sanitise(span));
    let pattern = style.paint(Role::Dim, &text::sanitise(pattern));
    let reason = reason.as_deref().map(|why| format!(": {}", text::sanitise(why)));
    out.push(format!("  {mark} {name}  {pattern}  {word}{}", reason.unwrap_or_default()));
    for function in functions.iter().take(MAX_LISTED) {
        let exits = match (function.exits, function.exit_kind.as_str()) {
            (0, _) => "no exit found".to_owned(),
            (n, "caller") => format!("{} at callers", text::counted(n.into(), "exit")),
            (n, kind) => format!("{} at {}", text::counted(n.into(), "exit"), text::sanitise(kind)),
        };
        let cost = match function.cost.as_str() {
            "emulated" => "cheap".to_owned(),
            "single_stepped" => "dear".to_owned(),
            other => text::sanitise(other).into_owned(),
        };
        let plural = if function.entries == 1 { "entry" } else { "entries" };
        let detail = format!("{} {plural}, {exits}, {cost}", function.entries);
        let detail = style.paint(Role::Dim, &detail);
        out.push(format!("      {}  {detail}", text::sanitise(&function.name)));
    }
    more(functions.len(), style, out);
    for AttributeView { key, path, from, detail } in attributes {
        let (key, path) = (text::sanitise(key), text::sanitise(path));
        let detail = text::sanitise(detail);
        out.push(match from {
            Some(from) => {
                let from = style.paint(Role::Dim, &format!("{path}: {detail}, from {from}"));
                format!("      {} {key}  {from}", style.paint(Role::Good, "✓"))
            }
            None => {
                let why = style.paint(Role::Dim, &format!("{path}: not available: {detail}"));
                format!("      {} {key}  {why}", style.paint(Role::Warning, "–"))
            }
        });
    }
    for body in inlined.iter().take(MAX_LISTED) {
        let inside =
            style.paint(Role::Dim, &format!("inlined into {}", text::sanitise(&body.inside)));
        out.push(format!("      {}:{}  {inside}", text::sanitise(&body.file), body.line));
    }
    more(inlined.len(), style, out);
}

fn more(count: usize, style: Style, out: &mut Vec<String>) {
    if count > MAX_LISTED {
        let more = format!("      … and {} more (--json lists all)", count - MAX_LISTED);
        out.push(style.paint(Role::Dim, &more));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{FunctionView, InlinedView};

    #[test]
    fn every_entry_says_what_became_of_it() {
        let entry = |span: &str, pattern: &str, status| EntryView {
            span: span.to_owned(),
            pattern: pattern.to_owned(),
            status,
            functions: vec![],
            inlined: vec![],
            reason: None,
            attributes: vec![],
        };
        let mut agent = entry("agent_execution", "AgentLoop::run", EntryStatus::Probed);
        agent.functions.push(FunctionView {
            name: "a::AgentLoop::run".to_owned(),
            entries: 1,
            exits: 2,
            exit_kind: "caller".to_owned(),
            cost: "emulated".to_owned(),
        });
        let attribute = |key: &str, from: Option<&str>, detail: &str| AttributeView {
            key: key.to_owned(),
            path: format!("agent.{key}"),
            from: from.map(str::to_owned),
            detail: detail.to_owned(),
        };
        agent.attributes.push(attribute("id", Some("debuginfo"), "Uuid"));
        agent.attributes.push(attribute("kind", None, "no debuginfo"));
        let mut api = entry("api_call", "create_message", EntryStatus::Inlined);
        api.inlined.push(InlinedView {
            file: "src/client.rs".to_owned(),
            line: 88,
            inside: "a::AgentLoop::run".to_owned(),
        });
        let mut http = entry("http_request", "handlers::*", EntryStatus::Missing);
        http.reason = Some("no function matches".to_owned());
        let coverage = CoverageView {
            executable: "/usr/bin/orchestrate".into(),
            build_id: Some("abc".to_owned()),
            tokio_version: None,
            entries: vec![agent, api, http],
            debuginfo: vec![("/d/x.debug".into(), true, "the same build".to_owned())],
            landmarks: vec![
                ("task_poll".to_owned(), 51, None),
                ("SSL_write".to_owned(), 0, Some("no TLS library".to_owned())),
            ],
        };
        let expected = "\
/usr/bin/orchestrate
  build-id  abc
  tokio     not found
  debuginfo ✓ /d/x.debug: the same build

Spans
  ✓ agent_execution  AgentLoop::run  probed
      a::AgentLoop::run  1 entry, 2 exits at callers, cheap
      ✓ id  agent.id: Uuid, from debuginfo
      – kind  agent.kind: not available: no debuginfo
  ◌ api_call  create_message  inlined
      src/client.rs:88  inlined into a::AgentLoop::run
  – http_request  handlers::*  missing: no function matches

Runtime and libraries
  task_poll  51 probes
  SSL_write  none  no TLS library

1 probed, 0 partly, 1 inlined, 1 missing; 3 probes";
        assert_eq!(lines(&coverage, Style::PLAIN).join("\n"), expected);
    }
}
