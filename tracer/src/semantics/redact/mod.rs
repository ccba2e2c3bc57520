//! The last thing that happens to a span: nothing leaves that is private or could do harm.
//!
//! Every text that came out of the target is made bounded, valid UTF-8, free of control
//! characters and terminal escapes, and free of credentials, whatever was asked for. Text that is
//! private without being a credential (prompts, commands, headers, literals) leaves only where
//! its own switch is on. [`Redactor::span`] is the one place that sees to it, and every other
//! stage may call [`text`] earlier.

mod clean;
mod secrets;

#[cfg(test)]
mod planted;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use clean::{clean, lossy};

use super::options::{Captures, Private};
use crate::span::{Span, Value};

/// What stands where a credential stood.
pub const REDACTED: &str = "[redacted]";

/// Longest text of an attribute, in bytes.
pub const MAX_TEXT: usize = 4096;
/// Longest key.
const MAX_KEY: usize = 256;
/// Most attributes of one span or event, and most events of one span.
const MAX_ENTRIES: usize = 256;

/// Makes a text fit to leave: bounded, harmless, without credentials.
pub fn text(text: &str) -> Cow<'_, str> {
    bounded(text, MAX_TEXT)
}

/// The same with another bound.
pub fn bounded(text: &str, max: usize) -> Cow<'_, str> {
    // A little more than may stay, so that what is cut off can still be recognised.
    let mut read = clean::cut(text, max.saturating_mul(2));
    if read.len() < text.len() {
        read = whole_words(read);
    }
    let clean = clean(read);
    let safe = match secrets::redact(&clean) {
        Cow::Owned(changed) => Cow::Owned(changed),
        Cow::Borrowed(_) => clean,
    };
    if safe.len() <= max && read.len() == text.len() {
        return safe;
    }
    let mut short = clean::cut(&safe, max).to_owned();
    short.push('…');
    Cow::Owned(short)
}

/// `text`, which goes on, without the word at its end: a credential that was cut off is not
/// recognised.
pub fn whole_words(text: &str) -> &str {
    const LONGEST: usize = 512;
    let from = text.ceil_char_boundary(text.len().saturating_sub(LONGEST));
    match text[from..].rfind(char::is_whitespace) {
        Some(at) => &text[..from + at],
        None => &text[..from],
    }
}

/// Whether the value that belongs to this key is a credential, whatever it looks like.
pub fn is_secret_key(key: &str) -> bool {
    secrets::is_secret_key(key)
}

/// What may not be said of a span was left out: how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redacted {
    /// Texts in which a credential stood.
    pub secrets: u64,
    /// Attributes that are private and were not asked for.
    pub private: u64,
    /// Attributes and events beyond what one span may have.
    pub overflow: u64,
}

/// Sees to it that nothing leaves that must not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redactor {
    captures: Captures,
}

impl Redactor {
    /// Lets through what `captures` names, never credentials.
    pub const fn new(captures: Captures) -> Self {
        Self { captures }
    }

    /// Goes over everything that a span says about itself.
    pub fn span(&self, span: &mut Span, counts: &mut Redacted) {
        self.attributes(&mut span.attributes, counts);
        counts.overflow += span.events.len().saturating_sub(MAX_ENTRIES) as u64;
        span.events.truncate(MAX_ENTRIES);
        for event in &mut span.events {
            self.attributes(&mut event.attributes, counts);
        }
    }

    /// The same for a list of attributes.
    pub fn attributes(&self, all: &mut Vec<(String, Value)>, counts: &mut Redacted) {
        let before = all.len();
        all.retain(|(key, _)| kind_of(key).is_none_or(|kind| self.captures.has(kind)));
        counts.private += (before - all.len()) as u64;
        counts.overflow += all.len().saturating_sub(MAX_ENTRIES) as u64;
        all.truncate(MAX_ENTRIES);
        for (key, value) in all {
            if let Cow::Owned(changed) = bounded(key, MAX_KEY) {
                *key = changed;
            }
            let secret = is_secret_key(key);
            counts.secrets += u64::from(redact_value(secret, value));
        }
    }
}

/// Whether a credential was taken out.
fn redact_value(secret: bool, value: &mut Value) -> bool {
    match value {
        Value::Str(found) if secret && !found.is_empty() => {
            REDACTED.clone_into(found);
            true
        }
        Value::Str(found) => match text(found) {
            Cow::Owned(changed) => {
                let had = changed.contains(REDACTED) && !found.contains(REDACTED);
                *found = changed;
                had
            }
            Cow::Borrowed(_) => false,
        },
        Value::Texts(texts) => {
            texts.truncate(MAX_ENTRIES);
            let mut had = false;
            for found in texts {
                let mut one = Value::Str(std::mem::take(found));
                had |= redact_value(secret, &mut one);
                if let Value::Str(changed) = one {
                    *found = changed;
                }
            }
            had
        }
        Value::Int(_) | Value::Bool(_) => false,
    }
}

/// Which switch an attribute stands behind; `None`: none.
fn kind_of(key: &str) -> Option<Private> {
    match key {
        "command"
        | "process.command"
        | "process.command_line"
        | "process.command_args"
        | "gen_ai.tool.call.arguments"
        | "gen_ai.tool.call.result" => Some(Private::Commands),
        "gen_ai.input.messages"
        | "gen_ai.output.messages"
        | "gen_ai.system_instructions"
        | "gen_ai.prompt"
        | "gen_ai.completion" => Some(Private::Prompts),
        _ if key.starts_with("http.request.header.")
            || key.starts_with("http.response.header.") =>
        {
            Some(Private::Headers)
        }
        _ if key.starts_with("gen_ai.prompt.") || key.starts_with("gen_ai.completion.") => {
            Some(Private::Prompts)
        }
        _ if key.starts_with("db.query.parameter.")
            || key.starts_with("db.operation.parameter.") =>
        {
            Some(Private::SqlLiterals)
        }
        _ => None,
    }
}
