//! What the dynamic loader writes into the image: pointers into it, and slots of imports.

use std::collections::HashMap;

use object::elf;
use object::read::elf::{FileHeader as _, Rela as _, RelrIterator, SectionHeader as _, Sym as _};

use super::image::{Header, Image, LE};

/// A bound on relocations, against files that describe more of them than they hold.
const MAX_RELOCATIONS: usize = 1 << 23;

/// Relocations that matter here.
#[derive(Debug, Default)]
pub(super) struct Relocations {
    /// (place, target) of pointers into the image, ordered by place.
    pointers: Vec<(u64, u64)>,
    /// Name of the import that a slot receives.
    imports: HashMap<u64, Box<[u8]>>,
}

impl Relocations {
    pub(super) fn read(image: &Image) -> Self {
        let mut all = Self::default();
        // A section that cannot be read is one without relocations: what is lost by it is found
        // out where a pointer is needed.
        let _ = all.read_sections(image);
        all.pointers.sort_unstable();
        all.pointers.dedup_by_key(|(place, _)| *place);
        all
    }

    fn read_sections(&mut self, image: &Image) -> object::read::Result<()> {
        let data = image.data();
        let sections = Header::parse(data)?.sections(LE, data)?;
        let dynsym = sections.symbols(LE, data, elf::SHT_DYNSYM)?;
        for section in sections.iter() {
            if section.sh_flags(LE).0 & elf::SHF_ALLOC.0 == 0 {
                continue;
            }
            if let Some((relocations, _)) = section.rela(LE, data)? {
                for relocation in relocations {
                    let place = relocation.r_offset(LE);
                    let addend = relocation.r_addend(LE) as u64;
                    let kind = relocation.r_type(LE, false);
                    if self.pointers.len() >= MAX_RELOCATIONS {
                        return Ok(());
                    }
                    if kind == elf::R_X86_64_RELATIVE {
                        self.pointers.push((place, addend));
                        continue;
                    }
                    if ![elf::R_X86_64_64, elf::R_X86_64_GLOB_DAT, elf::R_X86_64_JUMP_SLOT]
                        .contains(&kind)
                    {
                        continue;
                    }
                    let Some(index) = relocation.symbol(LE, false) else { continue };
                    let Ok(symbol) = dynsym.symbol(index) else { continue };
                    if symbol.is_undefined(LE) {
                        if let Ok(name) = dynsym.symbol_name(LE, symbol) {
                            self.imports.insert(place, name.into());
                        }
                    } else {
                        self.pointers.push((place, symbol.st_value(LE).wrapping_add(addend)));
                    }
                }
            }
            if let Some(relocations) = section.relr(LE, data)? {
                self.read_relr(image, relocations);
            }
        }
        Ok(())
    }

    fn read_relr(&mut self, image: &Image, relocations: RelrIterator<'_, Header>) {
        for place in relocations {
            if self.pointers.len() >= MAX_RELOCATIONS {
                return;
            }
            // The addend stands at the place itself.
            if let Some(target) = image.u64_at(place) {
                self.pointers.push((place, target));
            }
        }
    }

    /// The address of this image that the loader writes to `place`.
    pub(super) fn pointer(&self, place: u64) -> Option<u64> {
        let at = self.pointers.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        Some(self.pointers[at].1)
    }

    /// Every pointer into the image: (place, target), ordered by place.
    pub(super) fn pointers(&self) -> &[(u64, u64)] {
        &self.pointers
    }

    /// Slots that imports are written to, with the imports' names.
    pub(super) fn imports(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.imports.iter().map(|(place, name)| (*place, &**name))
    }
}
