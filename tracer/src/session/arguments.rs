//! Where the values are that a profile wants of the functions that were found.

use std::cell::OnceCell;
use std::path::Path;

use crate::plan::{ArgumentFinding, AttributeRule, Evidence, Finding, Profile};
use crate::target::{
    Analysis, Coroutine, DebugInfoNote, DebugInfoOptions, DebugInfoReader, FoundArgument,
    WantedArgument, debuginfo_sources,
};

/// For each finding, what was found of the attributes that its rule asks for; and what became of
/// the places where debuginfo may be. `root`: the root directory as the target sees it.
pub(super) fn find(
    analysis: &Analysis<'_>,
    profile: &Profile,
    findings: &[(usize, Finding)],
    root: &Path,
    options: &DebugInfoOptions,
) -> (Vec<Vec<ArgumentFinding>>, Vec<DebugInfoNote>) {
    if profile.spans.iter().all(|rule| rule.attributes.is_empty()) {
        return (Vec::new(), Vec::new());
    }
    let (sources, notes) = debuginfo_sources(analysis, root, options);
    let described: Vec<_> = sources
        .iter()
        .map(|source| Described {
            reader: source.info.reader(),
            other: source.other.as_ref().map(Analysis::new),
        })
        .collect();
    let of = |(rule, finding): &(usize, Finding)| {
        let Some(rule) = profile.spans.get(*rule).filter(|rule| !rule.attributes.is_empty()) else {
            return Vec::new();
        };
        let Finding::Coroutine(coroutine) = finding else {
            return Vec::new();
        };
        let wanted: Vec<_> = rule.attributes.values().map(AttributeRule::wanted).collect();
        let mut named = vec![Err("no debuginfo".to_owned()); wanted.len()];
        for source in &described {
            for (best, found) in named.iter_mut().zip(source.find(coroutine, &wanted)) {
                if best.is_err() {
                    *best = found;
                }
            }
            if named.iter().all(Result::is_ok) {
                break;
            }
        }
        let code = OnceCell::new();
        let found = wanted.iter().zip(named).map(|(wanted, named)| match named {
            Ok(found) => Ok((found, Evidence::Debuginfo)),
            Err(why) => {
                let code = code.get_or_init(|| analysis.undescribed(coroutine));
                let found = code.find(wanted).map(|found| (found, Evidence::Code));
                found.map_err(|no_code| format!("{why}; {no_code}"))
            }
        });
        let keyed = rule.attributes.keys().zip(found);
        keyed.map(|(key, found)| ArgumentFinding { key: key.clone(), found }).collect()
    };
    (findings.iter().map(of).collect(), notes)
}

/// One source of debuginfo.
struct Described<'a> {
    reader: DebugInfoReader<'a>,
    /// Another build, which it describes.
    other: Option<Analysis<'a>>,
}

impl Described<'_> {
    fn find(
        &self,
        coroutine: &Coroutine,
        wanted: &[WantedArgument<'_>],
    ) -> Vec<Result<FoundArgument, String>> {
        let copies = coroutine.function.copies.iter().map(|(addr, _)| *addr);
        let addrs: Vec<_> = match &self.other {
            None => copies.collect(),
            Some(other) => other.polls_like(&coroutine.function.name, coroutine.state),
        };
        if self.other.is_none() {
            return self.reader.find(coroutine, &addrs, wanted);
        }
        // Functions of one name may be instances of a generic one: what is said must be said of
        // all of them.
        let mut agreed: Vec<Result<FoundArgument, String>> =
            vec![Err("the other build has no such function".to_owned()); wanted.len()];
        for (index, addr) in addrs.iter().enumerate() {
            let found = self.reader.find(coroutine, &[*addr], wanted);
            for (agreed, found) in agreed.iter_mut().zip(found) {
                if index == 0 {
                    *agreed = found;
                } else if *agreed != found {
                    *agreed = Err("several functions of this name differ".to_owned());
                }
            }
        }
        agreed
    }
}
