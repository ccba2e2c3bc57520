//! What is kept whatever the ratio says.
//!
//! ```text
//! rule      = condition *( "," condition )          all of them true of one span
//! condition = "error"                               it returned an error or panicked
//!           | "outcome=" WORD                       returned, error, panicked, cancelled, running
//!           | "slower=" TIME                        500ms, 2s, 1m; it took at least that long
//!           | "name=" GLOB                          its name
//!           | "attr:" KEY                           it has the attribute
//!           | "attr:" KEY "=" GLOB                  with that value
//! ```
//!
//! In a GLOB `*` stands for any text, `\` takes the special meaning of the character behind it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::span::{MonoNs, Outcome, Span, Value};

/// Why a text is not a rule.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RuleError {
    /// A condition that there is not.
    #[error(
        "'{0}' is not a condition; write error, slower=500ms, name=tool_call, outcome=cancelled \
         or attr:key=value, several with commas between them"
    )]
    Unknown(String),
    /// Not a time.
    #[error("slower={0}: not a time; write 500ms, 2s, 1m")]
    Time(String),
    /// Not an outcome.
    #[error("outcome={0}: write returned, error, panicked, cancelled or running")]
    Outcome(String),
}

/// One rule: all of its conditions must hold for one span of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeepRule {
    text: String,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Error,
    Outcome(Outcome),
    Slower(Duration),
    Name(Glob),
    Attribute(String, Option<Glob>),
}

impl KeepRule {
    /// Whether `span` is what the rule is about. One that is running has lasted until `now`.
    pub fn matches(&self, span: &Span, now: MonoNs) -> bool {
        self.conditions.iter().all(|condition| condition.holds(span, now))
    }

    /// The longest time that it asks for.
    pub(super) fn slower(&self) -> Option<Duration> {
        let times = self.conditions.iter().filter_map(|condition| match condition {
            Condition::Slower(time) => Some(*time),
            _ => None,
        });
        times.max()
    }
}

impl Condition {
    fn holds(&self, span: &Span, now: MonoNs) -> bool {
        match self {
            Self::Error => matches!(span.outcome, Outcome::Error | Outcome::Panicked),
            Self::Outcome(outcome) => span.outcome == *outcome,
            Self::Slower(time) => {
                let took = span.end.unwrap_or(now).0.saturating_sub(span.start.0);
                u128::from(took) >= time.as_nanos()
            }
            Self::Name(glob) => glob.matches(&span.name),
            Self::Attribute(key, glob) => {
                let fits = |text: &str| glob.as_ref().is_none_or(|glob| glob.matches(text));
                match span.attributes.iter().find(|(own, _)| own == key) {
                    Some((_, Value::Str(text))) => fits(text),
                    Some((_, Value::Bool(yes))) => fits(if *yes { "true" } else { "false" }),
                    Some((_, Value::Int(number))) => fits(&number.to_string()),
                    Some((_, Value::Texts(all))) => all.iter().any(|text| fits(text)),
                    None => key == "code.function.name" && fits(&span.function),
                }
            }
        }
    }
}

impl FromStr for KeepRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let conditions = split(text, ',').into_iter().map(condition).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), conditions })
    }
}

fn condition(text: &str) -> Result<Condition, RuleError> {
    let text = text.trim();
    if text == "error" {
        return Ok(Condition::Error);
    }
    if let Some(word) = text.strip_prefix("outcome=") {
        let known = [
            Outcome::Returned,
            Outcome::Error,
            Outcome::Panicked,
            Outcome::Cancelled,
            Outcome::Running,
        ];
        let found = known.into_iter().find(|outcome| outcome.as_str() == word);
        return found.map(Condition::Outcome).ok_or_else(|| RuleError::Outcome(word.to_owned()));
    }
    if let Some(time) = text.strip_prefix("slower=") {
        return duration(time)
            .map(Condition::Slower)
            .ok_or_else(|| RuleError::Time(time.to_owned()));
    }
    if let Some(name) = text.strip_prefix("name=") {
        return Ok(Condition::Name(Glob::new(name)));
    }
    if let Some(attribute) = text.strip_prefix("attr:") {
        let (key, value) = match attribute.split_once('=') {
            Some((key, value)) => (key, Some(Glob::new(value))),
            None => (attribute, None),
        };
        if !key.is_empty() {
            return Ok(Condition::Attribute(key.to_owned(), value));
        }
    }
    Err(RuleError::Unknown(text.to_owned()))
}

fn duration(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * factor).ok()
}

impl TryFrom<String> for KeepRule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<KeepRule> for String {
    fn from(rule: KeepRule) -> Self {
        rule.text
    }
}

impl fmt::Display for KeepRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The parts between separators that no backslash stands before. Backslashes stay.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut parts = vec![];
    let (mut from, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        if c == separator && !escaped {
            parts.push(&text[from..at]);
            from = at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[from..]);
    parts
}

/// Text with `*` in it: what stands between the stars, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob(Vec<String>);

impl Glob {
    fn new(text: &str) -> Self {
        let plain = |part: &str| {
            let (mut out, mut escaped) = (String::new(), false);
            for c in part.chars() {
                escaped = c == '\\' && !escaped;
                if !escaped {
                    out.push(c);
                }
            }
            out
        };
        Self(split(text, '*').into_iter().map(plain).collect())
    }

    fn matches(&self, text: &str) -> bool {
        let [first, middle @ .., last] = &self.0[..] else {
            return self.0.first().is_some_and(|only| only == text);
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else {
            return false;
        };
        for part in middle {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }
}
