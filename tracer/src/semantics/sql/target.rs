//! Which verb a statement begins with, and which table it is mainly about.

use std::ops::Range;

use sqlparser::tokenizer::Token;

use super::Tok;

/// Subqueries are followed so many levels down.
const MAX_DEPTH: usize = 16;
/// So many common table expressions are kept; further ones make the target uncertain.
const MAX_TABLES: usize = 32;

/// What a statement does, and to what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// In upper case.
    pub verb: Option<String>,
    /// `TABLE`, `INDEX`, … behind `CREATE`, `DROP`, `ALTER`.
    pub object: Option<String>,
    pub table: Option<String>,
}

/// Verbs that SQLite knows; any other first word is not a statement.
const VERBS: &[&str] = &[
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "REPLACE",
    "VALUES",
    "CREATE",
    "DROP",
    "ALTER",
    "BEGIN",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT",
    "RELEASE",
    "PRAGMA",
    "ATTACH",
    "DETACH",
    "VACUUM",
    "ANALYZE",
    "REINDEX",
    "EXPLAIN",
];

/// Looks at a statement. `whole`: nothing is missing at its end.
pub(super) fn of(tokens: &[Tok], whole: bool) -> Target {
    let all = Reader { tokens, whole, tables: Vec::new() };
    all.read().unwrap_or_default()
}

/// A common table expression.
struct Table {
    name: String,
    body: Range<usize>,
}

struct Reader<'a> {
    tokens: &'a [Tok],
    whole: bool,
    tables: Vec<Table>,
}

impl Reader<'_> {
    fn read(mut self) -> Option<Target> {
        let mut at = 0;
        let mut explained = false;
        if self.is(0, "EXPLAIN") {
            explained = true;
            at = if self.is(1, "QUERY") && self.is(2, "PLAN") { 3 } else { 1 };
        }
        if self.is(at, "WITH") {
            at = self.with(at)?;
        }
        let verb = self.verb(at)?;
        let end = self.tokens.len();
        let (object, table) = match verb {
            "CREATE" | "DROP" | "ALTER" => self.definition(at, verb),
            _ => (None, self.table_of(at..end, 0)),
        };
        let verb = if explained { "EXPLAIN" } else { verb };
        Some(Target { verb: Some(verb.to_owned()), object, table })
    }

    fn is(&self, at: usize, keyword: &str) -> bool {
        self.tokens.get(at).is_some_and(|tok| tok.is(keyword))
    }

    fn token(&self, at: usize) -> Option<&Token> {
        self.tokens.get(at).map(|tok| &tok.token)
    }

    fn verb(&self, at: usize) -> Option<&'static str> {
        VERBS.iter().copied().find(|verb| self.is(at, verb))
    }

    /// Collects the tables behind `WITH`; where the statement itself begins.
    fn with(&mut self, at: usize) -> Option<usize> {
        let mut at = if self.is(at + 1, "RECURSIVE") { at + 2 } else { at + 1 };
        loop {
            let name = self.name(at)?.to_owned();
            at += 1;
            if matches!(self.token(at), Some(Token::LParen)) {
                at = self.closing(at)? + 1;
            }
            if !self.is(at, "AS") {
                return None;
            }
            at += 1;
            while self.is(at, "NOT") || self.is(at, "MATERIALIZED") {
                at += 1;
            }
            let close = self.closing(at)?;
            if self.tables.len() == MAX_TABLES {
                return None;
            }
            self.tables.push(Table { name, body: at + 1..close });
            at = close + 1;
            if !matches!(self.token(at), Some(Token::Comma)) {
                return Some(at);
            }
            at += 1;
        }
    }

    /// The parenthesis that closes the one at `at`.
    fn closing(&self, at: usize) -> Option<usize> {
        if !matches!(self.token(at), Some(Token::LParen)) {
            return None;
        }
        let mut depth = 0_usize;
        for (offset, tok) in self.tokens[at..].iter().enumerate() {
            match tok.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 1 => return Some(at + offset),
                Token::RParen => depth -= 1,
                _ => {}
            }
        }
        None
    }

    /// A name, unless it is the last token of a text that goes on: then it may be only the
    /// beginning of `schema.name`, or a function's.
    fn name(&self, at: usize) -> Option<&str> {
        match self.token(at)? {
            Token::Word(word) if self.whole || at + 1 < self.tokens.len() => Some(&word.value),
            _ => None,
        }
    }

    /// The name of a table at `at`, without schema, whether it had one, and what follows it.
    fn qualified(&self, at: usize) -> Option<(&str, bool, usize)> {
        if matches!(self.token(at + 1), Some(Token::Period)) {
            return Some((self.name(at + 2)?, true, at + 3));
        }
        Some((self.name(at)?, false, at + 1))
    }

    /// Where `keyword` stands in `range`, outside any parenthesis and before any of `stops`.
    fn find(&self, range: Range<usize>, keyword: &str, stops: &[&str]) -> Option<usize> {
        let mut depth = 0_usize;
        for at in range {
            let tok = &self.tokens[at];
            match tok.token {
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.checked_sub(1)?,
                Token::Word(_) if depth == 0 && tok.is(keyword) => {
                    // `a IS NOT DISTINCT FROM b` compares.
                    let compares = keyword == "FROM" && at > 0 && self.is(at - 1, "DISTINCT");
                    if !compares {
                        return Some(at);
                    }
                }
                Token::Word(_) if depth == 0 && tok.is_any(stops) => return None,
                _ => {}
            }
        }
        None
    }

    /// The table that the statement in `range` is about.
    fn table_of(&self, range: Range<usize>, depth: usize) -> Option<String> {
        if depth > MAX_DEPTH {
            return None;
        }
        let at = range.start;
        let named = |at: usize| self.qualified(at).map(|(name, ..)| name.to_owned());
        match self.verb(at)? {
            "SELECT" => {
                let stops = ["WHERE", "UNION", "EXCEPT", "INTERSECT", "ORDER", "LIMIT", "VALUES"];
                let from = self.find(at..range.end, "FROM", &stops)?;
                self.source(from + 1, range.end, depth)
            }
            "INSERT" | "REPLACE" => {
                let into = (at + 1..range.end.min(at + 4)).find(|&at| self.is(at, "INTO"))?;
                named(into + 1)
            }
            "UPDATE" => named(if self.is(at + 1, "OR") { at + 3 } else { at + 1 }),
            "DELETE" if self.is(at + 1, "FROM") => named(at + 2),
            _ => None,
        }
    }

    /// The first table that stands at `at`, behind `FROM`.
    fn source(&self, at: usize, end: usize, depth: usize) -> Option<String> {
        if depth > MAX_DEPTH || at >= end {
            return None;
        }
        if matches!(self.token(at), Some(Token::LParen)) {
            // A subquery, or a join in parentheses.
            let close = self.closing(at).unwrap_or(end);
            return match self.is(at + 1, "SELECT") {
                true => self.table_of(at + 1..close, depth + 1),
                false => self.source(at + 1, close, depth + 1),
            };
        }
        if self.is(at, "VALUES") || self.is(at, "WITH") {
            return None;
        }
        let (name, has_schema, next) = self.qualified(at)?;
        // `FROM json_each(?)` is no table.
        if matches!(self.token(next), Some(Token::LParen)) {
            return None;
        }
        let expression = self.tables.iter().position(|table| table.name.eq_ignore_ascii_case(name));
        match expression {
            Some(at) if !has_schema => {
                let body = self.tables[at].body.clone();
                // Each one stands for those before it only; recursion ends here.
                let before = Reader {
                    tokens: self.tokens,
                    whole: true,
                    tables: self.tables[..at]
                        .iter()
                        .map(|t| Table { name: t.name.clone(), body: t.body.clone() })
                        .collect(),
                };
                let table = before.table_of(body, depth + 1)?;
                (!table.eq_ignore_ascii_case(name)).then_some(table)
            }
            _ => Some(name.to_owned()),
        }
    }

    /// `CREATE`, `DROP`, `ALTER`: what is defined, and the table that it is or belongs to.
    fn definition(&self, at: usize, verb: &str) -> (Option<String>, Option<String>) {
        const MODIFIERS: &[&str] = &["TEMP", "TEMPORARY", "UNIQUE", "VIRTUAL"];
        let mut at = at + 1;
        while self.tokens.get(at).is_some_and(|tok| tok.is_any(MODIFIERS)) {
            at += 1;
        }
        let object = ["TABLE", "VIEW", "INDEX", "TRIGGER"].into_iter().find(|o| self.is(at, o));
        let Some(object) = object else { return (None, None) };
        at += 1;
        while self.tokens.get(at).is_some_and(|tok| tok.is_any(&["IF", "NOT", "EXISTS"])) {
            at += 1;
        }
        let on = || self.find(at..self.tokens.len(), "ON", &["BEGIN"]).map(|on| on + 1);
        let place = match (object, verb) {
            ("TABLE" | "VIEW", _) => Some(at),
            (_, "CREATE") => on(),
            _ => None,
        };
        let table = place.and_then(|at| self.qualified(at)).map(|(name, ..)| name.to_owned());
        (Some(object.to_owned()), table)
    }
}
