//! Patterns on demangled function names.

use std::fmt;

use serde::Deserialize;
use thiserror::Error;

/// A pattern on a function's demangled name.
///
/// `*` stands for any characters. A pattern must match from the beginning of the name or of a
/// path segment in it, so `ToolExecutor::execute` finds
/// `orchestrate_claude::tools::ToolExecutor::execute`. Written without `{{closure}}`, it means the
/// function itself: its async body (`…::{{closure}}`), or the function if it is not async, but
/// no closure inside. Written with, it means exactly that closure. With a `*`, only async
/// functions are meant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern {
    text: String,
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Nothing in it.
    #[error("an empty function pattern matches nothing; write a path such as `my_crate::work`")]
    Empty,
    /// Longer than any name.
    #[error("a function pattern of {0} characters; at most {MAX_LEN} are allowed")]
    TooLong(usize),
}

const MAX_LEN: usize = 1024;

/// What the compiler calls a closure, and the body of an async function.
pub(crate) const CLOSURE: &str = "::{{closure}}";

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        if text.trim().is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(PatternError::TooLong(text.len()));
        }
        Ok(Self { text })
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::try_from(text.to_owned())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// Whether the function of this demangled name, without hash, is meant.
    pub fn matches(&self, name: &str) -> bool {
        if self.text.contains("{{closure}}") {
            return self.matches_path(name);
        }
        let own = name.strip_suffix(CLOSURE).unwrap_or(name);
        !own.ends_with(CLOSURE) && self.matches_path(own)
    }

    /// Whether a function that is not async is meant too: only one that is named without `*`, since
    /// plain functions are many and may be hot; and a closure only where it is written.
    pub fn means_plain(&self, name: &str) -> bool {
        !self.text.contains('*') && (self.text.contains("{{closure}}") || !name.ends_with(CLOSURE))
    }

    fn matches_path(&self, path: &str) -> bool {
        if glob(&self.text, path) {
            return true;
        }
        // From any `::`, and from the type in `<Type as Trait>::method` on.
        path.match_indices(['<', ':', ' ', '&']).any(|(at, _)| glob(&self.text, &path[at + 1..]))
    }
}

/// Greedy matching with one point of return: linear in practice, quadratic at worst.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            back = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star, from)) = back {
            back = Some((star, from + 1));
            p = star + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(name)
    }

    #[test]
    fn a_plain_path_means_the_function_and_not_its_closures() {
        assert!(matches("Tool::execute", "a::tools::Tool::execute::{{closure}}"));
        assert!(matches("a::tools::Tool::execute", "a::tools::Tool::execute"));
        assert!(!matches("Tool::execute", "a::Tool::execute::{{closure}}::{{closure}}"));
        assert!(!matches("Tool::execute", "a::MyTool::execute::{{closure}}"));
    }

    #[test]
    fn a_written_closure_is_meant_exactly() {
        let pattern = "Loop::run::{{closure}}::{{closure}}";
        assert!(matches(pattern, "a::Loop::run::{{closure}}::{{closure}}"));
        assert!(!matches(pattern, "a::Loop::run::{{closure}}"));
    }

    #[test]
    fn a_method_of_a_trait_is_found_by_its_type() {
        assert!(matches(
            "bodies::*",
            "<truth::bodies::Store as truth::Service>::handle::{{closure}}"
        ));
        assert!(matches("truth::bodies::*", "<truth::bodies::Store as x::Service>::handle"));
    }

    #[test]
    fn stars() {
        assert!(matches("bodies::*", "truth::bodies::calls::a::{{closure}}"));
        assert!(matches("*", "anything::at::all"));
        assert!(matches("a::*::z", "a::b::c::z"));
        assert!(!matches("a::*::z", "a::b::c"));
        assert!(matches("*Error*", "x::MyErrorKind::f"));
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let pattern = "*a".repeat(200);
        assert!(!matches(&pattern, &"a".repeat(100)));
    }

    #[test]
    fn nothing_is_refused() {
        assert_eq!("".parse::<Pattern>(), Err(PatternError::Empty));
        assert_eq!("x".repeat(2000).parse::<Pattern>(), Err(PatternError::TooLong(2000)));
    }
}
