//! Where the values are that a profile wants of the functions that were found.

use crate::plan::{ArgumentFinding, Evidence, Finding, Profile};
use crate::target::Analysis;

/// For each finding, what was found of the attributes that its rule asks for.
pub(super) fn find(
    analysis: &Analysis<'_>,
    profile: &Profile,
    findings: &[(usize, Finding)],
) -> Vec<Vec<ArgumentFinding>> {
    let of = |(rule, finding): &(usize, Finding)| {
        let Some(rule) = profile.spans.get(*rule).filter(|rule| !rule.attributes.is_empty()) else {
            return Vec::new();
        };
        let Finding::Coroutine(coroutine) = finding else {
            return Vec::new();
        };
        let code = analysis.undescribed(coroutine);
        let attributes = rule.attributes.iter().map(|(key, rule)| {
            let found = code.find(&rule.wanted()).map(|found| (found, Evidence::Code));
            ArgumentFinding { key: key.clone(), found }
        });
        attributes.collect()
    };
    findings.iter().map(of).collect()
}
