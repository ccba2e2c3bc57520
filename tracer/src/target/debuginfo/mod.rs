//! What DWARF says of coroutines: where their captured arguments lie, by name, and the fields of
//! those. Read lazily: only the units that hold the functions in question are looked into.
//!
//! Every byte is hostile: everything is bounded, by a budget of entries and of time.

mod link;
mod path;
mod sections;
mod sources;
#[cfg(test)]
mod tests;
mod types;
mod units;

use std::path::Path;

use memmap2::Mmap;

use super::{Coroutine, FoundArgument, StateByte, WantedArgument};
use sections::Sections;
pub use sources::{DebugInfoNote, DebugInfoOptions, DebugInfoSource, sources};
pub(super) use types::{At, Dwarf, Malformed, Node};
use units::{Env, Units};

/// Debuginfo in one ELF file: the program itself, or what was stripped off it.
#[derive(Debug)]
pub struct DebugInfo {
    data: Source,
    sections: Sections,
}

enum Source {
    Own(Mmap),
    Shared(std::sync::Arc<Mmap>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

impl std::ops::Deref for Source {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(data) => data,
            Self::Shared(data) => data,
        }
    }
}

impl DebugInfo {
    /// The debuginfo in the mapped file `data`.
    ///
    /// # Errors
    /// There is none that can be read: why, for a person.
    pub(super) fn of_mapping(data: std::sync::Arc<Mmap>) -> Result<Self, String> {
        let sections = Sections::find(&data)?;
        Ok(Self { data: Source::Shared(data), sections })
    }

    /// The debuginfo in a file of its own.
    ///
    /// # Errors
    /// There is none that can be read: why, for a person.
    pub fn open(path: &Path) -> Result<Self, String> {
        let open = || {
            let file = std::fs::File::open(path)?;
            if !file.metadata()?.is_file() {
                return Err(std::io::Error::other("not a regular file"));
            }
            // SAFETY: read-only and private to us; every access is bounds-checked against the
            // mapping's length, and nothing relies on a byte that was read before.
            unsafe { Mmap::map(&file) }
        };
        let data = open().map_err(|error| error.to_string())?;
        let sections = Sections::find(&data)?;
        Ok(Self { data: Source::Own(data), sections })
    }

    /// Reads it on behalf of a few functions.
    pub fn reader(&self) -> Reader<'_> {
        let dwarf = Dwarf::new(&self.data, &self.sections);
        Reader { units: Units::new(dwarf) }
    }
}

/// Debuginfo being read.
pub struct Reader<'data> {
    units: Units<'data>,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader<'_> {
    /// Where the values are that are wanted of a coroutine whose poll function begins at one of
    /// `addrs`, by DWARF's account. A coroutine whose state DWARF places elsewhere than the code
    /// does is another one: nothing is said of it.
    pub fn find(
        &self,
        coroutine: &Coroutine,
        addrs: &[u64],
        wanted: &[WantedArgument<'_>],
    ) -> Vec<Result<FoundArgument, String>> {
        let described = self.described(addrs, coroutine.state);
        wanted
            .iter()
            .map(|wanted| {
                let env = described.clone()?;
                path::find(&self.units, env, wanted.path).map_err(|why| why.to_string())
            })
            .collect()
    }

    /// The coroutine's type.
    fn described(&self, addrs: &[u64], state: StateByte) -> Result<At, String> {
        let mut why = "the debuginfo does not describe the function".to_owned();
        for addr in addrs {
            match self.units.coroutine(*addr) {
                Ok(Some(Env { at, state: (offset, width) })) => {
                    if (offset, width) != (u64::from(state.offset), u64::from(state.width)) {
                        return Err(format!(
                            "the debuginfo describes another build: it has the state at offset \
                             {offset}, the code at {}",
                            state.offset
                        ));
                    }
                    return Ok(at);
                }
                Ok(None) => {}
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }
}
