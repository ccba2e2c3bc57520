//! The running kernel's type information (BTF): where a field lies in a struct.
//! Format: <https://docs.kernel.org/bpf/btf.html>.

use std::collections::HashMap;
use std::path::Path;

const MAGIC: u16 = 0xeb9f;
/// Larger is not a kernel's.
const MAX_BYTES: usize = 64 << 20;
/// Structs without a name inside one another, at most.
const MAX_DEPTH: usize = 8;

const PTR: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const TYPE_TAG: u32 = 18;

/// Types by number and by name.
pub(super) struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Where each type begins; the first is `void`.
    types: Vec<usize>,
    structs: HashMap<Vec<u8>, u32>,
}

impl Btf {
    /// The running kernel's.
    pub(super) fn of_kernel() -> Result<Self, String> {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        let bytes = std::fs::read(path).map_err(|error| {
            format!("{}: {error}; a kernel with CONFIG_DEBUG_INFO_BTF has it", path.display())
        })?;
        Self::parse(bytes).ok_or_else(|| format!("{}: malformed", path.display()))
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let word = |at: usize| -> Option<u32> {
            let word = bytes.get(at..at.checked_add(4)?)?;
            Some(u32::from_ne_bytes(word.try_into().ok()?))
        };
        let magic = bytes.get(..2).and_then(|magic| magic.try_into().ok()).map(u16::from_ne_bytes);
        if magic != Some(MAGIC) || bytes.len() > MAX_BYTES {
            return None;
        }
        let header = word(4)? as usize;
        let section = |offset: usize| -> Option<(usize, usize)> {
            let from = header.checked_add(word(offset)? as usize)?;
            let to = from.checked_add(word(offset + 4)? as usize)?;
            (to <= bytes.len()).then_some((from, to))
        };
        let ((mut at, end), (strings, _)) = (section(8)?, section(16)?);
        let mut types = vec![0];
        let mut structs = HashMap::new();
        while at < end {
            let (name, info) = (word(at)?, word(at + 4)?);
            let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            if kind == STRUCT && members > 0 && name != 0 {
                let name = string(&bytes, strings, name)?;
                structs.entry(name.to_vec()).or_insert(types.len() as u32);
            }
            types.push(at);
            let more = match kind {
                // INT, VAR, DECL_TAG.
                1 | 14 | 17 => 4,
                // ARRAY.
                3 => 12,
                // STRUCT, UNION, DATASEC, ENUM64.
                STRUCT | UNION | 15 | 19 => 12 * members,
                // ENUM, FUNC_PROTO.
                6 | 13 => 8 * members,
                PTR | 7..=12 | 16 | TYPE_TAG => 0,
                _ => return None,
            };
            at += 12 + more;
        }
        Some(Self { bytes, strings, types, structs })
    }

    /// Bytes from the beginning of struct `of` to the field `path`, such as `f_path.dentry`, and
    /// the number of its type.
    pub(super) fn offset(&self, of: &str, path: &str) -> Result<(u32, u32), String> {
        let missing = || format!("this kernel's {of} has no field {path}");
        let mut ty = self.named(of)?;
        let mut offset = 0_u32;
        for field in path.split('.') {
            let (at, of) = self.field(ty, field.as_bytes(), 0).ok_or_else(missing)?;
            offset = offset.checked_add(at).ok_or_else(missing)?;
            ty = of;
        }
        Ok((offset, ty))
    }

    /// Bytes that a struct takes.
    pub(super) fn size(&self, of: &str) -> Result<u32, String> {
        let ty = self.named(of)?;
        self.word(ty, 8).ok_or_else(|| format!("the size of this kernel's {of} is not known"))
    }

    fn named(&self, name: &str) -> Result<u32, String> {
        let found = self.structs.get(name.as_bytes()).copied();
        found.ok_or_else(|| format!("this kernel has no struct {name}"))
    }

    fn word(&self, ty: u32, offset: usize) -> Option<u32> {
        let at = self.types.get(ty as usize).filter(|_| ty != 0)?.checked_add(offset)?;
        let word = self.bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_ne_bytes(word.try_into().ok()?))
    }

    /// A field of a struct or union, also of those without a name in it.
    fn field(&self, ty: u32, name: &[u8], depth: usize) -> Option<(u32, u32)> {
        let ty = self.resolved(ty)?;
        let info = self.word(ty, 4)?;
        if depth > MAX_DEPTH || !matches!(info >> 24 & 0x1f, STRUCT | UNION) {
            return None;
        }
        (0..(info & 0xffff) as usize).find_map(|member| {
            let from = 12 + 12 * member;
            let (named, of) = (self.word(ty, from)?, self.word(ty, from + 4)?);
            let bits = self.word(ty, from + 8)?;
            // With the flag, the upper bits are the width of a bit field.
            let bytes = if info >> 31 == 0 { bits } else { bits & 0x00ff_ffff } / 8;
            if named == 0 {
                let (inner, of) = self.field(of, name, depth + 1)?;
                return Some((bytes.checked_add(inner)?, of));
            }
            (string(&self.bytes, self.strings, named)? == name).then_some((bytes, of))
        })
    }

    /// What a typedef or a qualifier stands for.
    fn resolved(&self, mut ty: u32) -> Option<u32> {
        for _ in 0..MAX_DEPTH {
            match self.word(ty, 4)? >> 24 & 0x1f {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => ty = self.word(ty, 8)?,
                _ => return Some(ty),
            }
        }
        None
    }
}

/// The string at `offset`, up to its zero.
fn string(bytes: &[u8], strings: usize, offset: u32) -> Option<&[u8]> {
    let rest = bytes.get(strings.checked_add(offset as usize)?..)?;
    Some(&rest[..rest.iter().position(|&byte| byte == 0)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct s { int a; union { struct t b; }; }`, `typedef struct s { int c; } t`.
    fn sample() -> Vec<u8> {
        let strings = b"\0s\0a\0b\0t\0c\0int\0";
        let (s, a, b, t, c, int) = (1_u32, 3, 5, 7, 9, 11);
        let kind = |kind: u32, members: u32| kind << 24 | members;
        let types: Vec<u32> = vec![
            int,
            kind(1, 0),
            4,
            32, // 1: int
            t,
            kind(STRUCT, 1),
            4,
            c,
            1,
            0, // 2: t
            0,
            kind(UNION, 1),
            4,
            b,
            3,
            0, // 4 refers to 3 below
        ];
        let mut all = types;
        all.splice(10..10, [t, kind(TYPEDEF, 0), 2]); // 3: typedef
        all.extend([s, kind(STRUCT, 2), 8, a, 1, 0, 0, 4, 32]); // 5: s
        let types: Vec<u8> = all.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut out = MAGIC.to_ne_bytes().to_vec();
        out.extend([1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            out.extend(u32::to_ne_bytes(word));
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    #[test]
    fn fields_are_found_also_in_what_has_no_name() {
        let btf = Btf::parse(sample()).unwrap();
        let offset = |of, path| btf.offset(of, path).map(|(offset, _)| offset);
        assert_eq!(offset("s", "a"), Ok(0));
        assert_eq!(offset("s", "b"), Ok(4));
        assert_eq!(offset("s", "b.c"), Ok(4));
        assert!(offset("s", "x").unwrap_err().contains("no field x"));
        assert!(offset("u", "x").unwrap_err().contains("no struct u"));
        assert_eq!(btf.size("s"), Ok(8));
    }

    #[test]
    fn what_is_cut_or_changed_is_refused_or_read() {
        let whole = sample();
        for end in 0..whole.len() {
            Btf::parse(whole[..end].to_vec());
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] = changed[at].wrapping_add(0x81);
            if let Some(btf) = Btf::parse(changed) {
                let _ = btf.offset("s", "b.c");
                let _ = btf.size("s");
            }
        }
    }
}
