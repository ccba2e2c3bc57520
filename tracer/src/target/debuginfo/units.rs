//! Which unit describes the function at an address, and which coroutine that function polls.

use super::{At, Dwarf, Malformed, Node};

/// Types between a poll function's parameter and the coroutine: `Pin`, `&mut`.
const MAX_WRAPPERS: usize = 8;

/// A coroutine's type.
#[derive(Clone, Copy, Debug)]
pub(in crate::target) struct Env {
    pub(super) at: At,
    /// Offset and width of its state.
    pub(super) state: (u64, u64),
}

/// The units of a file.
pub(in crate::target) struct Units<'data> {
    pub(super) dwarf: Dwarf<'data>,
}

impl<'data> Units<'data> {
    pub(super) fn new(dwarf: Dwarf<'data>) -> Self {
        Self { dwarf }
    }

    /// The type of the coroutine that the function at `addr` polls, and where it has its state:
    /// offset and width.
    pub(super) fn coroutine(&self, addr: u64) -> Result<Option<Env>, Malformed> {
        let Some(unit) = self.unit_of(addr)? else { return Ok(None) };
        let Some(function) = self.function(unit, addr)? else { return Ok(None) };
        let mut own = None;
        self.dwarf.each_child(function, |child| {
            own = own.or(Some(child));
            false
        })?;
        let Some(own) = own.map(|own| self.dwarf.node(own)).transpose()? else { return Ok(None) };
        if own.tag != gimli::DW_TAG_formal_parameter {
            return Ok(None);
        }
        let Some(mut at) = own.r#type else { return Ok(None) };
        for _ in 0..MAX_WRAPPERS {
            let node = self.dwarf.node(at)?;
            if let Some(variants) = self.variants(&node)? {
                let state = variants.discriminant;
                return Ok(state
                    .filter(|_| node.name.contains("_env#"))
                    .map(|state| Env { at, state }));
            }
            let next = match node.tag {
                gimli::DW_TAG_pointer_type => node.r#type,
                gimli::DW_TAG_structure_type => self.only_member(&node)?.and_then(|(_, next)| next),
                _ => None,
            };
            let Some(next) = next else { return Ok(None) };
            at = next;
        }
        Ok(None)
    }

    /// The unit that holds the code at `addr`.
    fn unit_of(&self, addr: u64) -> Result<Option<usize>, Malformed> {
        if let Some(unit) = self.by_aranges(addr)? {
            return Ok(Some(unit));
        }
        // No index, or one that does not know: the units' own ranges.
        let mut units = self.dwarf.sections.units();
        while let Some(header) = units.next()? {
            let Some(start) = header.debug_info_offset() else { continue };
            let unit = self.dwarf.unit(start.0)?;
            let mut ranges = self.dwarf.sections.unit_ranges(&unit)?;
            while let Some(range) = ranges.next()? {
                self.dwarf.spend(1)?;
                if range.begin <= addr && addr < range.end {
                    return Ok(Some(start.0));
                }
            }
        }
        Ok(None)
    }

    fn by_aranges(&self, addr: u64) -> Result<Option<usize>, Malformed> {
        let mut headers = self.dwarf.aranges.headers();
        while let Some(header) = headers.next()? {
            let mut entries = header.entries();
            while let Some(entry) = entries.next()? {
                self.dwarf.spend(1)?;
                let range = entry.range();
                if range.begin <= addr && addr < range.end {
                    return Ok(Some(header.debug_info_offset().0));
                }
            }
        }
        Ok(None)
    }

    /// The function of this unit that begins at `addr`.
    fn function(&self, unit_at: usize, addr: u64) -> Result<Option<At>, Malformed> {
        let unit = self.dwarf.unit(unit_at)?;
        let mut entries = unit.entries_raw(None)?;
        while !entries.is_empty() {
            self.dwarf.spend(1)?;
            let offset = entries.next_offset();
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            if abbreviation.tag() != gimli::DW_TAG_subprogram {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            for specification in abbreviation.attributes() {
                let attribute = entries.read_attribute(*specification)?;
                if attribute.name() == gimli::DW_AT_low_pc {
                    let low = self.dwarf.sections.attr_address(&unit, attribute.value())?;
                    if low == Some(addr) {
                        return Ok(Some(At { unit: unit_at, offset }));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The member of a struct that takes all its room: offset and type.
    pub(super) fn only_member(&self, node: &Node) -> Result<Option<(u64, Option<At>)>, Malformed> {
        let mut only = None;
        for member in self.members(node)? {
            let size = match member.r#type {
                Some(r#type) => self.dwarf.node(r#type)?,
                None => continue,
            };
            if size.byte_size == Some(0) {
                continue;
            }
            if only.is_some() {
                return Ok(None);
            }
            only = Some((member.location.unwrap_or(0), member.r#type));
        }
        Ok(only)
    }

    /// The members of a struct.
    pub(super) fn members(&self, node: &Node) -> Result<Vec<Node>, Malformed> {
        let mut members = Vec::new();
        for child in self.dwarf.children(node.at)? {
            let child = self.dwarf.node(child)?;
            if child.tag == gimli::DW_TAG_member {
                members.push(child);
            }
        }
        Ok(members)
    }

    /// The variants of an enum or coroutine; `None` if it is neither.
    pub(super) fn variants(&self, node: &Node) -> Result<Option<Variants>, Malformed> {
        if node.tag != gimli::DW_TAG_structure_type {
            return Ok(None);
        }
        let mut part = None;
        self.dwarf.each_child(node.at, |child| {
            part = part.or(Some(child));
            // It is the first, if there is one.
            false
        })?;
        let Some(part) = part.map(|part| self.dwarf.node(part)).transpose()? else {
            return Ok(None);
        };
        if part.tag != gimli::DW_TAG_variant_part {
            return Ok(None);
        }
        let discriminant = match part.discr.map(|at| self.dwarf.node(at)).transpose()? {
            None => None,
            Some(member) => {
                let r#type = member.r#type.map(|at| self.dwarf.node(at)).transpose()?;
                let width = r#type.and_then(|r#type| r#type.byte_size);
                width.map(|width| (member.location.unwrap_or(0), width))
            }
        };
        let mut all = Vec::new();
        for child in self.dwarf.children(part.at)? {
            let variant = self.dwarf.node(child)?;
            if variant.tag != gimli::DW_TAG_variant {
                continue;
            }
            let Some(member) = self.members(&variant)?.into_iter().next() else { continue };
            all.push(Variant { value: variant.discr_value, member });
        }
        Ok(Some(Variants { discriminant, all }))
    }
}

/// The variants of a type.
#[derive(Debug)]
pub(in crate::target) struct Variants {
    /// Offset and width of what tells them apart; `None` if there is but one.
    pub(super) discriminant: Option<(u64, u64)>,
    pub(super) all: Vec<Variant>,
}

/// One of them.
#[derive(Debug)]
pub(in crate::target) struct Variant {
    /// The discriminant that means it; `None`: every other one.
    pub(super) value: Option<u64>,
    /// Its name, and what it holds.
    pub(super) member: Node,
}
