//! One ELF file, mapped and never copied. Everything in it is checked where it is used: a
//! hostile file gives wrong answers or errors, never a panic or an endless loop.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use object::LittleEndian;
use object::elf;
use object::read::elf::{Dyn as _, FileHeader, ProgramHeader as _, SectionHeader as _};

use super::decode::{MAX_INSTRUCTION, decoder, probe_cost};
use super::relocations::Relocations;
use super::symbols::Symbols;
use super::{DebugInfo, Function, ModuleInfo, Site, SocketLandmarks, TargetError, landmarks};

pub(super) type Header = elf::FileHeader64<LittleEndian>;
pub(super) const LE: LittleEndian = LittleEndian;

/// More loadable segments than any linker makes; lookups walk them.
const MAX_SEGMENTS: usize = 64;
/// More sections than a linked program has.
const MAX_SECTIONS: usize = 4096;

/// A loadable part of the file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    addr: u64,
    offset: u64,
    /// Bytes that come from the file.
    len: u64,
    executable: bool,
    writable: bool,
}

/// A named section that is in memory at run time.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: Box<[u8]>,
    pub(super) addr: u64,
    pub(super) size: u64,
    pub(super) executable: bool,
}

impl Section {
    /// Whether `addr` lies in it.
    pub(super) fn contains(&self, addr: u64) -> bool {
        addr.checked_sub(self.addr).is_some_and(|at| at < self.size)
    }
}

/// One ELF file.
pub struct Image {
    data: Arc<Mmap>,
    info: ModuleInfo,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    /// Code is linked at the addresses it runs at (`ET_EXEC`).
    fixed: bool,
    has_symtab: bool,
    symbols: OnceLock<Symbols>,
    relocations: OnceLock<Relocations>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Image {
    /// Maps the ELF file at `path`, which the target knows as `name`.
    pub fn open(path: &Path, name: &Path) -> Result<Self, TargetError> {
        let file = File::open(path).map_err(|error| TargetError::io(path, error))?;
        let metadata = file.metadata().map_err(|error| TargetError::io(path, error))?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(TargetError::NotElf { path: name.to_owned() });
        }
        // SAFETY: the mapping is read-only and private to us. Its bytes may change if somebody
        // writes to the file; nothing below trusts a byte it has read before, and each access is
        // bounds-checked against the mapping's fixed length. The kernel refuses writes to a
        // running executable; a library that is truncated in place takes its users down, us
        // included, which no reader of a mapping can prevent.
        let data = unsafe { Mmap::map(&file) }.map_err(|error| TargetError::io(path, error))?;
        Self::parse(data, path, name)
    }

    fn parse(data: Mmap, path: &Path, name: &Path) -> Result<Self, TargetError> {
        let bytes = &*data;
        let malformed = |what: object::read::Error| TargetError::Malformed {
            path: name.to_owned(),
            what: what.to_string(),
        };
        let ident = bytes.get(..20).filter(|ident| ident.starts_with(&elf::ELFMAG));
        let ident = ident.ok_or_else(|| TargetError::NotElf { path: name.to_owned() })?;
        if ident[4] != elf::ELFCLASS64.0 {
            return Err(TargetError::Not64Bit { path: name.to_owned() });
        }
        let half = |at: usize| u16::from_le_bytes([ident[at], ident[at + 1]]);
        let (kind, machine) = (half(16), half(18));
        if ident[5] != elf::ELFDATA2LSB.0 || machine != elf::EM_X86_64.0 {
            return Err(TargetError::WrongMachine { path: name.to_owned(), machine });
        }
        if kind != elf::ET_EXEC.0 && kind != elf::ET_DYN.0 {
            return Err(TargetError::NotLinked { path: name.to_owned(), kind });
        }
        let header = Header::parse(bytes).map_err(malformed)?;
        let mut segments = Vec::new();
        for segment in header.program_headers(LE, bytes).map_err(malformed)? {
            if segment.p_type(LE) != elf::PT_LOAD {
                continue;
            }
            if segments.len() == MAX_SEGMENTS {
                return Err(TargetError::Malformed {
                    path: name.to_owned(),
                    what: format!("more than {MAX_SEGMENTS} loadable segments"),
                });
            }
            let flags = segment.p_flags(LE);
            segments.push(Segment {
                addr: segment.p_vaddr(LE),
                offset: segment.p_offset(LE),
                len: segment.p_filesz(LE),
                executable: flags.0 & elf::PF_X.0 != 0,
                writable: flags.0 & elf::PF_W.0 != 0,
            });
        }
        let table = header.sections(LE, bytes).map_err(malformed)?;
        let mut sections = Vec::new();
        let mut has_symtab = false;
        let mut build_id = None;
        for section in table.iter().take(MAX_SECTIONS) {
            let flags = section.sh_flags(LE).0;
            has_symtab |= section.sh_type(LE) == elf::SHT_SYMTAB;
            if section.sh_type(LE) == elf::SHT_NOTE && build_id.is_none() {
                build_id = section.data(LE, bytes).ok().and_then(build_id_note);
            }
            if flags & elf::SHF_ALLOC.0 != 0 {
                sections.push(Section {
                    name: table.section_name(LE, section).unwrap_or_default().into(),
                    addr: section.sh_addr(LE),
                    size: section.sh_size(LE),
                    executable: flags & elf::SHF_EXECINSTR.0 != 0,
                });
            }
        }
        let info = ModuleInfo { path: path.to_owned(), name: name.to_owned(), build_id };
        Ok(Self {
            data: Arc::new(data),
            info,
            segments,
            sections,
            fixed: kind == elf::ET_EXEC.0,
            has_symtab,
            symbols: OnceLock::new(),
            relocations: OnceLock::new(),
        })
    }

    /// Libraries that the dynamic linker would load for it (`DT_NEEDED`).
    pub fn needed_libraries(&self) -> Vec<String> {
        let needed = || {
            let data = self.data();
            let sections = Header::parse(data).ok()?.sections(LE, data).ok()?;
            let (entries, strings) = sections.dynamic(LE, data).ok()??;
            let strings = sections.strings(LE, data, strings).ok()?;
            let names = entries.iter().take(MAX_SECTIONS).filter_map(|entry| {
                if entry.d_tag(LE) != elf::DT_NEEDED {
                    return None;
                }
                let name = strings.get(u32::try_from(entry.d_val(LE)).ok()?).ok()?;
                Some(String::from_utf8_lossy(name).into_owned())
            });
            Some(names.collect())
        };
        needed().unwrap_or_default()
    }

    /// Where the file is and which build it is.
    pub fn info(&self) -> &ModuleInfo {
        &self.info
    }

    /// What describes its types, if it has that with it.
    ///
    /// # Errors
    /// There is none that can be read: why, for a person.
    pub fn debuginfo(&self) -> Result<DebugInfo, String> {
        DebugInfo::of_mapping(Arc::clone(&self.data))
    }

    /// All functions, by symbol, ordered by name.
    pub fn functions(&self) -> &[Function] {
        self.symbols().functions()
    }

    /// libc's functions on sockets, where they are in this image.
    pub fn socket_landmarks(&self) -> SocketLandmarks {
        landmarks::sockets(self)
    }

    /// Demangled names of the functions whose code begins at `addr`. More than one: the linker or
    /// the compiler folded equal code together, and a hit there does not say which was meant.
    pub fn names_at(&self, addr: u64) -> Vec<Arc<str>> {
        self.symbols().names_at(addr)
    }

    /// Refuses what is not worth analysing: stripped, not Rust. Missing tokio is
    /// [`Image::require_tokio`]'s to say.
    pub fn require_rust(&self) -> Result<(), TargetError> {
        let name = &self.info.name;
        if !self.has_symtab {
            return Err(TargetError::Stripped { path: name.clone() });
        }
        let is_rust = |function: &Function| {
            let name = function.name.trim_start_matches('<');
            name.starts_with("core::") || name.starts_with("std::") || name.starts_with("alloc::")
        };
        if !self.functions().iter().any(is_rust) {
            return Err(TargetError::NotRust { path: name.clone() });
        }
        Ok(())
    }

    /// Refuses a program without tokio.
    pub fn require_tokio(&self) -> Result<(), TargetError> {
        if self.functions().iter().any(|function| function.name.starts_with("tokio::runtime::")) {
            return Ok(());
        }
        Err(TargetError::NoTokio { path: self.info.name.clone() })
    }

    pub(super) fn symbols(&self) -> &Symbols {
        self.symbols.get_or_init(|| Symbols::read(self))
    }

    pub(super) fn relocations(&self) -> &Relocations {
        self.relocations.get_or_init(|| Relocations::read(self))
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.data[..]
    }

    /// The bytes of a section of the file, also of one that is not in memory at run time.
    pub(super) fn section_data(&self, name: &[u8]) -> Option<&[u8]> {
        let data = self.data();
        let table = Header::parse(data).ok()?.sections(LE, data).ok()?;
        let mut sections = table.iter().take(MAX_SECTIONS);
        let found =
            sections.find(|section| table.section_name(LE, section).is_ok_and(|n| n == name))?;
        found.data(LE, data).ok()
    }

    pub(super) fn sections(&self) -> &[Section] {
        &self.sections
    }

    pub(super) fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// Bytes from `addr` to the end of its segment's file part.
    fn segment_bytes(&self, addr: u64, wanted: impl Fn(&Segment) -> bool) -> Option<(&[u8], u64)> {
        self.segments.iter().find_map(|segment| {
            let at = addr.checked_sub(segment.addr).filter(|at| *at < segment.len)?;
            let offset = segment.offset.checked_add(at)?;
            let bytes = self.data.get(usize::try_from(offset).ok()?..)?;
            let len = bytes.len().min(usize::try_from(segment.len - at).ok()?);
            wanted(segment).then_some((&bytes[..len], offset))
        })
    }

    /// `len` bytes at a virtual address, as they stand in the file (relocations not applied).
    pub(super) fn bytes(&self, addr: u64, len: usize) -> Option<&[u8]> {
        self.segment_bytes(addr, |_| true)?.0.get(..len)
    }

    /// Machine code from `start` up to `end` or to the end of what the file holds.
    pub(super) fn code(&self, start: u64, end: u64) -> &[u8] {
        let Some((bytes, _)) = self.segment_bytes(start, |segment| segment.executable) else {
            return &[];
        };
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        &bytes[..len.min(bytes.len())]
    }

    /// Words of the writable segments with their addresses: where pointers to functions can be that no
    /// relocation tells of.
    pub(super) fn data_words(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let writable = self.segments.iter().filter(|segment| segment.writable);
        writable.flat_map(|segment| {
            let (bytes, _) = self.segment_bytes(segment.addr, |_| true).unwrap_or_default();
            let words = bytes.as_chunks::<8>().0;
            let places = (segment.addr..).step_by(8);
            places.zip(words).map(|(place, word)| (place, u64::from_le_bytes(*word)))
        })
    }

    pub(super) fn u64_at(&self, addr: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(addr, 8)?.try_into().ok()?))
    }

    pub(super) fn u32_at(&self, addr: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(addr, 4)?.try_into().ok()?))
    }

    /// The pointer that the program sees at `addr` once relocated, as a virtual address of this
    /// file.
    pub(super) fn pointer_at(&self, addr: u64) -> Option<u64> {
        match self.relocations().pointer(addr) {
            Some(target) => Some(target),
            None => self.u64_at(addr),
        }
    }

    /// The probe site at an instruction; `None` where there is no instruction or the kernel
    /// would refuse a probe.
    pub fn site(&self, addr: u64) -> Option<Site> {
        let (bytes, offset) = self.segment_bytes(addr, |segment| segment.executable)?;
        let bytes = &bytes[..bytes.len().min(MAX_INSTRUCTION)];
        let instruction = decoder(bytes, addr).decode();
        if instruction.is_invalid() {
            return None;
        }
        let bytes = bytes.get(..instruction.len())?;
        let cost = probe_cost(bytes)?;
        Some(Site { addr, offset, bytes: bytes.to_vec(), cost })
    }
}

/// The GNU build-id in a note section, as lower-case hex.
fn build_id_note(mut notes: &[u8]) -> Option<String> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let word =
        |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    loop {
        let (name_len, desc_len) = (word(notes, 0)? as usize, word(notes, 4)? as usize);
        let kind = word(notes, 8)?;
        let desc_at = 12usize.checked_add(name_len.checked_next_multiple_of(4)?)?;
        let end = desc_at.checked_add(desc_len)?;
        let desc = notes.get(desc_at..end)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..16) == Some(b"GNU\0") && desc_len <= 64 {
            return Some(desc.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}
