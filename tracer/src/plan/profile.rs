//! Profiles: which function is which span, as data.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::{AttributeKey, AttributeRules, Pattern};
use crate::span::SpanKind;

/// A profile as written (TOML).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it is called.
    pub name: String,
    /// Functions that become spans; the first that matches wins.
    #[serde(default, rename = "span")]
    pub spans: Vec<SpanRule>,
    /// Libraries whose calls become spans.
    #[serde(default)]
    pub leaf: LeafRules,
}

/// One `[[span]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpanRule {
    /// Name of the spans; without one, the function's own path.
    pub name: Option<String>,
    /// Which functions.
    pub function: Pattern,
    /// Kind of the spans.
    #[serde(default = "internal")]
    pub kind: SpanKind,
    /// Where the body is written, for builds in which it is inlined.
    pub inlined: Option<InlinedRule>,
    /// What the spans say of the values that the function was given.
    #[serde(default)]
    pub attributes: AttributeRules,
    /// Attributes that all of them have.
    #[serde(default)]
    pub constants: BTreeMap<AttributeKey, String>,
}

/// How to recognise an inlined body.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InlinedRule {
    /// End of the source file's path.
    pub file: String,
    /// The function it is inlined into.
    pub inside: Option<Pattern>,
}

/// `[leaf]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafRules {
    /// `[leaf.sqlite]`: executions of statements.
    pub sqlite: Option<LeafRule>,
    /// `[leaf.tls]`: requests through OpenSSL.
    pub tls: Option<LeafRule>,
    /// `[leaf.http]`: requests made and served on plain sockets.
    pub http: Option<LeafRule>,
    /// `[leaf.process]`: child processes that the target starts.
    pub process: Option<LeafRule>,
}

/// One kind of leaf.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafRule {
    /// Name of the spans.
    pub name: String,
}

fn internal() -> SpanKind {
    SpanKind::Internal
}

/// Why a profile cannot be used.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The file could not be read.
    #[error("profile {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not a profile.
    #[error("profile {}, line {line}: {message}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// It names nothing to trace.
    #[error(
        "profile {}: neither a [[span]] nor a [leaf.…]: there would be nothing to trace",
        path.display()
    )]
    Empty {
        /// Which.
        path: PathBuf,
    },
}

/// A profile longer than this is a mistake.
const MAX_BYTES: u64 = 1 << 20;

impl Profile {
    /// The built-in profile for `orchestrate`.
    ///
    /// # Panics
    /// Never: a test parses it.
    pub fn orchestrate() -> Self {
        let text = include_str!("profiles/orchestrate.toml");
        toml::from_str(text).expect("the built-in profile is valid")
    }

    /// Nothing but what is added to it.
    pub fn empty() -> Self {
        Self { name: "none".to_owned(), spans: Vec::new(), leaf: LeafRules::default() }
    }

    /// Adds every function that matches `pattern`, under its own path.
    pub fn add_function(&mut self, pattern: Pattern) {
        self.spans.push(SpanRule {
            name: None,
            function: pattern,
            kind: SpanKind::Internal,
            inlined: None,
            attributes: AttributeRules::default(),
            constants: BTreeMap::new(),
        });
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// When the file cannot be read, is too large, or is not a profile; with the line.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let read = || {
            let size = std::fs::metadata(path)?.len();
            if size > MAX_BYTES {
                return Err(std::io::Error::other(format!("{size} bytes are too many")));
            }
            std::fs::read_to_string(path)
        };
        let text = read().map_err(|source| ProfileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Parses a profile's text; `path` is for messages.
    ///
    /// # Errors
    /// When the text is not a profile; with the line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text).map_err(|error| ProfileError::Syntax {
            path: path.to_owned(),
            line: line_of(text, error.span()),
            message: error.message().to_owned(),
        })?;
        if profile.spans.is_empty() && profile.leaf == LeafRules::default() {
            return Err(ProfileError::Empty { path: path.to_owned() });
        }
        Ok(profile)
    }
}

fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let at = span.map_or(0, |span| span.start).min(text.len());
    text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_profile_names_the_seeds_spans() {
        let profile = Profile::orchestrate();
        let names: Vec<_> = profile.spans.iter().filter_map(|s| s.name.as_deref()).collect();
        assert_eq!(names, ["agent_execution", "tool_call"]);
        assert_eq!(profile.leaf.sqlite.unwrap().name, "database_query");
        assert_eq!(profile.leaf.tls.unwrap().name, "api_call");
        assert_eq!(profile.leaf.http.unwrap().name, "http_request");
        assert_eq!(profile.leaf.process.unwrap().name, "process");
    }

    #[test]
    fn an_error_names_the_line() {
        let text = "name = \"x\"\n\n[[span]]\nfunktion = \"a::b\"\n";
        let error = Profile::parse(text, Path::new("p.toml")).unwrap_err();
        let ProfileError::Syntax { line, ref message, .. } = error else { panic!("{error}") };
        assert!((3..=4).contains(&line), "{line}");
        assert!(message.contains("funktion") || message.contains("function"), "{message}");
    }

    #[test]
    fn an_empty_profile_is_refused() {
        let error = Profile::parse("name = \"x\"", Path::new("p.toml")).unwrap_err();
        assert!(matches!(error, ProfileError::Empty { .. }));
    }
}
