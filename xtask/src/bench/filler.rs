//! Release binaries of any size: the target with an object file of many small functions linked in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolKind, SymbolScope};

use crate::sh;

/// Groups of functions that share a name, as generic functions do in a symbol table, and how many
/// each has: a pattern is one name. Each function gets two probes.
pub const GROUPS: [(&str, usize); 3] = [("p50", 50), ("p200", 200), ("p250", 250)];

/// What a function of the filler takes: about the mean of a real program's.
const BODY: usize = 300;

/// Builds `bench-target` with so many functions more that its file has about `bytes`.
///
/// # Errors
/// It does not build.
pub fn binary(bytes: usize, dir: &Path) -> Result<PathBuf> {
    // Code, a symbol, its name.
    const EACH: usize = BODY + 24 + 45;
    let file = dir.join(format!("filler-{bytes}.o"));
    fs::write(&file, object(bytes / EACH)?).with_context(|| file.display().to_string())?;
    let mut cargo = sh::cargo();
    cargo.current_dir(sh::root().join("tests/workloads"));
    let target_dir = sh::target_dir().join("workloads-filled");
    cargo.args(["rustc", "--quiet", "--release", "--locked", "--package", "bench-target"]);
    cargo.args(["--bin", "bench-target", "--target-dir"]).arg(&target_dir).arg("--");
    // A reference from outside keeps the linker from dropping the section.
    cargo.arg(format!("-Clink-arg={}", file.display())).arg("-Clink-arg=-Wl,-u,filler_first");
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        cargo.env_remove(name);
    }
    sh::run(&mut cargo)?;
    let binary = dir.join(format!("bench-target-{}", bytes >> 20));
    fs::copy(target_dir.join("release/bench-target"), &binary)?;
    fs::remove_file(&file)?;
    Ok(binary)
}

/// An object of `count` functions, each of which calls the one before it.
fn object(count: usize) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let name = b".text.filler".to_vec();
    let section = object.add_section(vec![], name, object::SectionKind::Text);
    let mut code = Vec::with_capacity(count * BODY);
    for n in 0..count {
        let at = code.len();
        body(&mut code, if n == 0 { None } else { Some(at - BODY) });
        // Hashes as rustc's: the groups' functions differ in nothing else.
        let group = GROUPS.iter().scan(0, |sum, &(name, size)| {
            *sum += size;
            Some((name, *sum))
        });
        let named = group.into_iter().find(|&(_, end)| n < end).map(|(name, _)| name);
        let name = match named {
            Some(name) => format!("_ZN6filler{}{name}17h{n:016x}E", name.len()),
            None => format!("_ZN6filler4rest8f{n:07x}17h{n:016x}E"),
        };
        add(&mut object, section, name, at as u64, SymbolScope::Compilation);
    }
    add(&mut object, section, "filler_first".to_owned(), 0, SymbolScope::Dynamic);
    object.append_section_data(section, &code, 16);
    Ok(object.write()?)
}

fn add(
    object: &mut Object<'_>,
    section: object::write::SectionId,
    name: String,
    value: u64,
    scope: SymbolScope,
) {
    object.add_symbol(Symbol {
        name: name.into_bytes(),
        value,
        size: BODY as u64,
        kind: SymbolKind::Text,
        scope,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
}

/// `push; mov; call before; test; jne`, something to fill the space, and the end.
fn body(code: &mut Vec<u8>, before: Option<usize>) {
    let at = code.len();
    code.extend([0x53, 0x48, 0x89, 0xfb]);
    match before {
        Some(before) => {
            let next = code.len() + 5;
            let distance = (before as i64 - next as i64) as i32;
            code.push(0xe8);
            code.extend(distance.to_le_bytes());
        }
        None => code.extend([0x0f, 0x1f, 0x44, 0, 0]),
    }
    code.extend([0x85, 0xc0, 0x75, 0x02, 0xff, 0xc3]);
    while code.len() + 9 <= at + BODY {
        // lea 1(%rbx),%rbx
        code.extend([0x48, 0x8d, 0x5b, 0x01]);
    }
    // mov %rbx,%rax; pop %rbx; ret
    code.extend([0x48, 0x89, 0xd8, 0x5b, 0xc3]);
    code.resize(at + BODY, 0xcc);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_one_size_and_call_the_one_before() {
        let mut code = vec![];
        body(&mut code, None);
        body(&mut code, Some(0));
        assert_eq!(code.len(), 2 * BODY);
        let call = BODY + 4;
        let distance = i32::from_le_bytes(code[call + 1..call + 5].try_into().unwrap());
        assert_eq!((code[call], call as i32 + 5 + distance), (0xe8, 0));
    }
}
