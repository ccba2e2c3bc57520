//! A small ELF file made of given functions and data, for tests.

use std::io::Write as _;
use std::path::Path;

use tempfile::NamedTempFile;

use super::Image;

/// Where the code begins; file offsets are addresses less [`SHIFT`].
pub(super) const TEXT: u64 = 0x2000;
/// Where the data begins.
pub(super) const DATA: u64 = 0x4000;
/// Where the GOT begins, in the same segment.
const GOT: u64 = 0x6000;
/// Its size.
const GOT_LEN: u64 = 0x100;
const SHIFT: u64 = 0x1000;

/// What goes into the file.
#[derive(Default)]
pub(super) struct Fixture {
    code: Vec<u8>,
    data: Vec<u8>,
    got: Vec<u64>,
    symbols: Vec<(String, u64, u64)>,
    relocations: Vec<(u64, u64)>,
}

impl Fixture {
    /// Adds a function; returns its address.
    pub(super) fn function(&mut self, symbol: &str, code: &[u8]) -> u64 {
        // As linkers do: padded with int3 to 16 bytes.
        self.code.resize(self.code.len().next_multiple_of(16), 0xcc);
        let addr = self.next_function();
        self.symbols.push((symbol.to_owned(), addr, code.len() as u64));
        self.code.extend_from_slice(code);
        addr
    }

    /// Where the next function will be.
    pub(super) fn next_function(&self) -> u64 {
        TEXT + self.code.len().next_multiple_of(16) as u64
    }

    /// Another name for the function at `addr`.
    pub(super) fn alias(&mut self, symbol: &str, addr: u64, size: u64) {
        self.symbols.push((symbol.to_owned(), addr, size));
    }

    /// Adds data; returns its address.
    pub(super) fn data(&mut self, bytes: &[u8]) -> u64 {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let addr = DATA + self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        addr
    }

    /// Adds a pointer that the loader fills in; returns its address.
    pub(super) fn pointer(&mut self, to: u64) -> u64 {
        let at = self.data(&[0; 8]);
        self.relocations.push((at, to));
        at
    }

    /// Adds a slot in the GOT; returns its address.
    pub(super) fn got(&mut self, to: u64) -> u64 {
        let at = GOT + self.got.len() as u64 * 8;
        assert!(at < GOT + GOT_LEN, "too many slots for the fixture");
        self.got.push(to);
        self.relocations.push((at, to));
        at
    }

    /// Adds a `core::panic::Location`; returns its address.
    pub(super) fn location(&mut self, file: &str, line: u32, column: u32) -> u64 {
        let text = self.data(file.as_bytes());
        let at = self.pointer(text);
        self.data(&(file.len() as u64).to_le_bytes());
        self.data(&[line.to_le_bytes(), column.to_le_bytes()].concat());
        at
    }

    /// The file's bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let text_offset = TEXT - SHIFT;
        let data_offset = DATA - SHIFT;
        let mut strings = vec![0u8];
        let mut symtab = vec![0u8; 24];
        for (name, addr, size) in &self.symbols {
            symtab.extend((strings.len() as u32).to_le_bytes());
            // STB_GLOBAL, STT_FUNC, default visibility, section 1.
            symtab.extend([0x12, 0, 1, 0]);
            symtab.extend(addr.to_le_bytes());
            symtab.extend(size.to_le_bytes());
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        let mut rela = Vec::new();
        for (place, target) in &self.relocations {
            // R_X86_64_RELATIVE.
            rela.extend([place.to_le_bytes(), 8u64.to_le_bytes(), target.to_le_bytes()].concat());
        }
        let names = b"\0.text\0.data.rel.ro\0.symtab\0.strtab\0.rela.dyn\0.shstrtab\0.got\0";
        let mut file = vec![0u8; 0x1000];
        file.resize(text_offset as usize, 0);
        file.extend(&self.code);
        assert!(file.len() <= data_offset as usize, "too much code for the fixture");
        file.resize(data_offset as usize, 0);
        file.extend(&self.data);
        let got_offset = GOT - SHIFT;
        assert!(file.len() <= got_offset as usize, "too much data for the fixture");
        file.resize((got_offset + GOT_LEN) as usize, 0);
        let mut append = |bytes: &[u8]| {
            file.resize(file.len().next_multiple_of(8), 0);
            let at = file.len() as u64;
            file.extend(bytes);
            (at, bytes.len() as u64)
        };
        let (symtab_at, strings_at) = (append(&symtab), append(&strings));
        let (rela_at, names_at) = (append(&rela), append(names));
        let section =
            |name: u32, kind: u32, flags: u64, addr: u64, place: (u64, u64), link: u32| {
                let entry: u64 = if matches!(kind, 2 | 4) { 24 } else { 0 };
                let mut header = Vec::new();
                header.extend([name.to_le_bytes(), kind.to_le_bytes()].concat());
                header.extend([flags, addr, place.0, place.1].map(u64::to_le_bytes).concat());
                header.extend([link.to_le_bytes(), 0u32.to_le_bytes()].concat());
                header.extend([1u64, entry].map(u64::to_le_bytes).concat());
                header
            };
        let (alloc, exec) = (2, 4);
        let headers = [
            vec![0; 64],
            section(1, 1, alloc | exec, TEXT, (text_offset, self.code.len() as u64), 0),
            section(7, 1, alloc | 1, DATA, (data_offset, self.data.len() as u64), 0),
            section(20, 2, 0, 0, symtab_at, 4),
            section(28, 3, 0, 0, strings_at, 0),
            section(36, 4, alloc, 0, rela_at, 3),
            section(46, 3, 0, 0, names_at, 0),
            section(56, 1, alloc | 1, GOT, (got_offset, GOT_LEN), 0),
        ];
        let (headers_at, _) = append(&headers.concat());
        let segment = |flags: u32, addr: u64, len: u64| {
            let mut header = [1u32.to_le_bytes(), flags.to_le_bytes()].concat();
            header.extend(
                [addr - SHIFT, addr, addr, len, len, 0x1000].map(u64::to_le_bytes).concat(),
            );
            header
        };
        let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        head.extend([3u16.to_le_bytes(), 62u16.to_le_bytes()].concat());
        head.extend(1u32.to_le_bytes());
        head.extend([TEXT, 64, headers_at].map(u64::to_le_bytes).concat());
        head.extend(0u32.to_le_bytes());
        head.extend([64u16, 56, 2, 64, headers.len() as u16, 6].map(u16::to_le_bytes).concat());
        head.extend(segment(5, TEXT, self.code.len() as u64));
        head.extend(segment(6, DATA, GOT + GOT_LEN - DATA));
        file[..head.len()].copy_from_slice(&head);
        file
    }

    /// The file, opened.
    pub(super) fn image(&self) -> Image {
        open(&self.bytes()).expect("a well-formed file")
    }
}

/// Opens a file of these bytes.
pub(super) fn open(bytes: &[u8]) -> Result<Image, super::TargetError> {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    Image::open(file.path(), Path::new("/fixture"))
}

/// `call` from `at` to `to`.
pub(super) fn call(at: u64, to: u64) -> [u8; 5] {
    branch(0xe8, at, to)
}

/// `jmp` from `at` to `to`.
pub(super) fn jmp(at: u64, to: u64) -> [u8; 5] {
    branch(0xe9, at, to)
}

fn branch(opcode: u8, at: u64, to: u64) -> [u8; 5] {
    let [a, b, c, d] = (to.wrapping_sub(at + 5) as i32).to_le_bytes();
    [opcode, a, b, c, d]
}

/// `lea to(%rip), %rdi` at `at`.
pub(super) fn lea_rdi(at: u64, to: u64) -> [u8; 7] {
    let [a, b, c, d] = (to.wrapping_sub(at + 7) as i32).to_le_bytes();
    [0x48, 0x8d, 0x3d, a, b, c, d]
}

/// `mov slot(%rip), %rax` at `at`.
pub(super) fn got_load_rax(at: u64, slot: u64) -> [u8; 7] {
    let [_, _, _, a, b, c, d] = lea_rdi(at, slot);
    [0x48, 0x8b, 0x05, a, b, c, d]
}
