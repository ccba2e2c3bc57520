//! Programs execute few different statements often: each is read once.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::{Statement, analyse};

/// Statements remembered. Beyond, all are forgotten at once: a program that makes up its
/// statements gains nothing from a cleverer choice.
const MAX_STATEMENTS: usize = 1024;

/// What is known of statements, by their text and whether it was cut.
#[derive(Debug)]
pub(in crate::semantics) struct Cache {
    known: HashMap<(Box<[u8]>, bool), Statement, FixedState>,
    literals: bool,
}

impl Cache {
    /// `literals`: leave them in the texts.
    pub fn new(literals: bool) -> Self {
        Self { known: HashMap::default(), literals }
    }

    /// What the statement's text says.
    pub fn read(&mut self, text: &[u8], truncated: bool) -> Statement {
        let key = (Box::from(text), truncated);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        if self.known.len() >= MAX_STATEMENTS {
            self.known.clear();
        }
        let statement = analyse(text, truncated, self.literals);
        self.known.insert(key, statement.clone());
        statement
    }
}
