//! The whole stage: on hand-made files, on damaged ones, and on this very program.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::fixture::{Fixture, TEXT, call, jmp, lea_rdi, open};
use super::*;

const POLL: &str = "_ZN3foo3bar28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE";
const RESUMED: &str =
    "_ZN4core9panicking11panic_const28panic_const_async_fn_resumed17h0123456789abcdefE";

/// `foo::bar::{{closure}}`: state at 0x40 of rsi. State 1 (and any above 0) panics with `own`;
/// behind it, the panic of another body that was inlined.
fn add_poll(fixture: &mut Fixture, panic: u64, own: u64, inlined: u64) -> u64 {
    let at = fixture.next_function();
    let mut code = vec![
        0x53, // 00 push %rbx
        0x48, 0x89, 0xf3, // 01 mov %rsi,%rbx
        0x80, 0x7b, 0x40, 0x00, // 04 cmpb $0,0x40(%rbx)
        0x75, 0x0a, // 08 jne 14
        0xc6, 0x43, 0x40, 0x03, // 0a movb $3,0x40(%rbx)
        0x8b, 0x43, 0x50, // 0e mov 0x50(%rbx),%eax
        0x5b, // 11 pop %rbx
        0xc3, // 12 ret
        0xcc, // 13
    ];
    code.extend(lea_rdi(at + 0x14, own));
    code.extend(call(at + 0x1b, panic));
    code.extend(lea_rdi(at + 0x20, inlined));
    code.extend(call(at + 0x27, panic));
    assert_eq!(fixture.function(POLL, &code), at);
    at
}

struct Sample {
    fixture: Fixture,
    poll: u64,
    caller: u64,
}

fn sample() -> Sample {
    let mut fixture = Fixture::default();
    let own = fixture.location("src/bar.rs", 7, 9);
    let inlined = fixture.location("src/baz.rs\0", 8, 2);
    let panic = fixture.function(RESUMED, &[0x50, 0x0f, 0x0b]);
    let poll = add_poll(&mut fixture, panic, own, inlined);
    let caller = fixture.next_function();
    let mut code = vec![0x50]; // push %rax
    code.extend(call(caller + 1, poll));
    // test %al,%al; je +0; pop %rcx; ret
    code.extend([0x84, 0xc0, 0x74, 0x00, 0x59, 0xc3]);
    fixture.function("_ZN3foo6caller17h0123456789abcdefE", &code);
    fixture.function("_ZN4core3fmt5write17h0123456789abcdefE", &[0xc3]);
    Sample { fixture, poll, caller }
}

fn only<'a>(image: &'a Image, name: &str) -> &'a Function {
    let mut found = image.functions().iter().filter(|function| &*function.name == name);
    let function = found.next().expect("the function");
    assert_eq!(found.next(), None);
    function
}

const POLL_NAME: &str = "foo::bar::{{closure}}";

#[test]
fn a_poll_function_is_understood() {
    let Sample { fixture, poll, caller } = sample();
    let image = fixture.image();
    image.require_rust().expect("Rust");
    assert!(matches!(image.require_tokio(), Err(TargetError::NoTokio { .. })));
    let analysis = Analysis::new(&image);
    let coroutine = analysis.coroutine(only(&image, POLL_NAME)).expect("a coroutine");
    assert_eq!(
        coroutine.state,
        StateByte { offset: 0x40, width: 1, self_register: SelfRegister::Rsi }
    );
    assert_eq!(coroutine.size_at_least, 0x54);
    let entry = Site { addr: poll, offset: poll - 0x1000, bytes: vec![0x53], cost: Cost::Emulated };
    assert_eq!(coroutine.entries, [entry]);
    // Behind the only call, on the je.
    let site = image.site(caller + 8).expect("a site");
    assert_eq!(site.bytes, [0x74, 0x00]);
    assert_eq!(coroutine.exits, [ExitSite { site, at_ret: false, has_result: true }]);
    let location = |file: &str, line, column| SourceLocation { file: file.into(), line, column };
    assert_eq!(coroutine.location, Some(location("src/bar.rs", 7, 9)));
    let [body] = &analysis.inlined()[..] else { panic!("{:?}", analysis.inlined()) };
    assert_eq!(body.location, location("src/baz.rs", 8, 2));
    assert_eq!(&*body.inside, POLL_NAME);
    assert_eq!(analysis.coroutine(only(&image, "foo::caller")).unwrap_err(), WhyNot::NotAsync);
}

#[test]
fn a_function_whose_address_is_taken_exits_at_its_returns() {
    let ret = |image: &Image, poll| ExitSite {
        site: image.site(poll + 0x12).expect("a site"),
        at_ret: true,
        has_result: true,
    };
    let exits = |image: &Image| {
        Analysis::new(image).coroutine(only(image, POLL_NAME)).expect("a coroutine").exits
    };
    // In a vtable.
    let Sample { mut fixture, poll, .. } = sample();
    fixture.pointer(poll);
    let image = fixture.image();
    assert_eq!(exits(&image), [ret(&image, poll)]);
    // In a register.
    let Sample { mut fixture, poll, .. } = sample();
    fixture.function("user", &lea_rdi(fixture.next_function(), poll));
    let image = fixture.image();
    assert_eq!(exits(&image), [ret(&image, poll)]);
    // Jumped to: it returns to somewhere else.
    let Sample { mut fixture, poll, .. } = sample();
    fixture.function("user", &jmp(fixture.next_function(), poll));
    let image = fixture.image();
    assert_eq!(exits(&image), [ret(&image, poll)]);
}

#[test]
fn a_caller_without_a_cheap_site_costs_no_other() {
    let Sample { mut fixture, poll, caller } = sample();
    let user = fixture.next_function();
    let mut code = call(user, poll).to_vec();
    code.extend([0x48, 0x83, 0xc4, 0x08, 0x74, 0x00, 0xc3]); // add $8,%rsp; je; ret
    fixture.function("user", &code);
    let image = fixture.image();
    let coroutine = Analysis::new(&image).coroutine(only(&image, POLL_NAME));
    let exits = coroutine.expect("a coroutine").exits;
    let sites: Vec<_> =
        exits.iter().map(|exit| (exit.site.addr, exit.site.cost, exit.at_ret)).collect();
    assert_eq!(
        sites,
        [(caller + 8, Cost::Emulated, false), (user + 5, Cost::SingleStepped, false)]
    );
}

#[test]
fn code_shared_by_two_names_is_not_traced() {
    let Sample { mut fixture, poll, .. } = sample();
    fixture.alias("_ZN3foo5other28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE", poll, 0x2c);
    let image = fixture.image();
    assert_eq!(image.names_at(poll).len(), 2);
    let with = vec!["foo::other::{{closure}}".into()];
    let analysis = Analysis::new(&image);
    assert_eq!(analysis.coroutine(only(&image, POLL_NAME)), Err(WhyNot::Merged { with }));
}

#[test]
fn a_name_at_two_addresses_is_one_function() {
    let Sample { mut fixture, poll, .. } = sample();
    // The same code needs the same distances to panic and locations: an alias of its beginning
    // elsewhere is enough here.
    let second = fixture.function(POLL, &[0x90, 0xc3]);
    let image = fixture.image();
    let function = only(&image, POLL_NAME);
    assert_eq!(function.copies, [(poll, 0x2c), (second, 2)]);
    assert_eq!(Analysis::new(&image).coroutine(function), Err(WhyNot::NotAsync));
    let plain = &Analysis::new(&image).plain_functions(&[function])[0];
    assert_eq!(plain.as_ref().map(|plain| plain.entries.len()), Some(2));
}

#[test]
fn entries_leave_stack_and_arguments_alone() {
    let entry = |code: &[u8]| {
        let mut fixture = Fixture::default();
        let start = fixture.function("f", code);
        let image = fixture.image();
        let functions: Vec<_> = image.functions().iter().collect();
        let plain = Analysis::new(&image).plain_functions(&functions).remove(0)?;
        let site = plain.entries[0].clone();
        Some((site.addr - start, site.cost))
    };
    // endbr64; push %rbp
    assert_eq!(entry(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xc3]), Some((4, Cost::Emulated)));
    // sub $8,%rsp; call: the stack pointer has moved.
    assert_eq!(
        entry(&[0x48, 0x83, 0xec, 0x08, 0xe8, 0, 0, 0, 0, 0xc3]),
        Some((0, Cost::SingleStepped))
    );
    // mov %rsi,%rdi; je: an argument is gone.
    assert_eq!(entry(&[0x48, 0x89, 0xf7, 0x74, 0, 0xc3]), Some((0, Cost::SingleStepped)));
    // test %rdi,%rdi; je
    assert_eq!(entry(&[0x48, 0x85, 0xff, 0x74, 0, 0xc3]), Some((3, Cost::Emulated)));
    // dec %eax; test %rdi,%rdi; jne -5: a loop, hit more than once.
    assert_eq!(
        entry(&[0xff, 0xc8, 0x48, 0x85, 0xff, 0x75, 0xfb, 0xc3]),
        Some((0, Cost::SingleStepped))
    );
    // lock incl (%rdi): refused by the kernel, as is all behind it that is no instruction.
    assert_eq!(entry(&[0xf0, 0xff, 0x07]), None);
}

#[test]
fn files_that_are_no_target_say_so() {
    let good = sample().fixture.bytes();
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        open(&bytes).expect_err("refused")
    };
    assert!(matches!(with(0, 0), TargetError::NotElf { .. }));
    assert!(matches!(with(4, 1), TargetError::Not64Bit { .. }));
    assert!(matches!(with(18, 183), TargetError::WrongMachine { machine: 183, .. }));
    assert!(matches!(with(16, 1), TargetError::NotLinked { kind: 1, .. }));
    assert!(matches!(open(b""), Err(TargetError::NotElf { .. })));
    assert!(matches!(open(b"#!/bin/sh\n"), Err(TargetError::NotElf { .. })));
    let cut = open(&good[..good.len() - 64]).expect_err("refused");
    assert_eq!(cut.kind(), TargetErrorKind::Malformed);
    let missing = Image::open(Path::new("/nonexistent"), Path::new("/nonexistent"));
    assert_eq!(missing.expect_err("missing").kind(), TargetErrorKind::NoSuchProcess);
    let mut c = Fixture::default();
    c.function("main", &[0xc3]);
    assert!(matches!(c.image().require_rust(), Err(TargetError::NotRust { .. })));
}

/// Everything that can be asked of a file.
fn ask_everything(bytes: &[u8]) {
    let Ok(image) = open(bytes) else { return };
    let _ = image.require_rust();
    let _ = image.require_tokio();
    let analysis = Analysis::new(&image);
    let functions: Vec<_> = image.functions().iter().collect();
    let _ = analysis.coroutines(&functions);
    let _ = analysis.plain_functions(&functions);
    let _ = analysis.inlined();
    let _ = analysis.landmarks();
    let _ = analysis.tls_landmarks();
}

fn good_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| sample().fixture.bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_files_neither_panic_nor_hang(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..40),
        // Most of the file is padding: half of the damage goes to where something is.
        words in proptest::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = good_bytes().to_vec();
        let used: Vec<_> =
            (0..bytes.len()).filter(|at| bytes[*at] != 0 && bytes[*at] != 0xcc).collect();
        for (at, bit) in flips {
            bytes[*at.get(&used)] ^= 1 << bit;
        }
        for (at, word) in words {
            let at = at.get(&used) / 8 * 8;
            if let Some(place) = bytes.get_mut(at..at + 8) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let started = Instant::now();
        ask_everything(&bytes);
        prop_assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn random_code_neither_panics_nor_hangs(code in proptest::collection::vec(any::<u8>(), 1..3000)) {
        let mut fixture = Fixture::default();
        fixture.function(RESUMED, &[0xc3]);
        for (index, code) in code.chunks(64).enumerate() {
            let name = format!("_ZN3foo{}f{index}28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE", format!("f{index}").len());
            fixture.function(&name, code);
        }
        // A body that ends in a panic, so that the random code before it may reach one.
        let at = fixture.next_function();
        fixture.function("_ZN3foo28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE", &call(at, TEXT));
        ask_everything(&fixture.bytes());
    }
}

#[inline(never)]
async fn leaf(value: u32) -> u32 {
    tokio::task::yield_now().await;
    std::hint::black_box(value)
}

#[inline(never)]
async fn branch(value: u32) -> u32 {
    leaf(value).await + leaf(value + 1).await
}

#[test]
fn this_program_is_a_target() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
    let sum = runtime.expect("a runtime").block_on(async { tokio::spawn(branch(1)).await });
    assert_eq!(sum.expect("it does not panic"), 3);
    let target = Target::open(std::process::id()).expect("ourselves");
    target.still_same().expect("the same");
    assert_eq!(target.pid_namespace.pid, std::process::id());
    assert!(target.modules.iter().any(|module| module.name == target.exe.info().name));
    let image = &*target.exe;
    image.require_rust().expect("Rust");
    image.require_tokio().expect("tokio");
    let analysis = Analysis::new(image);
    for name in
        ["tracer::target::tests::leaf::{{closure}}", "tracer::target::tests::branch::{{closure}}"]
    {
        let coroutine = analysis.coroutine(only(image, name)).expect(name);
        let location = coroutine.location.expect("a location");
        assert!(location.file.ends_with("target/tests.rs"), "{location:?}");
        assert!(!coroutine.exits.is_empty());
        // At run time a byte of it must be there to read.
        assert!(coroutine.size_at_least > coroutine.state.offset);
    }
    let Landmarks { task_poll, task_poll_exits, panic, .. } = analysis.landmarks();
    assert!(!task_poll.is_empty() && !task_poll_exits.is_empty() && !panic.is_empty());
}

#[test]
fn a_stripped_program_says_so() {
    let Sample { fixture, .. } = sample();
    let mut bytes = fixture.bytes();
    // The kind of the section at index 3, .symtab, becomes that of plain data.
    let headers = u64::from_le_bytes(bytes[40..48].try_into().expect("8 bytes")) as usize;
    bytes[headers + 3 * 64 + 4] = 1;
    let image = open(&bytes).expect("an image");
    assert!(matches!(image.require_rust(), Err(TargetError::Stripped { .. })));
}

#[test]
fn ids_that_are_no_process_say_so() {
    let missing = Target::open(u32::MAX).expect_err("no such id");
    assert_eq!(missing.kind(), TargetErrorKind::NoSuchProcess);
    assert!(matches!(Target::open(0), Err(TargetError::NoSuchProcess { pid: 0 })));
    let (send, receive) = std::sync::mpsc::channel();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        send.send(rustix::thread::gettid()).expect("a receiver");
        let _ = wait.recv();
    });
    let tid = receive.recv().expect("an id").as_raw_nonzero().get() as u32;
    let pid = std::process::id();
    assert!(
        matches!(Target::open(tid), Err(TargetError::Thread { tid: t, pid: p }) if t == tid && p == pid)
    );
    drop(done);
    thread.join().expect("it ends");
}

#[test]
fn a_child_that_ends_and_one_that_executes_are_noticed() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};
    let mut child = Command::new("/bin/sh")
        .args(["-c", "echo ready; read line; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    output.read_line(&mut line).expect("it is ready");
    let target = Target::open(child.id()).expect("a process");
    target.still_same().expect("the same");
    assert!(matches!(
        target.exe.require_rust(),
        Err(TargetError::Stripped { .. } | TargetError::NotRust { .. })
    ));
    let mut input = child.stdin.take().expect("its input");
    input.write_all(b"go\nechoed\n").expect("it reads");
    // Only after `exec` does somebody echo.
    line.clear();
    output.read_line(&mut line).expect("cat answers");
    assert!(matches!(target.still_same(), Err(TargetError::Replaced { .. })));
    drop(input);
    // Not yet waited for: a zombie.
    output.read_line(&mut line).expect("the end");
    let ended = Instant::now();
    while !matches!(Target::open(child.id()), Err(TargetError::Zombie { .. })) {
        assert!(ended.elapsed() < Duration::from_secs(10), "the child does not end");
        std::thread::yield_now();
    }
    child.wait().expect("it ended");
    assert!(matches!(target.still_same(), Err(TargetError::NoSuchProcess { .. })));
}
