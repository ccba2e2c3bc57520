//! Attributes that spans take from what their functions were given: as a profile asks for them,
//! and as they are fetched and read.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tracer_ebpf::access::{
    Fetch, MAX_FETCHES, MAX_PER_FUNCTION, MAX_STEPS, Op, Origin, Step, Take,
};
use tracer_ebpf::event::LongArgument;

use crate::target::{Access, AccessStep, FoundArgument, Place, Shape, WantedArgument};

/// `attributes` of a `[[span]]`: by key.
pub type AttributeRules = BTreeMap<AttributeKey, AttributeRule>;

/// An attribute's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct AttributeKey(String);

impl TryFrom<String> for AttributeKey {
    type Error = String;

    fn try_from(key: String) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if key.is_empty() || key.len() > MAX_KEY || !key.chars().all(plain) {
            return Err(format!(
                "`{key}` is no attribute key: 1 to {MAX_KEY} letters, digits, `_`, `.` and `-`"
            ));
        }
        Ok(Self(key))
    }
}

impl AttributeKey {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const MAX_KEY: usize = 128;
const MAX_SEGMENTS: usize = 8;
const MAX_PATH: usize = 256;

/// A captured argument by name, and the fields from it to the value: `agent.id`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ArgumentPath(Vec<String>);

impl TryFrom<String> for ArgumentPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let segments: Vec<_> = text.split('.').map(str::to_owned).collect();
        let plain = |segment: &String| {
            !segment.is_empty() && segment.chars().all(|c| c.is_alphanumeric() || c == '_')
        };
        if text.len() > MAX_PATH || segments.len() > MAX_SEGMENTS || !segments.iter().all(plain) {
            return Err(format!(
                "`{text}` is no path to a value: an argument's name, then field names, such as \
                 `agent.id` (at most {MAX_SEGMENTS} names)"
            ));
        }
        Ok(Self(segments))
    }
}

impl fmt::Display for ArgumentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// How a variant's name is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// As in the source: `StoryDeveloper`.
    #[default]
    Source,
    /// `story_developer`.
    Snake,
}

/// What text looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Like {
    /// A letter or `_`, then letters, digits, `_`, `-`, `.`; at most 64 of them.
    Identifier,
}

/// Where one attribute comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeRule {
    /// The value by name, where there is debuginfo.
    pub path: ArgumentPath,
    /// Its type, where there is none: `str`, `uuid::Uuid`, or the path of a fieldless enum.
    pub r#type: Option<String>,
    /// What its text must look like.
    pub like: Option<Like>,
    /// How a variant's name is written.
    pub case: Case,
    /// Further keys with the same value.
    pub also: Vec<AttributeKey>,
}

impl AttributeRule {
    /// The value that is wanted, in inspection's terms.
    pub fn wanted(&self) -> WantedArgument<'_> {
        WantedArgument { path: &self.path.0, r#type: self.r#type.as_deref() }
    }
}

/// A table, or the path alone.
impl<'de> Deserialize<'de> for AttributeRule {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            path: ArgumentPath,
            r#type: Option<String>,
            like: Option<Like>,
            #[serde(default)]
            case: Case,
            #[serde(default)]
            also: Vec<AttributeKey>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = AttributeRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a value, such as \"agent.id\", or a table with a `path`")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<AttributeRule, E> {
                let path = ArgumentPath::try_from(path.to_owned()).map_err(E::custom)?;
                let (r#type, like, case, also) = (None, None, Case::Source, Vec::new());
                Ok(AttributeRule { path, r#type, like, case, also })
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<AttributeRule, M::Error> {
                let table = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let Table { path, r#type, like, case, also } = table;
                Ok(AttributeRule { path, r#type, like, case, also })
            }
        }
        from.deserialize_any(Either)
    }
}

/// What says where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// DWARF.
    Debuginfo,
    /// What the machine code does with it. The value must look right, too.
    Code,
}

/// One way to one attribute of a function: what comes back from its fetch, and how it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeMeta {
    /// Which fetch of the function.
    pub slot: u8,
    /// Keys; the first is the attribute's own.
    pub keys: Vec<AttributeKey>,
    /// What the bytes mean.
    pub shape: Shape,
    /// What text must look like.
    pub like: Option<Like>,
    /// How variants are written.
    pub case: Case,
    /// How certain the place is.
    pub evidence: Evidence,
}

/// What inspection found of one attribute of one function.
#[derive(Clone, Debug)]
pub struct ArgumentFinding {
    /// Its key.
    pub key: AttributeKey,
    /// Where it is and what says so; or why it cannot be had.
    pub found: Result<(FoundArgument, Evidence), String>,
}

/// What of a function's attributes is available, for `inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeCoverage {
    /// Key.
    pub key: String,
    /// The path that the profile gives.
    pub path: String,
    /// Where it comes from; `None`: not to be had.
    pub evidence: Option<Evidence>,
    /// Its type, or why it is not available.
    pub detail: String,
}

/// The fetches of a whole plan, chained by function.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    pub(super) all: Vec<Fetch>,
}

impl Fetches {
    /// Adds what one function's spans want. Returns the first of its chain (0: none), how to read
    /// what comes back, and what is available.
    pub(super) fn add(
        &mut self,
        rules: &AttributeRules,
        findings: Vec<ArgumentFinding>,
    ) -> (u16, Vec<AttributeMeta>, Vec<AttributeCoverage>) {
        let (mut first, mut metas, mut coverage) = (0, Vec::new(), Vec::new());
        for ArgumentFinding { key, found } in findings {
            let Some(rule) = rules.get(&key) else { continue };
            let mut report = |evidence, detail| {
                let (key, path) = (key.as_str().to_owned(), rule.path.to_string());
                coverage.push(AttributeCoverage { key, path, evidence, detail });
            };
            let (found, evidence) = match found {
                Ok(found) => found,
                Err(why) => {
                    report(None, why);
                    continue;
                }
            };
            let fetches: Option<Vec<Fetch>> = found.accesses.iter().map(fetch).collect();
            let Some(fetches) = fetches else {
                report(None, format!("more than {MAX_STEPS} steps lead to it"));
                continue;
            };
            if metas.len() + fetches.len() > MAX_PER_FUNCTION
                || self.all.len() + fetches.len() >= MAX_FETCHES as usize
            {
                report(None, "more values are wanted than can be fetched".to_owned());
                continue;
            }
            for (access, mut fetch) in found.accesses.into_iter().zip(fetches) {
                let slot = metas.len() as u8;
                fetch.slot = slot;
                fetch.next = first;
                self.all.push(fetch);
                first = self.all.len() as u16;
                let keys = [&key].into_iter().chain(&rule.also).cloned().collect();
                let AttributeRule { like, case, .. } = *rule;
                metas.push(AttributeMeta { slot, keys, shape: access.shape, like, case, evidence });
            }
            report(Some(evidence), found.r#type);
        }
        (first, metas, coverage)
    }
}

/// The access as the programs carry it out; `None` if it has too many steps.
fn fetch(access: &Access) -> Option<Fetch> {
    let mut steps = [Step::default(); MAX_STEPS];
    if access.steps.len() > MAX_STEPS {
        return None;
    }
    for (step, access) in steps.iter_mut().zip(&access.steps) {
        *step = match *access {
            AccessStep::Deref(offset) => Step { op: Op::Deref as u8, offset, ..Step::default() },
            AccessStep::Require { offset, width, low, high, inside } => {
                let op = if inside { Op::Within } else { Op::Outside } as u8;
                Step { op, width, reserved: 0, offset, low, high }
            }
        };
    }
    let most = LongArgument::CAPACITY as u16;
    let (take, offset, len_offset, most) = match access.place {
        Place::Inline { offset, len } => (Take::Bytes, offset, 0, len.min(most)),
        Place::Slice { offset, len_offset } => (Take::Slice, offset, len_offset, most),
    };
    Some(Fetch {
        steps,
        offset,
        len_offset,
        most,
        next: 0,
        steps_len: access.steps.len() as u8,
        take: take as u8,
        from: Origin::Captured as u8,
        slot: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<AttributeRules, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn a_path_alone_or_a_table() {
        let rules =
            rules("a = \"x.y\"\nb = { path = \"z\", type = \"str\", like = \"identifier\" }");
        let rules = rules.unwrap();
        let rule = |key: &str| &rules[&AttributeKey(key.to_owned())];
        assert_eq!(rule("a").path.to_string(), "x.y");
        assert_eq!(rule("b").like, Some(Like::Identifier));
        assert_eq!(rule("b").wanted().r#type, Some("str"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, says, at) in [
            ("a = \"x\"\nb = \"y..z\"\n", "y..z", 1),
            ("a = { path = \"x\", liek = \"identifier\" }", "liek", 0),
            ("a = 5", "path of a value", 0),
            ("\n\n\"a b\" = \"x\"", "a b", 2),
            ("a = { path = \"x\", case = \"camel\" }", "camel", 0),
        ] {
            let error = rules(text).unwrap_err();
            assert!(error.message().contains(says), "{error}");
            let span = error.span().unwrap();
            let line = text[..span.start].matches('\n').count();
            assert_eq!(line, at, "{text}: {error}");
        }
    }

    #[test]
    fn fetches_are_chained_and_bounded() {
        let rules = rules("a = \"x\"\nb = \"y\"").unwrap();
        let access = Access {
            steps: vec![AccessStep::Deref(16)],
            place: Place::Inline { offset: 4, len: 1 },
            shape: Shape::Unsigned,
        };
        let found = |accesses: Vec<_>| {
            Ok((FoundArgument { accesses, r#type: "u8".to_owned() }, Evidence::Debuginfo))
        };
        let finding = |key: &str, found| ArgumentFinding { key: AttributeKey(key.into()), found };
        let mut fetches = Fetches::default();
        let (first, metas, coverage) = fetches.add(
            &rules,
            vec![
                finding("a", found(vec![access.clone(), access.clone()])),
                finding("b", Err("no".to_owned())),
            ],
        );
        assert_eq!((first, metas.len()), (2, 2));
        assert_eq!(fetches.all[1].next, 1);
        assert_eq!(fetches.all[0].next, 0);
        assert_eq!((fetches.all[1].slot, metas[1].slot), (1, 1));
        assert_eq!(coverage[1].evidence, None);
        let many = vec![access; MAX_PER_FUNCTION + 1];
        let (first, metas, coverage) = fetches.add(&rules, vec![finding("a", found(many))]);
        assert_eq!((first, metas.len()), (0, 0));
        assert!(coverage[0].detail.contains("more values"));
    }
}
