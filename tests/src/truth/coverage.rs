//! What `orchestrate-trace inspect --json` says: which functions are probed, which are inlined.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::file::{Body, Truth};

/// Which bodies a tracer can see.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    probed: HashSet<String>,
    inlined: Vec<Inlined>,
}

/// A body that has no function of its own in some place.
#[derive(Clone, Debug, Deserialize)]
struct Inlined {
    file: String,
    line: u32,
    inside: String,
}

#[derive(Deserialize)]
struct Report {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    functions: Vec<Function>,
    #[serde(default)]
    inlined: Vec<Inlined>,
}

#[derive(Deserialize)]
struct Function {
    name: String,
}

impl Coverage {
    /// Reads what `inspect --json` printed.
    ///
    /// # Errors
    /// It is something else.
    pub fn read(json: &str) -> Result<Self> {
        let Report { entries } = serde_json::from_str(json).context("the output of inspect")?;
        let mut coverage = Self::default();
        for Entry { functions, inlined } in entries {
            coverage.probed.extend(functions.iter().map(|f| plain(&f.name).to_owned()));
            coverage.inlined.extend(inlined);
        }
        Ok(coverage)
    }

    /// Everything in `truth` is probed, nothing is inlined.
    pub fn of_all(truth: &Truth) -> Self {
        let probed = truth.header.bodies.iter().map(|body| body.function.clone()).collect();
        Self { probed, inlined: vec![] }
    }

    /// Without `function`.
    pub fn without(mut self, function: &str) -> Self {
        self.probed.remove(function);
        self
    }

    /// Whether the body's own function, if it has one, is probed.
    pub fn is_probed(&self, body: &Body) -> bool {
        self.probed.contains(&body.function)
    }

    /// By body number, the functions into which the body was inlined, as `inspect` names them. A
    /// `Location` is the body's opening brace, so it belongs to the last `async fn` above it.
    pub fn inlined_into(&self, truth: &Truth) -> HashMap<u32, HashSet<String>> {
        let mut found: HashMap<u32, HashSet<String>> = HashMap::new();
        for Inlined { file, line, inside } in &self.inlined {
            let above = truth.header.bodies.iter().filter(|body| {
                body.line <= *line && (body.file.ends_with(file) || file.ends_with(&body.file))
            });
            if let Some(body) = above.max_by_key(|body| body.line) {
                found.entry(body.id).or_default().insert(plain(inside).to_owned());
            }
        }
        found
    }
}

/// A function's path without the closures in it: `a::b::{{closure}}::{{closure}}` → `a::b`.
fn plain(name: &str) -> &str {
    let mut name = name;
    while let Some(rest) = name.strip_suffix("::{{closure}}") {
        name = rest;
    }
    name
}
