//! Functions by symbol: every copy of each, and who shares an address with whom.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use object::elf;
use object::read::elf::{FileHeader as _, Sym as _};

use super::image::{Header, Image, LE};
use super::names::demangle;
use super::{Function, parallel};

/// More symbols than the largest programs have.
const MAX_SYMBOLS: usize = 1 << 22;

/// The functions of an image, and an index of their addresses.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// Ordered by name, then symbol.
    functions: Vec<Function>,
    /// (address, index into `functions`), ordered.
    by_addr: Vec<(u64, u32)>,
    /// Where functions begin, ordered, each once.
    starts: Vec<u64>,
    /// Addresses that other modules can link against.
    exported: HashSet<u64>,
    /// Data of the C libraries that is looked for by name: address and size.
    objects: HashMap<Box<str>, Vec<(u64, u64)>>,
}

/// Names of [`Symbols::objects`].
const OBJECTS: [&str; 1] = ["sqlite3Apis"];

impl Symbols {
    pub(super) fn read(image: &Image) -> Self {
        let mut copies: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        let mut exported = HashSet::new();
        let mut objects = HashMap::new();
        // A table that cannot be read is one without functions; `require_rust` says so.
        let _ = collect(image, &mut copies, &mut exported, &mut objects);
        let symbols: Vec<_> = copies.into_iter().collect();
        let mut functions = parallel::map(&symbols, |(symbol, copies)| {
            let mut copies = copies.clone();
            copies.sort_unstable();
            copies.dedup_by_key(|(addr, _)| *addr);
            Function { name: demangle(symbol).into(), symbol: Arc::from(*symbol), copies }
        });
        functions.sort_by(|a, b| (&a.name, &a.symbol).cmp(&(&b.name, &b.symbol)));
        let mut by_addr = Vec::with_capacity(functions.len());
        for (index, function) in (0..).zip(&functions) {
            by_addr.extend(function.copies.iter().map(|(addr, _)| (*addr, index)));
        }
        by_addr.sort_unstable();
        let mut starts: Vec<_> = by_addr.iter().map(|(addr, _)| *addr).collect();
        starts.dedup();
        Self { functions, by_addr, starts, exported, objects }
    }

    pub(super) fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Functions that begin at `addr`.
    pub(super) fn at(&self, addr: u64) -> impl Iterator<Item = &Function> {
        let from = self.by_addr.partition_point(|(start, _)| *start < addr);
        let same = self.by_addr[from..].iter().take_while(move |(start, _)| *start == addr);
        same.map(|(_, index)| &self.functions[*index as usize])
    }

    /// Functions of this name, ordered by symbol.
    pub(super) fn named(&self, name: &str) -> &[Function] {
        let from = self.functions.partition_point(|function| &*function.name < name);
        let len = self.functions[from..].partition_point(|function| &*function.name == name);
        &self.functions[from..from + len]
    }

    /// Distinct names of the functions that begin at `addr`.
    pub(super) fn names_at(&self, addr: u64) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.at(addr).map(|function| function.name.clone()).collect();
        names.dedup();
        names
    }

    /// Where functions begin, ordered.
    pub(super) fn starts(&self) -> &[u64] {
        &self.starts
    }

    /// Where the function that `addr` lies in begins.
    pub(super) fn start_of(&self, addr: u64) -> Option<u64> {
        let after = self.starts.partition_point(|start| *start <= addr);
        Some(self.starts[after.checked_sub(1)?])
    }

    /// End of the function that begins at `start`: its size, but never into the next one.
    pub(super) fn end_of(&self, start: u64) -> u64 {
        let after = self.starts.partition_point(|other| *other <= start);
        let next = self.starts.get(after).copied().unwrap_or(u64::MAX);
        let size = self.at(start).filter_map(|function| {
            let (_, size) = function.copies.iter().find(|(addr, _)| *addr == start)?;
            Some(*size)
        });
        match size.max() {
            None | Some(0) => next,
            Some(size) => start.saturating_add(size).min(next),
        }
    }

    /// Whether `place` lies in the data object `name`, one of [`OBJECTS`].
    pub(super) fn is_in_object(&self, name: &str, place: u64) -> bool {
        self.objects.get(name).is_some_and(|objects| {
            let inside =
                |(addr, size): &(u64, u64)| place.checked_sub(*addr).is_some_and(|at| at < *size);
            objects.iter().any(inside)
        })
    }

    /// Whether other modules can call the function at `addr` or take its address.
    pub(super) fn is_exported(&self, addr: u64) -> bool {
        self.exported.contains(&addr)
    }
}

fn collect<'image>(
    image: &'image Image,
    copies: &mut BTreeMap<&'image str, Vec<(u64, u64)>>,
    exported: &mut HashSet<u64>,
    objects: &mut HashMap<Box<str>, Vec<(u64, u64)>>,
) -> object::read::Result<()> {
    let data = image.data();
    let sections = Header::parse(data)?.sections(LE, data)?;
    let code: Vec<_> = image.sections().iter().filter(|section| section.executable).collect();
    for kind in [elf::SHT_SYMTAB, elf::SHT_DYNSYM] {
        let table = sections.symbols(LE, data, kind)?;
        for symbol in table.iter().take(MAX_SYMBOLS) {
            let addr = symbol.st_value(LE);
            let is_function = symbol.st_type() == elf::STT_FUNC
                && !symbol.is_undefined(LE)
                && code.iter().any(|section| section.contains(addr));
            let Ok(name) = table.symbol_name(LE, symbol) else { continue };
            let Ok(name) = std::str::from_utf8(name) else { continue };
            if symbol.st_type() == elf::STT_OBJECT && OBJECTS.contains(&name) {
                let place = (symbol.st_value(LE), symbol.st_size(LE));
                objects.entry(name.into()).or_default().push(place);
            }
            if !is_function || name.is_empty() {
                continue;
            }
            if kind == elf::SHT_DYNSYM {
                exported.insert(addr);
            }
            copies.entry(name).or_default().push((addr, symbol.st_size(LE)));
        }
    }
    Ok(())
}
