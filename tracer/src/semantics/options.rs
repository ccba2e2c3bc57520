//! What spans may say about themselves.

use std::fmt;
use std::str::FromStr;

/// Text that is private without being a credential. Each kind has its own switch, off by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Private {
    /// What is said to a model, and what it says.
    Prompts,
    /// Arguments and results of tools, and command lines.
    Commands,
    /// Literals in SQL statements.
    SqlLiterals,
    /// Headers of HTTP requests and responses.
    Headers,
}

impl Private {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Prompts, Self::Commands, Self::SqlLiterals, Self::Headers];

    /// The word on the command line and in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prompts => "prompts",
            Self::Commands => "commands",
            Self::SqlLiterals => "sql-literals",
            Self::Headers => "headers",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Private {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("unknown kind '{word}'; there are {}", all.join(", "))
        })
    }
}

/// Which private text is let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captures(u8);

impl Captures {
    /// Whether this kind is let through.
    pub const fn has(self, kind: Private) -> bool {
        self.0 & kind.bit() != 0
    }

    /// The same and one kind more.
    #[must_use]
    pub const fn with(self, kind: Private) -> Self {
        Self(self.0 | kind.bit())
    }

    /// Everything but credentials.
    pub fn all() -> Self {
        Private::ALL.into_iter().collect()
    }
}

impl FromIterator<Private> for Captures {
    fn from_iter<I: IntoIterator<Item = Private>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::default(), Self::with)
    }
}

/// What spans may say about themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Private text that is let through; none by default.
    pub captures: Captures,
}
