//! Where the sections of DWARF lie in a file.

use std::ops::Range;

use object::elf;
use object::read::elf::{FileHeader as _, SectionHeader as _};

use super::super::image::{Header, LE};

/// More sections than a linked program has.
const MAX_SECTIONS: usize = 4096;

/// The DWARF sections of a file, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Sections {
    found: Vec<(gimli::SectionId, Range<usize>)>,
}

impl Sections {
    pub(super) fn find(data: &[u8]) -> Result<Self, String> {
        let malformed = |error: object::read::Error| format!("malformed ELF file: {error}");
        let header = Header::parse(data).map_err(malformed)?;
        let table = header.sections(LE, data).map_err(malformed)?;
        let mut found = Vec::new();
        let mut compressed = false;
        for section in table.iter().take(MAX_SECTIONS) {
            let name = table.section_name(LE, section).unwrap_or_default();
            let id = IDS.iter().find(|id| id.name().as_bytes() == name);
            compressed |= name.starts_with(b".zdebug_");
            let Some(id) = id.filter(|_| section.sh_type(LE) != elf::SHT_NOBITS) else { continue };
            if section.sh_flags(LE).0 & elf::SHF_COMPRESSED.0 != 0 {
                compressed = true;
                continue;
            }
            let range = || {
                let start = usize::try_from(section.sh_offset(LE)).ok()?;
                let end = start.checked_add(usize::try_from(section.sh_size(LE)).ok()?)?;
                (end <= data.len()).then_some(start..end)
            };
            if let Some(range) = range() {
                found.push((*id, range));
            }
        }
        let has = |id| found.iter().any(|(other, range)| *other == id && !range.is_empty());
        if has(gimli::SectionId::DebugInfo) && has(gimli::SectionId::DebugAbbrev) {
            Ok(Self { found })
        } else if compressed {
            Err("its debuginfo is compressed; decompress it (`objcopy \
                 --decompress-debug-sections`) and name the file with --debuginfo"
                .to_owned())
        } else {
            Err("no debuginfo".to_owned())
        }
    }

    /// Made up.
    #[cfg(test)]
    pub(super) fn of(found: impl IntoIterator<Item = (gimli::SectionId, Range<usize>)>) -> Self {
        Self { found: found.into_iter().collect() }
    }

    /// Where a section is.
    #[cfg(test)]
    pub(super) fn range(&self, id: gimli::SectionId) -> Option<Range<usize>> {
        self.found.iter().find(|(other, _)| *other == id).map(|(_, range)| range.clone())
    }

    /// The bytes of a section; none where it is missing.
    pub(super) fn bytes<'data>(&self, data: &'data [u8], id: gimli::SectionId) -> &'data [u8] {
        let found = self.found.iter().find(|(other, _)| *other == id);
        found.and_then(|(_, range)| data.get(range.clone())).unwrap_or_default()
    }
}

const IDS: [gimli::SectionId; 11] = [
    gimli::SectionId::DebugInfo,
    gimli::SectionId::DebugAbbrev,
    gimli::SectionId::DebugStr,
    gimli::SectionId::DebugLine,
    gimli::SectionId::DebugLineStr,
    gimli::SectionId::DebugStrOffsets,
    gimli::SectionId::DebugAddr,
    gimli::SectionId::DebugRanges,
    gimli::SectionId::DebugRngLists,
    gimli::SectionId::DebugAranges,
    gimli::SectionId::DebugTypes,
];
