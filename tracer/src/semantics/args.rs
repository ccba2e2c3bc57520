//! Attributes from values that were fetched for a span: what it was given.
//!
//! A value whose place DWARF gives is what it is. One whose place the machine code gives must look
//! like a value of its kind, and where several places may be meant, only one of them may hold
//! such a value: else the attribute is left out.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::Stats;
use crate::events::Argument;
use crate::plan::{AttributeKey, AttributeMeta, Case, Evidence, FunctionMeta, Like, TraceMeta};
use crate::span::{Span, SpanId, Value};
use crate::target::Shape;

/// Spans whose values are kept at once. Beyond, the oldest go first.
const MAX_SPANS: usize = 1 << 16;
/// Longest text of an attribute, in bytes.
const MAX_TEXT: usize = 256;
/// Longest text that is like an identifier.
const MAX_IDENTIFIER: usize = 64;

/// What is known of one span, until it ends.
#[derive(Debug, Default)]
struct Known {
    attributes: Vec<(AttributeKey, Found)>,
    constants: Vec<(AttributeKey, String)>,
}

/// The values of one attribute.
#[derive(Debug)]
struct Found {
    also: Vec<AttributeKey>,
    values: Vec<Value>,
    implausible: u64,
}

/// By span.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    by_span: HashMap<SpanId, Known, FixedState>,
    order: VecDeque<SpanId>,
    evicted: u64,
}

impl Arguments {
    /// Keeps a value until its span ends.
    pub fn add(&mut self, span: SpanId, argument: &Argument<'_>, meta: &TraceMeta) {
        let index = usize::from(argument.function.0).checked_sub(1);
        let Some(function) = index.and_then(|index| meta.functions.get(index)) else { return };
        let mut metas = function.attributes.iter();
        let Some(attribute) = metas.find(|meta| meta.slot == argument.slot) else { return };
        let Some((key, also)) = attribute.keys.split_first() else { return };
        if !self.by_span.contains_key(&span) {
            self.make_room();
            self.order.push_back(span);
        }
        let known = self
            .by_span
            .entry(span)
            .or_insert_with(|| Known { attributes: Vec::new(), constants: constants(function) });
        let at = known.attributes.iter().position(|(other, _)| other == key);
        let at = at.unwrap_or_else(|| {
            let found = Found { also: also.to_vec(), values: Vec::new(), implausible: 0 };
            known.attributes.push((key.clone(), found));
            known.attributes.len() - 1
        });
        let found = &mut known.attributes[at].1;
        match read(attribute, argument.bytes, argument.len) {
            Some(value) if found.values.contains(&value) => {}
            Some(value) => found.values.push(value),
            None => found.implausible += 1,
        }
    }

    /// Adds what is known to the span's attributes.
    pub fn describe(&self, span: &mut Span) {
        let Some(known) = self.by_span.get(&span.span_id) else { return };
        for (key, found) in &known.attributes {
            if let [value] = &found.values[..] {
                for key in [key].into_iter().chain(&found.also) {
                    span.attributes.push((key.as_str().to_owned(), value.clone()));
                }
            }
        }
        for (key, text) in &known.constants {
            span.attributes.push((key.as_str().to_owned(), text.as_str().into()));
        }
    }

    /// The span has ended: counts what could not be said of it.
    pub fn forget(&mut self, span: SpanId, stats: &mut Stats) {
        stats.captures_evicted += std::mem::take(&mut self.evicted);
        let Some(known) = self.by_span.remove(&span) else { return };
        for (_, found) in &known.attributes {
            stats.arguments_implausible += found.implausible;
            stats.arguments_ambiguous += u64::from(found.values.len() > 1);
        }
    }

    fn make_room(&mut self) {
        if self.order.len() >= 2 * MAX_SPANS {
            let by_span = &self.by_span;
            self.order.retain(|span| by_span.contains_key(span));
        }
        while self.by_span.len() >= MAX_SPANS
            && let Some(oldest) = self.order.pop_front()
        {
            self.evicted += u64::from(self.by_span.remove(&oldest).is_some());
        }
    }
}

fn constants(function: &FunctionMeta) -> Vec<(AttributeKey, String)> {
    function.constants.clone()
}

/// What the bytes say; `None` if they are no such value. `len` is how many there were.
fn read(meta: &AttributeMeta, bytes: &[u8], len: u32) -> Option<Value> {
    let AttributeMeta { slot: _, keys: _, shape, like, case, evidence } = meta;
    let value = match shape {
        Shape::Text => {
            let whole = bytes.len() == len as usize;
            let text = text(bytes, whole)?;
            if *evidence == Evidence::Code && (!whole || like.is_none()) {
                return None;
            }
            if like.is_some_and(|like| !whole || !like.accepts(&text)) {
                return None;
            }
            Value::Str(text)
        }
        Shape::Uuid => {
            let id: [u8; 16] = bytes.try_into().ok()?;
            if *evidence == Evidence::Code && !is_uuid(&id) {
                return None;
            }
            Value::Str(hyphenated(&id))
        }
        Shape::Bool => match bytes {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return None,
        },
        Shape::Unsigned => Value::Int(i64::try_from(number(bytes)?).ok()?),
        Shape::Signed => {
            let number = number(bytes)?;
            let unused = 64 - 8 * bytes.len() as u32;
            Value::Int(((number << unused) as i64) >> unused)
        }
        Shape::Variant { names, other } => {
            let discriminant = number(bytes)?;
            let known = names.iter().find(|(number, _)| *number == discriminant);
            let name = known.map(|(_, name)| name).or(other.as_ref())?;
            Value::Str(match case {
                Case::Source => name.clone(),
                Case::Snake => snake(name),
            })
        }
    };
    Some(value)
}

impl Like {
    fn accepts(self, text: &str) -> bool {
        match self {
            Self::Identifier => {
                let first = |c: char| c.is_ascii_alphabetic() || c == '_';
                text.len() <= MAX_IDENTIFIER
                    && text.chars().next().is_some_and(first)
                    && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
            }
        }
    }
}

/// Bounded, valid, and free of control characters; what was cut off may end in half a character.
fn text(bytes: &[u8], whole: bool) -> Option<String> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if !whole && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(match text.char_indices().find(|(at, c)| at + c.len_utf8() > MAX_TEXT) {
        Some((at, _)) => text[..at].to_owned(),
        None => text,
    })
}

fn number(bytes: &[u8]) -> Option<u64> {
    let mut word = [0; 8];
    if !matches!(bytes.len(), 1 | 2 | 4 | 8) {
        return None;
    }
    word[..bytes.len()].copy_from_slice(bytes);
    Some(u64::from_le_bytes(word))
}

/// RFC 9562: the variant is `10…`, the version 1 to 8.
fn is_uuid(id: &[u8; 16]) -> bool {
    id[8] >> 6 == 0b10 && (1..=8).contains(&(id[6] >> 4))
}

fn hyphenated(id: &[u8; 16]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// `StoryDeveloper` as `story_developer`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meta(shape: Shape, like: Option<Like>, evidence: Evidence) -> AttributeMeta {
        let keys = vec![AttributeKey::try_from("k".to_owned()).unwrap()];
        AttributeMeta { slot: 0, keys, shape, like, case: Case::Snake, evidence }
    }

    fn read_as(
        shape: Shape,
        like: Option<Like>,
        evidence: Evidence,
        bytes: &[u8],
    ) -> Option<Value> {
        read(&meta(shape, like, evidence), bytes, bytes.len() as u32)
    }

    #[test]
    fn names_of_tools_are_told_from_other_bytes() {
        let read = |bytes| read_as(Shape::Text, Some(Like::Identifier), Evidence::Code, bytes);
        assert_eq!(read(b"db_query"), Some("db_query".into()));
        assert_eq!(read(b"mcp.server-x"), Some("mcp.server-x".into()));
        for no in [&b""[..], b"8ball", b"two words", b"\xff\xfe", b"a\0b", &[b'a'; 65]] {
            assert_eq!(read(no), None, "{no:?}");
        }
    }

    #[test]
    fn text_from_code_that_is_like_nothing_is_no_text() {
        assert_eq!(read_as(Shape::Text, None, Evidence::Code, b"x"), None);
        assert_eq!(read_as(Shape::Text, None, Evidence::Debuginfo, b"x y"), Some("x y".into()));
    }

    #[test]
    fn what_is_cut_off_ends_at_a_character() {
        let meta = meta(Shape::Text, None, Evidence::Debuginfo);
        assert_eq!(read(&meta, "aé".as_bytes().split_last().unwrap().1, 9), Some("a".into()));
        assert_eq!(read(&meta, b"a\xc3", 2), None);
    }

    #[test]
    fn a_uuid_from_code_must_be_one() {
        let id = *b"\x01\x23\x45\x67\x89\xab\x4d\xef\x81\x23\x45\x67\x89\xab\xcd\xef";
        let text = "01234567-89ab-4def-8123-456789abcdef";
        assert_eq!(read_as(Shape::Uuid, None, Evidence::Code, &id), Some(text.into()));
        assert_eq!(read_as(Shape::Uuid, None, Evidence::Code, &[0; 16]), None);
        assert!(read_as(Shape::Uuid, None, Evidence::Debuginfo, &[0; 16]).is_some());
        assert_eq!(read_as(Shape::Uuid, None, Evidence::Debuginfo, &id[1..]), None);
    }

    #[test]
    fn variants_are_named_and_others_are_left_out() {
        let names = vec![(0, "StoryDeveloper".to_owned()), (2, "CiIntegrator".to_owned())];
        let shape = |other| Shape::Variant { names: names.clone(), other };
        let read = |other, byte| read_as(shape(other), None, Evidence::Debuginfo, &[byte]);
        assert_eq!(read(None, 0), Some("story_developer".into()));
        assert_eq!(read(None, 2), Some("ci_integrator".into()));
        assert_eq!(read(None, 7), None);
        assert_eq!(read(Some("Rest".to_owned()), 7), Some("rest".into()));
    }

    #[test]
    fn numbers() {
        let read = |shape, bytes: &[u8]| read_as(shape, None, Evidence::Debuginfo, bytes);
        assert_eq!(read(Shape::Signed, &[0xfe]), Some(Value::Int(-2)));
        assert_eq!(read(Shape::Unsigned, &[0xfe, 1]), Some(Value::Int(0x1fe)));
        assert_eq!(read(Shape::Unsigned, &[0xff; 8]), None);
        assert_eq!(read(Shape::Bool, &[2]), None);
        assert_eq!(read(Shape::Unsigned, &[1, 2, 3]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_read_as_clean_text_or_nothing(
            bytes in proptest::collection::vec(any::<u8>(), 0..256),
            more in 0_u32..3,
        ) {
            for shape in [Shape::Text, Shape::Uuid, Shape::Signed, Shape::Unsigned, Shape::Bool] {
                for evidence in [Evidence::Code, Evidence::Debuginfo] {
                    let meta = meta(shape.clone(), None, evidence);
                    let value = read(&meta, &bytes, bytes.len() as u32 + more);
                    if let Some(Value::Str(text)) = value {
                        prop_assert!(text.len() <= MAX_TEXT && !text.contains(char::is_control));
                    }
                }
            }
        }
    }
}
