//! Where the debuginfo of a program may be, beside in itself: a file that was stripped off it, or
//! another build of the same source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::{Analysis, Image, SelfRegister};
use super::{DebugInfo, link};

/// Files that are looked at in one folder at most.
const MAX_FILES: usize = 64;

/// Where to look for debuginfo that is not in the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugInfoOptions {
    /// Files or folders that a user named.
    pub paths: Vec<PathBuf>,
}

/// What became of one place where debuginfo may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugInfoNote {
    /// The file.
    pub path: PathBuf,
    /// It is used.
    pub used: bool,
    /// How, or why not.
    pub note: String,
}

/// Debuginfo of a program, and how its addresses relate to the program's.
#[derive(Debug)]
pub struct DebugInfoSource {
    /// It.
    pub info: DebugInfo,
    /// Another build of the same source: functions are matched by name. `None`: the same build.
    pub other: Option<Image>,
    /// The file; `None`: the program itself.
    pub path: Option<PathBuf>,
}

/// Every source that fits, best first, and what became of the places looked at.
///
/// `root` is the target's root directory, as `/proc/PID/root`.
pub fn sources(
    analysis: &Analysis<'_>,
    root: &Path,
    options: &DebugInfoOptions,
) -> (Vec<DebugInfoSource>, Vec<DebugInfoNote>) {
    let image = analysis.image();
    let mut search = Search { analysis, states: None, found: Vec::new(), notes: Vec::new() };
    if let Ok(info) = image.debuginfo() {
        search.found.push(DebugInfoSource { info, other: None, path: None });
    }
    for path in &options.paths {
        search.named(path);
    }
    for path in system_places(image, root) {
        if path.is_file() {
            search.file(&path, false);
        }
    }
    (search.found, search.notes)
}

struct Search<'a, 'image> {
    analysis: &'a Analysis<'image>,
    states: Option<States>,
    found: Vec<DebugInfoSource>,
    notes: Vec<DebugInfoNote>,
}

impl Search<'_, '_> {
    fn note(&mut self, path: &Path, used: bool, note: impl Into<String>) {
        self.notes.push(DebugInfoNote { path: path.to_owned(), used, note: note.into() });
    }

    /// A file or folder that a user named.
    fn named(&mut self, path: &Path) {
        if !path.is_dir() {
            self.file(path, true);
            return;
        }
        let image = self.analysis.image();
        let before = self.found.len();
        let mut places: Vec<_> = by_build_id(image, path).into_iter().collect();
        if let Some(name) = image.info().name.file_name() {
            places.push(path.join(name));
            let mut debug = name.to_owned();
            debug.push(".debug");
            places.push(path.join(debug));
        }
        places.extend(link::name(image).map(|name| path.join(name)));
        places.dedup();
        for place in places.iter().take(MAX_FILES) {
            if place.is_file() {
                self.file(place, true);
            }
        }
        if self.found.len() == before && !self.notes.iter().any(|n| n.path.starts_with(path)) {
            self.note(path, false, "nothing in it is named after the program or its build-id");
        }
    }

    /// A file that may be debuginfo of the program. `any_build`: another build of the same source
    /// will do.
    fn file(&mut self, path: &Path, any_build: bool) {
        let other = match Image::open(path, path) {
            Ok(other) => other,
            Err(error) => return self.note(path, false, error.to_string()),
        };
        let info = match other.debuginfo() {
            Ok(info) => info,
            Err(why) => return self.note(path, false, why),
        };
        let image = self.analysis.image();
        let own = image.info().build_id.as_ref();
        let same_build = match (own, other.info().build_id.as_ref()) {
            (Some(own), Some(other)) => own == other,
            // Without one, the checksum in the program must vouch.
            (None, _) => link::vouches(image, path),
            _ => false,
        };
        let path = path.to_owned();
        if same_build {
            self.note(&path, true, "the same build");
            self.found.push(DebugInfoSource { info, other: None, path: Some(path) });
            return;
        }
        if !any_build {
            return self.note(&path, false, "another build: the build-ids differ");
        }
        let states = self.states.get_or_insert_with(|| states(self.analysis));
        match compare(states, &self::states(&Analysis::new(&other))) {
            Ok(common) => {
                let note = format!(
                    "another build of the same source: the states of all {common} coroutines agree"
                );
                self.note(&path, true, note);
                self.found.push(DebugInfoSource { info, other: Some(other), path: Some(path) });
            }
            Err(why) => self.note(&path, false, why),
        }
    }
}

/// Where the state of each poll function is, by name.
type States = BTreeMap<Arc<str>, BTreeSet<(u32, u8, bool)>>;

fn states(analysis: &Analysis<'_>) -> States {
    let mut states = States::new();
    for (name, state) in analysis.states() {
        let rdi = state.self_register == SelfRegister::Rdi;
        states.entry(name).or_default().insert((state.offset, state.width, rdi));
    }
    states
}

/// How many coroutines two builds have in common, if the layouts of one are those of the other.
fn compare(own: &States, other: &States) -> Result<usize, String> {
    let common: Vec<_> = own.keys().filter(|name| other.contains_key(*name)).collect();
    let differ = common.iter().filter(|name| own[**name] != other[**name]);
    let differ: Vec<_> = differ.collect();
    if let Some(first) = differ.first() {
        return Err(format!(
            "not a build of the same source: {} of {} coroutines have their state elsewhere, such \
             as `{first}`; build the same source with the same compiler and \
             CARGO_PROFILE_RELEASE_DEBUG=2",
            differ.len(),
            common.len()
        ));
    }
    if common.is_empty() || common.len() < own.len() / 2 {
        return Err(format!(
            "not a build of the same source: only {} of {} coroutines are in both",
            common.len(),
            own.len()
        ));
    }
    Ok(common.len())
}

/// Where distributions put debuginfo (GDB's manual, "Debugging Information in Separate Files").
fn system_places(image: &Image, root: &Path) -> Vec<PathBuf> {
    let mut places: Vec<_> = by_build_id(image, &root.join("usr/lib/debug")).into_iter().collect();
    if let Some(name) = link::name(image)
        && let Some(folder) = image.info().name.parent()
    {
        let folder = folder.strip_prefix("/").unwrap_or(folder);
        places.push(root.join(folder).join(&name));
        places.push(root.join(folder).join(".debug").join(&name));
        places.push(root.join("usr/lib/debug").join(folder).join(&name));
    }
    places
}

fn by_build_id(image: &Image, folder: &Path) -> Option<PathBuf> {
    let id = image.info().build_id.as_ref()?;
    let (head, tail) = id.split_at_checked(2)?;
    Some(folder.join(".build-id").join(head).join(format!("{tail}.debug")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(of: &[(&str, u32)]) -> States {
        of.iter().map(|(name, at)| ((*name).into(), [(*at, 1, true)].into())).collect()
    }

    #[test]
    fn only_builds_whose_states_agree_are_of_one_source() {
        let own = states(&[("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(compare(&own, &states(&[("a", 1), ("b", 2), ("d", 9)])), Ok(2));
        let why = compare(&own, &states(&[("a", 1), ("b", 5), ("c", 3)])).unwrap_err();
        assert!(why.contains("1 of 3") && why.contains("`b`"), "{why}");
        assert!(compare(&own, &states(&[("x", 1)])).is_err());
        assert!(compare(&states(&[]), &states(&[])).is_err());
    }
}
