//! A statement's text without its literals.

use sqlparser::tokenizer::Token;

use super::{Tok, is_plain};

/// What follows one of these is a name.
const BEFORE_NAMES: &[&str] = &[
    "FROM",
    "JOIN",
    "INTO",
    "UPDATE",
    "TABLE",
    "INDEX",
    "VIEW",
    "TRIGGER",
    "REFERENCES",
    "AS",
    "EXISTS",
    "COLUMN",
    "SAVEPOINT",
    "RELEASE",
    "COLLATE",
];

/// `PRAGMA`s whose argument is a secret (SQLCipher and its kin).
const SECRET_PRAGMAS: &[&str] = &["key", "rekey", "hexkey", "hexrekey", "textkey", "textrekey"];

/// Where in a statement names may be written in double quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clause {
    /// Nowhere in particular.
    Other,
    /// Behind `SET`: a name comes first and before `=`.
    Set,
    /// In the column list of an `INSERT`, or of a `CREATE`: depth of its parenthesis.
    Columns(usize),
}

/// The text of `tokens`, literals replaced by `?`; ends in `…` where they are not the whole text.
pub(super) fn text(tokens: &[Tok], whole: bool) -> String {
    let mut out = String::with_capacity(tokens.len() * 6);
    let creates = tokens.first().is_some_and(|first| first.is("CREATE"));
    let secret = is_secret(tokens);
    let mut clause = Clause::Other;
    let mut depth = 0_usize;
    let mut after_literal = false;
    for (at, tok) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| &tokens[at]);
        match &tok.token {
            Token::LParen => {
                depth += 1;
                let lists = creates && depth == 1 || names_table_to_fill(tokens, at);
                if clause == Clause::Other && lists {
                    clause = Clause::Columns(depth);
                }
            }
            Token::RParen => {
                if clause == Clause::Columns(depth) {
                    clause = Clause::Other;
                }
                depth = depth.saturating_sub(1);
            }
            _ if tok.is("SET") && clause == Clause::Other => clause = Clause::Set,
            _ if tok.is_any(&["WHERE", "RETURNING", "FROM"]) && clause == Clause::Set => {
                clause = Clause::Other;
            }
            _ => {}
        }
        if secret.is_some_and(|from| at > from) {
            break;
        }
        let shown = match secret {
            Some(from) if at == from => None,
            _ => shown(tokens, at, clause, depth),
        };
        match shown {
            // The rest of a number that the tokeniser has split is part of it.
            Some(Shown::Word(_)) if after_literal && !tok.spaced => {}
            Some(shown) => {
                if tok.spaced && before.is_some() {
                    out.push(' ');
                }
                shown.write(&mut out);
                after_literal = false;
            }
            None if after_literal && !tok.spaced => {}
            None => {
                if tok.spaced && before.is_some() {
                    out.push(' ');
                }
                out.push('?');
                after_literal = true;
            }
        }
    }
    if !whole {
        out.push_str(if out.is_empty() { "…" } else { " …" });
    }
    out
}

/// What may be shown of a token.
enum Shown<'a> {
    Word(&'a str),
    Quoted(&'a str, char),
    Sign(&'a Token),
    Placeholder(&'a str),
}

impl Shown<'_> {
    fn write(&self, out: &mut String) {
        use std::fmt::Write as _;
        // Writing to a string does not fail.
        let _ = match self {
            Self::Word(word) | Self::Placeholder(word) => out.write_str(word),
            Self::Quoted(name, '[') => write!(out, "[{name}]"),
            Self::Quoted(name, quote) => write!(out, "{quote}{name}{quote}"),
            Self::Sign(sign) => write!(out, "{sign}"),
        };
    }
}

/// `None`: a literal, or something that may be one.
fn shown(tokens: &[Tok], at: usize, clause: Clause, depth: usize) -> Option<Shown<'_>> {
    let token = &tokens[at].token;
    match token {
        Token::Word(word) => match word.quote_style {
            None => Some(Shown::Word(&word.value)),
            Some(quote @ ('`' | '[')) if is_plain(&word.value) => {
                Some(Shown::Quoted(&word.value, quote))
            }
            Some('"') if is_plain(&word.value) && is_name(tokens, at, clause, depth) => {
                Some(Shown::Quoted(&word.value, '"'))
            }
            Some(_) => None,
        },
        // `?1`, `$name`: bound values are not in the text.
        Token::Placeholder(name) if is_plain_placeholder(name) => Some(Shown::Placeholder(name)),
        Token::Comma
        | Token::DoubleEq
        | Token::Eq
        | Token::Neq
        | Token::Lt
        | Token::Gt
        | Token::LtEq
        | Token::GtEq
        | Token::Plus
        | Token::Minus
        | Token::Mul
        | Token::Div
        | Token::Mod
        | Token::StringConcat
        | Token::LParen
        | Token::RParen
        | Token::Period
        | Token::Colon
        | Token::SemiColon
        | Token::Ampersand
        | Token::Pipe
        | Token::Tilde
        | Token::ShiftLeft
        | Token::ShiftRight
        | Token::AtSign
        | Token::Arrow
        | Token::LongArrow => Some(Shown::Sign(token)),
        _ => None,
    }
}

fn is_plain_placeholder(name: &str) -> bool {
    name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"?$:@_".contains(&b))
}

/// Whether a double-quoted token can be nothing but a name.
fn is_name(tokens: &[Tok], at: usize, clause: Clause, depth: usize) -> bool {
    let before = at.checked_sub(1).map(|at| &tokens[at]);
    let after = tokens.get(at + 1).map(|tok| &tok.token);
    let dot = |token: Option<&Token>| matches!(token, Some(Token::Period));
    if dot(before.map(|tok| &tok.token)) || dot(after) {
        return true;
    }
    let Some(before) = before else { return false };
    // `a IS NOT DISTINCT FROM "b"` compares.
    if before.is("FROM") && at.checked_sub(2).is_some_and(|at| tokens[at].is("DISTINCT")) {
        return false;
    }
    let opens = matches!(before.token, Token::LParen | Token::Comma);
    match clause {
        Clause::Set if opens || before.is("SET") => matches!(after, Some(Token::Eq)),
        Clause::Columns(list) => opens && depth == list || before.is_any(BEFORE_NAMES),
        // `ON "index's table"`; in a join it would be a comparison.
        Clause::Other if before.is("ON") => tokens.first().is_some_and(|t| t.is("CREATE")),
        Clause::Set | Clause::Other => before.is_any(BEFORE_NAMES),
    }
}

/// Whether the parenthesis at `at` opens the column list of `INSERT INTO [schema.]table`.
fn names_table_to_fill(tokens: &[Tok], at: usize) -> bool {
    let into = |back: usize| at.checked_sub(back).is_some_and(|at| tokens[at].is("INTO"));
    let dotted = at.checked_sub(2).is_some_and(|at| matches!(tokens[at].token, Token::Period));
    into(2) || dotted && into(4)
}

/// From which token on a statement that sets a key is hidden.
fn is_secret(tokens: &[Tok]) -> Option<usize> {
    if tokens.first()?.is("PRAGMA") {
        let named = tokens.iter().take(4).position(|tok| match &tok.token {
            Token::Word(word) => SECRET_PRAGMAS.iter().any(|s| word.value.eq_ignore_ascii_case(s)),
            _ => false,
        });
        return named.map(|at| at + 1);
    }
    if tokens.first()?.is("ATTACH") {
        return tokens.iter().position(|tok| tok.is("KEY")).map(|at| at + 1);
    }
    None
}
