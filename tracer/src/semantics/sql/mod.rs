//! What a statement's text says: operation, table, and the text without its literals.
//!
//! The text is tokenised (never parsed: no recursion, time linear in a bounded length), and what
//! may be shown is chosen from a list of harmless tokens. Everything else is a literal and becomes
//! `?`. SQLite takes a double-quoted name for a string where no such column exists, so one is
//! shown only where nothing but a name can stand.

mod cache;
mod sanitise;
mod target;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use sqlparser::dialect::SQLiteDialect;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};

pub(super) use cache::Cache;

/// Longest text that is looked at; the kernel side captures less.
const MAX_BYTES: usize = 16 << 10;

/// What is known of a statement from its text alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// Its verb in upper case, such as `SELECT`; behind `WITH` the one of the statement itself.
    pub operation: Option<Arc<str>>,
    /// The table that it is mainly about, as written, without schema and quotes.
    pub table: Option<Arc<str>>,
    /// Verb and table: a name of low cardinality (`db.query.summary`).
    pub summary: Option<Arc<str>>,
    /// The text, without literals and comments unless they were asked for.
    pub text: Arc<str>,
}

/// One token and whether something stood between it and the one before.
#[derive(Debug)]
struct Tok {
    token: Token,
    spaced: bool,
}

impl Tok {
    /// The word, if it is one that is not quoted.
    fn bare(&self) -> Option<&str> {
        match &self.token {
            Token::Word(word) if word.quote_style.is_none() => Some(&word.value),
            _ => None,
        }
    }

    fn is(&self, keyword: &str) -> bool {
        self.bare().is_some_and(|word| word.eq_ignore_ascii_case(keyword))
    }

    fn is_any(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is(keyword))
    }
}

/// The tokens of `text` without comments, and whether they are all of it. Of a text that was cut
/// the last token is left out, as it may have been cut itself.
fn tokens(text: &str, truncated: bool) -> (Vec<Tok>, bool) {
    let mut found: Vec<TokenWithSpan> = Vec::new();
    let dialect = SQLiteDialect {};
    let mut tokenizer = Tokenizer::new(&dialect, text).with_unescape(false);
    let ends = tokenizer.tokenize_with_location_into_buf(&mut found).is_ok();
    // What cannot be read ends the text; the error is at what follows the last token.
    let whole = ends && !truncated;
    if truncated && ends && !matches!(found.last().map(|t| &t.token), Some(Token::Whitespace(_))) {
        found.pop();
    }
    let mut all = Vec::with_capacity(found.len());
    let mut spaced = false;
    for TokenWithSpan { token, .. } in found {
        match token {
            Token::Whitespace(
                Whitespace::Space
                | Whitespace::Newline
                | Whitespace::Tab
                | Whitespace::SingleLineComment { .. }
                | Whitespace::MultiLineComment(_),
            ) => spaced = true,
            Token::EOF => {}
            token => {
                all.push(Tok { token, spaced });
                spaced = false;
            }
        }
    }
    (all, whole)
}

/// Reads a statement. `truncated`: the text goes on. `literals`: leave them in the text.
pub fn analyse(bytes: &[u8], truncated: bool, literals: bool) -> Statement {
    let truncated = truncated || bytes.len() > MAX_BYTES;
    let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
    let text = super::redact::lossy(bytes, truncated);
    let (tokens, whole) = tokens(&text, truncated);
    let target = target::of(&tokens, whole);
    let table = target.table.filter(|name| is_plain(name));
    let summary = target.verb.as_deref().map(|verb| {
        let verb = target.object.as_deref().map_or_else(|| verb.into(), |o| format!("{verb} {o}"));
        table.as_deref().map_or_else(|| verb.clone(), |table| format!("{verb} {table}"))
    });
    let text = if literals { text.into_owned() } else { sanitise::text(&tokens, whole) };
    Statement {
        operation: target.verb.map(Arc::from),
        table: table.map(Arc::from),
        summary: summary.map(Arc::from),
        text: super::redact::text(&text).into_owned().into(),
    }
}

/// A name that reads as one: short and without anything odd.
fn is_plain(name: &str) -> bool {
    (1..=128).contains(&name.len()) && !name.chars().any(|c| c.is_control() || c == '?')
}
