//! JSON lines: one object each, `v` 1.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::ser::{CompactFormatter, Formatter};
use tracer::export::attributes;
use tracer::span::{
    ClockAnchor, MonoNs, Outcome, Span, SpanEvent, SpanId, SpanKind, TraceId, Value,
};

use super::text;

/// Version of the format.
pub const VERSION: u8 = 1;

#[derive(Serialize)]
struct SpanLine<'a> {
    v: u8,
    r#type: &'static str,
    trace_id: TraceId,
    span_id: SpanId,
    parent_id: Option<SpanId>,
    name: &'a str,
    kind: SpanKind,
    start_unix_ns: u64,
    end_unix_ns: Option<u64>,
    start_mono_ns: MonoNs,
    end_mono_ns: Option<MonoNs>,
    outcome: Outcome,
    address: u64,
    pid: u32,
    attributes: Attributes<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<EventLine<'a>>,
}

/// Something that happened in a span.
#[derive(Serialize)]
struct EventLine<'a> {
    name: &'a str,
    unix_ns: u64,
    attributes: Attributes<'a>,
}

struct Attributes<'a>(Vec<(Cow<'a, str>, Value)>);

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// Escapes what could steer a terminal or disguise what is read; JSON itself only demands it of
/// the first 32 characters.
struct Careful;

impl Formatter for Careful {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut plain = 0;
        for (at, c) in fragment.char_indices() {
            if text::is_unsafe(c) {
                writer.write_all(&fragment.as_bytes()[plain..at])?;
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
                plain = at + c.len_utf8();
            }
        }
        CompactFormatter.write_string_fragment(writer, &fragment[plain..])
    }
}

/// Writes `value` as one line.
pub fn line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Careful);
    value.serialize(&mut serializer).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// Writes a span as one line.
pub fn span(out: &mut impl Write, span: &Span, anchor: ClockAnchor, pid: u32) -> io::Result<()> {
    line(
        out,
        &SpanLine {
            v: VERSION,
            r#type: "span",
            trace_id: span.trace_id,
            span_id: span.span_id,
            parent_id: span.parent_id,
            name: &span.name,
            kind: span.kind,
            start_unix_ns: anchor.unix_ns(span.start),
            end_unix_ns: span.end.map(|end| anchor.unix_ns(end)),
            start_mono_ns: span.start,
            end_mono_ns: span.end,
            outcome: span.outcome,
            address: span.address,
            pid,
            attributes: Attributes(attributes(span)),
            events: span.events.iter().map(|event| event_line(event, anchor)).collect(),
        },
    )
}

fn event_line(event: &SpanEvent, anchor: ClockAnchor) -> EventLine<'_> {
    let own = event.attributes.iter();
    EventLine {
        name: &event.name,
        unix_ns: anchor.unix_ns(event.at),
        attributes: Attributes(own.map(|(key, v)| (Cow::from(key.as_str()), v.clone())).collect()),
    }
}

/// Something about the tracing itself: attached, target exited, endpoint unreachable.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    v: u8,
    r#type: &'static str,
    /// What happened.
    pub name: &'static str,
    /// When.
    pub start_unix_ns: u64,
    /// In which process.
    pub pid: Option<u32>,
    /// Details.
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

impl Event {
    /// An event now.
    pub fn new(name: &'static str, pid: Option<u32>) -> Self {
        let start_unix_ns = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        let attributes = serde_json::Map::new();
        Self { v: VERSION, r#type: "event", name, start_unix_ns, pid, attributes }
    }

    /// With an attribute.
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.attributes.insert(key.to_owned(), value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixture;

    #[test]
    fn a_span_is_one_line_with_everything() {
        let span = &fixture::agent(7, 1_000)[1];
        let mut out = Vec::new();
        super::span(&mut out, span, ClockAnchor { offset_ns: 1_000_000 }, 4242).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["v"], 1);
        assert_eq!(value["type"], "span");
        assert_eq!(value["trace_id"], span.trace_id.to_string());
        assert_eq!(value["parent_id"], span.parent_id.unwrap().to_string());
        assert_eq!(value["start_unix_ns"], span.start.0 + 1_000_000);
        assert_eq!(value["end_mono_ns"], span.end.unwrap().0);
        assert_eq!(value["outcome"], "returned");
        assert_eq!(value["attributes"]["tool_name"], "Bash");
        assert_eq!(value["attributes"]["async.polls"], 3);
        assert_eq!(value["attributes"]["thread.id"], 11);
    }

    #[test]
    fn strings_cannot_steer_a_terminal() {
        let mut out = Vec::new();
        line(&mut out, &"a\x1b[2J\u{9b}b\u{202e}c\u{e0041}\"é").unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "\"a\\u001b[2J\\u009bb\\u202ec\\udb40\\udc41\\\"é\"\n");
        let back: String = serde_json::from_str(&text).unwrap();
        assert_eq!(back, "a\x1b[2J\u{9b}b\u{202e}c\u{e0041}\"é");
    }
}
