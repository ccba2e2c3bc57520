//! Where the values are that a profile wants of the functions that were found.

use std::cell::OnceCell;

use crate::plan::{ArgumentFinding, AttributeRule, Evidence, Finding, Profile};
use crate::target::{Analysis, DebugInfo};

/// For each finding, what was found of the attributes that its rule asks for.
pub(super) fn find(
    analysis: &Analysis<'_>,
    profile: &Profile,
    findings: &[(usize, Finding)],
) -> Vec<Vec<ArgumentFinding>> {
    // What the program itself says of its types.
    let described = analysis.image().debuginfo();
    let reader = described.as_ref().ok().map(DebugInfo::reader);
    let of = |(rule, finding): &(usize, Finding)| {
        let Some(rule) = profile.spans.get(*rule).filter(|rule| !rule.attributes.is_empty()) else {
            return Vec::new();
        };
        let Finding::Coroutine(coroutine) = finding else {
            return Vec::new();
        };
        let wanted: Vec<_> = rule.attributes.values().map(AttributeRule::wanted).collect();
        let addrs: Vec<_> = coroutine.function.copies.iter().map(|(addr, _)| *addr).collect();
        let named = match &reader {
            Some(reader) => reader.find(coroutine, &addrs, &wanted),
            None => vec![Err(described.as_ref().err().cloned().unwrap_or_default()); wanted.len()],
        };
        let code = OnceCell::new();
        let found = wanted.iter().zip(named).map(|(wanted, named)| match named {
            Ok(found) => Ok((found, Evidence::Debuginfo)),
            Err(why) => {
                let code = code.get_or_init(|| analysis.undescribed(coroutine));
                let found = code.find(wanted).map(|mut found| {
                    if reader.is_some() {
                        // Else nobody asks.
                        found.r#type.push_str(&format!(" ({why})"));
                    }
                    (found, Evidence::Code)
                });
                found.map_err(|no_code| format!("{why}; {no_code}"))
            }
        });
        let attributes = rule
            .attributes
            .keys()
            .zip(found)
            .map(|(key, found)| ArgumentFinding { key: key.clone(), found });
        attributes.collect()
    };
    findings.iter().map(of).collect()
}
