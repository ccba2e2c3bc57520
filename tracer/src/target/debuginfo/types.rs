//! Entries of DWARF, as far as types are concerned.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gimli::{AttributeValue, EndianSlice, LittleEndian, UnitOffset};
use thiserror::Error;

use super::sections::Sections;

pub(super) type Slice<'data> = EndianSlice<'data, LittleEndian>;
pub(super) type Unit<'data> = gimli::Unit<Slice<'data>>;

/// Entries that are read at most: the largest units have some millions.
const MAX_ENTRIES: u64 = 40_000_000;
/// How long reading may take.
const MAX_TIME: Duration = Duration::from_secs(3);
/// Members of a type at most.
const MAX_CHILDREN: usize = 8192;
/// A name is cut off there.
const MAX_NAME: usize = 512;

/// Why DWARF says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(in crate::target) enum Malformed {
    /// It is not what the standard says.
    #[error("malformed DWARF: {0}")]
    Dwarf(#[from] gimli::Error),
    /// It would take too long.
    #[error("the debuginfo takes too long to read")]
    Budget,
    /// Something that should be there is not.
    #[error("{0}")]
    Missing(String),
}

/// An entry: its unit's place in the section, and its own in the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::target) struct At {
    pub(super) unit: usize,
    pub(super) offset: UnitOffset,
}

/// What an entry says about itself.
#[derive(Clone, Debug)]
pub(in crate::target) struct Node {
    pub(super) at: At,
    pub(super) tag: gimli::DwTag,
    pub(super) name: String,
    pub(super) byte_size: Option<u64>,
    pub(super) r#type: Option<At>,
    /// `DW_AT_data_member_location`.
    pub(super) location: Option<u64>,
    pub(super) discr: Option<At>,
    pub(super) discr_value: Option<u64>,
    pub(super) const_value: Option<u64>,
    pub(super) encoding: Option<gimli::DwAte>,
}

/// The sections, the units read so far, and what may still be read.
pub(in crate::target) struct Dwarf<'data> {
    pub(super) sections: gimli::Dwarf<Slice<'data>>,
    pub(super) aranges: gimli::DebugAranges<Slice<'data>>,
    units: RefCell<HashMap<usize, Rc<Unit<'data>>>>,
    left: Cell<u64>,
    until: Instant,
}

impl<'data> Dwarf<'data> {
    pub(super) fn new(data: &'data [u8], sections: &Sections) -> Self {
        let load = |id| {
            Ok::<_, std::convert::Infallible>(EndianSlice::new(
                sections.bytes(data, id),
                LittleEndian,
            ))
        };
        let Ok(dwarf) = gimli::Dwarf::load(load);
        let aranges = sections.bytes(data, gimli::SectionId::DebugAranges);
        Self {
            sections: dwarf,
            aranges: gimli::DebugAranges::new(aranges, LittleEndian),
            units: RefCell::default(),
            left: Cell::new(MAX_ENTRIES),
            until: Instant::now() + MAX_TIME,
        }
    }

    /// Takes the price of reading `entries` entries.
    pub(super) fn spend(&self, entries: u64) -> Result<(), Malformed> {
        let left = self.left.get();
        if left < entries {
            return Err(Malformed::Budget);
        }
        // The clock is read once in 1024 entries, and for whatever is dear.
        if (left / 1024 != (left - entries) / 1024 || entries > 16) && Instant::now() > self.until {
            self.left.set(0);
            return Err(Malformed::Budget);
        }
        self.left.set(left - entries);
        Ok(())
    }

    /// The unit at this place in the section.
    pub(super) fn unit(&self, at: usize) -> Result<Rc<Unit<'data>>, Malformed> {
        if let Some(unit) = self.units.borrow().get(&at) {
            return Ok(Rc::clone(unit));
        }
        self.spend(64)?;
        let header = self.sections.unit_header(gimli::DebugInfoOffset(at))?;
        let unit = Rc::new(self.sections.unit(header)?);
        self.units.borrow_mut().insert(at, Rc::clone(&unit));
        Ok(unit)
    }

    /// What an entry says about itself. What a concrete entry leaves out, its abstract one says.
    pub(super) fn node(&self, at: At) -> Result<Node, Malformed> {
        let mut node = self.own_node(at)?;
        let mut origin = node.1;
        for _ in 0..4 {
            let Some(at) = origin.filter(|_| node.0.r#type.is_none() || node.0.name.is_empty())
            else {
                break;
            };
            let (more, next) = self.own_node(at)?;
            if node.0.name.is_empty() {
                node.0.name = more.name;
            }
            node.0.r#type = node.0.r#type.or(more.r#type);
            origin = next;
        }
        Ok(node.0)
    }

    fn own_node(&self, at: At) -> Result<(Node, Option<At>), Malformed> {
        self.spend(1)?;
        let unit = self.unit(at.unit)?;
        let entry = unit.entry(at.offset)?;
        let mut node = Node {
            at,
            tag: entry.tag(),
            name: String::new(),
            byte_size: None,
            r#type: None,
            location: None,
            discr: None,
            discr_value: None,
            const_value: None,
            encoding: None,
        };
        let mut origin = None;
        for attribute in entry.attrs() {
            let value = attribute.value();
            match attribute.name() {
                gimli::DW_AT_name => {
                    let name = self.sections.attr_string(&unit, value)?;
                    let name = &name.slice()[..name.slice().len().min(MAX_NAME)];
                    node.name = String::from_utf8_lossy(name).into_owned();
                }
                gimli::DW_AT_byte_size => node.byte_size = number(&value),
                gimli::DW_AT_data_member_location => node.location = number(&value),
                gimli::DW_AT_discr_value => node.discr_value = number(&value),
                gimli::DW_AT_const_value => node.const_value = number(&value),
                gimli::DW_AT_type => node.r#type = self.reference(at.unit, &value)?,
                gimli::DW_AT_discr => node.discr = self.reference(at.unit, &value)?,
                gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => {
                    origin = self.reference(at.unit, &value)?;
                }
                gimli::DW_AT_encoding => {
                    if let AttributeValue::Encoding(encoding) = value {
                        node.encoding = Some(encoding);
                    }
                }
                _ => {}
            }
        }
        Ok((node, origin))
    }

    /// The entries right below one.
    pub(super) fn children(&self, at: At) -> Result<Vec<At>, Malformed> {
        let mut children = Vec::new();
        self.each_child(at, |child| {
            children.push(child);
            children.len() < MAX_CHILDREN
        })?;
        Ok(children)
    }

    /// Hands the entries right below one to `each`, until that says no.
    pub(super) fn each_child(
        &self,
        at: At,
        mut each: impl FnMut(At) -> bool,
    ) -> Result<(), Malformed> {
        let unit = self.unit(at.unit)?;
        let mut tree = unit.entries_tree(Some(at.offset))?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            self.spend(1)?;
            if !each(At { unit: at.unit, offset: child.entry().offset() }) {
                break;
            }
        }
        Ok(())
    }

    fn reference(
        &self,
        unit: usize,
        value: &AttributeValue<Slice<'data>>,
    ) -> Result<Option<At>, Malformed> {
        match *value {
            AttributeValue::UnitRef(offset) => Ok(Some(At { unit, offset })),
            // Into another unit: link-time optimization shares types between them.
            AttributeValue::DebugInfoRef(offset) => {
                let mut units = self.sections.units();
                while let Some(header) = units.next()? {
                    self.spend(1)?;
                    let Some(start) = header.debug_info_offset() else { continue };
                    if let Some(at) = offset.0.checked_sub(start.0)
                        && at < header.length_including_self()
                    {
                        return Ok(Some(At { unit: start.0, offset: UnitOffset(at) }));
                    }
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }
}

fn number(value: &AttributeValue<Slice<'_>>) -> Option<u64> {
    match *value {
        AttributeValue::Data1(n) => Some(u64::from(n)),
        AttributeValue::Data2(n) => Some(u64::from(n)),
        AttributeValue::Data4(n) => Some(u64::from(n)),
        AttributeValue::Data8(n) | AttributeValue::Udata(n) => Some(n),
        AttributeValue::Sdata(n) => Some(n as u64),
        _ => None,
    }
}
