//! On a program that is compiled here: what DWARF says is held against the memory of the running
//! program, what its code says against DWARF. And on damaged DWARF.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::{Access, AccessStep, Analysis, Coroutine, Image, Place, Shape};
use super::*;

const EXECUTE: &str = "described::Exec::execute::{{closure}}";

/// The program, compiled once with and once without debuginfo.
fn compiled() -> &'static (TempDir, PathBuf, PathBuf) {
    static COMPILED: OnceLock<(TempDir, PathBuf, PathBuf)> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("src/target/debuginfo/fixture/described.rs");
        let compile = |debuginfo: &str, name: &str| {
            let out = dir.path().join(name);
            let done = Command::new("rustc")
                .args(["--edition", "2024", "-C", "opt-level=3", "-C", debuginfo, "-o"])
                .args([&out, &source])
                .output()
                .unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            out
        };
        let (with, without) =
            (compile("debuginfo=2", "described"), compile("debuginfo=0", "plain"));
        (dir, with, without)
    })
}

/// The running program, stopped before it polls its coroutine.
struct Running {
    child: Child,
    memory: File,
    future: u64,
}

impl Running {
    fn start(program: &Path) -> Self {
        let mut child =
            Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let future = u64::from_str_radix(line.trim().trim_start_matches("0x"), 16).unwrap();
        let memory = File::open(format!("/proc/{}/mem", child.id())).unwrap();
        Self { child, memory, future }
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn word(&self, at: u64, width: usize) -> u64 {
        let mut word = [0; 8];
        word[..width].copy_from_slice(&self.bytes(at, width));
        u64::from_le_bytes(word)
    }

    /// What the programs in the kernel would do.
    fn fetch(&self, access: &Access) -> Option<Vec<u8>> {
        let mut at = self.future;
        for step in &access.steps {
            match *step {
                AccessStep::Deref(offset) => at = self.word(at + u64::from(offset), 8),
                AccessStep::Require { offset, width, low, high, inside } => {
                    let number = self.word(at + u64::from(offset), width.into());
                    if (low..=high).contains(&number) != inside {
                        return None;
                    }
                }
            }
            if at == 0 {
                return None;
            }
        }
        Some(match access.place {
            Place::Inline { offset, len } => self.bytes(at + u64::from(offset), len.into()),
            Place::Slice { offset, len_offset } => {
                let len = self.word(at + u64::from(len_offset), 8);
                assert!(len < 256);
                self.bytes(self.word(at + u64::from(offset), 8), len as usize)
            }
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn coroutine(analysis: &Analysis<'_>) -> Coroutine {
    named(analysis, EXECUTE)
}

fn named(analysis: &Analysis<'_>, name: &str) -> Coroutine {
    let mut functions = analysis.image().functions().iter();
    let function = functions.find(|function| &*function.name == name).expect("the function");
    analysis.coroutine(function).expect("a coroutine")
}

fn addrs(coroutine: &Coroutine) -> Vec<u64> {
    coroutine.function.copies.iter().map(|(addr, _)| *addr).collect()
}

fn path(text: &str) -> Vec<String> {
    text.split('.').map(str::to_owned).collect()
}

fn find(info: &DebugInfo, coroutine: &Coroutine, text: &str) -> Result<(Access, String), String> {
    let path = path(text);
    let wanted = [WantedArgument { path: &path, r#type: None }];
    let mut found = info.reader().find(coroutine, &addrs(coroutine), &wanted);
    let FoundArgument { mut accesses, r#type } = found.pop().unwrap()?;
    assert_eq!(accesses.len(), 1);
    Ok((accesses.pop().unwrap(), r#type))
}

#[test]
fn every_kind_of_value_is_found_where_it_is() {
    let program = &compiled().1;
    let image = Image::open(program, program).unwrap();
    let analysis = Analysis::new(&image);
    let coroutine = coroutine(&analysis);
    let info = image.debuginfo().unwrap();
    let running = Running::start(program);
    let fetch = |path: &str| {
        let (access, _) = find(&info, &coroutine, path).unwrap_or_else(|e| panic!("{path}: {e}"));
        (access.shape.clone(), running.fetch(&access))
    };
    let text = |path, text: &str| assert_eq!(fetch(path), (Shape::Text, Some(text.into())));
    let number = |path, shape, bytes: &[u8]| assert_eq!(fetch(path), (shape, Some(bytes.into())));
    let variant = |path, name: Option<&str>| {
        let (Shape::Variant { names, other }, bytes) = fetch(path) else { panic!("{path}") };
        let found = bytes.map(|mut bytes| {
            bytes.resize(8, 0);
            let value = u64::from_le_bytes(bytes.try_into().unwrap());
            let known = names.into_iter().find(|(n, _)| *n == value).map(|(_, name)| name);
            known.or(other).unwrap()
        });
        assert_eq!(found.as_deref(), name, "{path}");
    };
    text("name", "db_query");
    text("text", "a text");
    text("agent.task", "task 1");
    text("boxed.task", "task 2");
    text("boxed.parent.task", "task 3");
    text("shared.task", "task 4");
    text("shared.session", "session 4");
    number("self.x", Shape::Unsigned, &7_u64.to_le_bytes());
    number("agent.number", Shape::Unsigned, &1_u32.to_le_bytes());
    number("list", Shape::Unsigned, &3_u64.to_le_bytes());
    number("flag", Shape::Bool, &[1]);
    number("signed", Shape::Signed, &(-5_i32).to_le_bytes());
    number(
        "agent.id",
        Shape::Uuid,
        b"\x01\x23\x45\x67\x89\xab\x4d\xef\x81\x23\x45\x67\x89\xab\xcd\x01",
    );
    variant("agent.kind", Some("CodeReviewer"));
    variant("agent.some", Some("Explorer"));
    variant("agent.none", None);
    variant("note", Some("Number"));
    // The grandparent is not there.
    assert_eq!(fetch("boxed.parent.parent.number").1, None);
}

#[test]
fn what_is_not_there_is_said() {
    let program = &compiled().1;
    let image = Image::open(program, program).unwrap();
    let analysis = Analysis::new(&image);
    let mut coroutine = coroutine(&analysis);
    let info = image.debuginfo().unwrap();
    let why = find(&info, &coroutine, "nobody").unwrap_err();
    assert!(why.contains("nobody") && why.contains("name, "), "{why}");
    let why = find(&info, &coroutine, "agent.salary").unwrap_err();
    assert!(why.contains("`Agent` has no field `salary`"), "{why}");
    let why = find(&info, &coroutine, "agent").unwrap_err();
    assert!(why.contains("`Agent` cannot be shown"), "{why}");
    // Another build has its state elsewhere.
    coroutine.state.offset += 1;
    let why = find(&info, &coroutine, "name").unwrap_err();
    assert!(why.contains("another build"), "{why}");
    let plain = Image::open(&compiled().2, &compiled().2).unwrap();
    // The standard library brings its own.
    let plain_why = plain.debuginfo().map(|info| find(&info, &coroutine, "name"));
    assert!(!matches!(plain_why, Ok(Ok(_))), "{plain_why:?}");
}

#[test]
fn the_code_says_the_same_as_dwarf() {
    let (_, with, without) = compiled();
    let described = Image::open(with, with).unwrap();
    let info = described.debuginfo().unwrap();
    let coroutine_described = coroutine(&Analysis::new(&described));
    let plain = Image::open(without, without).unwrap();
    let analysis = Analysis::new(&plain);
    let coroutine = coroutine(&analysis);
    assert_eq!(coroutine.state, coroutine_described.state);
    let code = analysis.undescribed(&coroutine);
    let both = |text: &str, r#type: &str, name: &str| {
        let path = path(text);
        let found = analysis
            .undescribed(&named(&analysis, name))
            .find(&WantedArgument { path: &path, r#type: Some(r#type) });
        let by_name = find(&info, &named(&Analysis::new(&described), name), text).unwrap().0;
        (found.unwrap_or_else(|why| panic!("{text}: {why}")).accesses, by_name)
    };
    for (text, r#type) in [("agent.id", "described::Uuid"), ("agent.kind", "described::Kind")] {
        let (by_code, by_name) = both(text, r#type, EXECUTE);
        assert_eq!(by_code, [by_name], "{text}");
    }
    let (by_code, by_name) = both("name", "str", "described::Exec::small::{{closure}}");
    // Places that may be meant: the text's own is one of them.
    let same = by_code.iter().filter(|access| access.place == by_name.place);
    assert_eq!(same.count(), 1, "{by_code:?} {by_name:?}");
    let path = path("agent.kind");
    for r#type in ["described::Agent", "described::Note", "core::time::Duration"] {
        let wanted = WantedArgument { path: &path, r#type: Some(r#type) };
        assert!(code.find(&wanted).is_err(), "{type}");
    }
    assert!(code.find(&WantedArgument { path: &path, r#type: None }).is_err());
}

/// The bounds that are promised, with room for a busy machine.
const QUICKLY: Duration = Duration::from_secs(20);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn damaged_debuginfo_ends_quickly(
        seed in any::<u64>(),
        flips in 1_usize..2000,
        cut in proptest::option::of(0.0..1.0),
    ) {
        let program = &compiled().1;
        let image = Image::open(program, program).unwrap();
        let coroutine = coroutine(&Analysis::new(&image));
        let mut bytes = std::fs::read(program).unwrap();
        let sections = Sections::find(&bytes).unwrap();
        // Like a generator of random numbers, and the same for a seed.
        let mut random = seed | 1;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % below.max(1)
        };
        for id in [gimli::SectionId::DebugInfo, gimli::SectionId::DebugAbbrev] {
            let range = sections.range(id).unwrap();
            for _ in 0..flips {
                bytes[range.start + next(range.len())] = next(256) as u8;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate((bytes.len() as f64 * cut) as usize);
        }
        let began = Instant::now();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        if let Ok(info) = DebugInfo::open(file.path()) {
            for text in ["name", "agent.id", "boxed.parent.task", "note"] {
                let _ = find(&info, &coroutine, text);
            }
        }
        prop_assert!(began.elapsed() < QUICKLY);
    }

    #[test]
    fn any_bytes_are_no_debuginfo(
        info in proptest::collection::vec(any::<u8>(), 0..400),
        abbrev in proptest::collection::vec(any::<u8>(), 0..200),
        addr in any::<u64>(),
    ) {
        let mut data = info.clone();
        data.extend(&abbrev);
        let sections = Sections::of([
            (gimli::SectionId::DebugInfo, 0..info.len()),
            (gimli::SectionId::DebugAbbrev, info.len()..data.len()),
        ]);
        let units = Units::new(Dwarf::new(&data, &sections));
        let _ = units.coroutine(addr);
    }
}
