//! The functions of tokio, hyper, flume, SQLite and OpenSSL that tracing needs, by name.

use std::collections::BTreeMap;

use iced_x86::{Code, Mnemonic, OpKind, Register};

use super::decode::{RAX, RDI, RDX, RSI, gpr};
use super::names::{dropped_type, drops_box_of};
use super::scan::Scan;
use super::sites::{Writes, at_returns, bit, body, entry, exits_ignoring_pointers};
use super::{Cost, ExitSite, Image, Landmarks, Site, SocketLandmarks, TlsLandmarks, task_poll};

/// Collects [`Landmarks`].
pub(super) fn landmarks(image: &Image, scan: &Scan) -> Landmarks {
    let sites = |names: &[&str]| entries(image, names);
    Landmarks {
        tokio_version: tokio_version(image),
        task_poll: sites(&[task_poll::RAW_POLL]),
        task_poll_exits: task_poll::exits(image, scan),
        task_bind: sites(&["tokio::runtime::task::list::OwnedTasks::bind_inner"]),
        // Moved in tokio 1.54.
        blocking_spawn: sites(&[
            "tokio::runtime::blocking::pool::Spawner::spawn_task",
            "tokio::runtime::blocking::sharded::ShardedImpl::spawn_task",
        ]),
        local_spawn: sites(&[
            "tokio::task::local::spawn_local",
            "tokio::task::local::LocalSet::spawn_local",
            "tokio::task::local::Context::spawn",
        ]),
        local_schedule: sites(&["tokio::task::local::Shared::schedule"]),
        task_dealloc: task_dealloc(image),
        task_shutdown: sites(&["tokio::runtime::task::raw::shutdown"]),
        wake: sites(&[
            "tokio::runtime::task::waker::wake_by_val",
            "tokio::runtime::task::waker::wake_by_ref",
        ]),
        panic: sites(&["__rustc::rust_panic", "rust_panic", "std::panicking::rust_panic"]),
        panic_caught: sites(&[
            "std::panicking::catch_unwind::cleanup",
            "std::panicking::try::cleanup",
        ]),
        http_send: sites(&["hyper::client::conn::SendRequest::send_request_retryable"]),
        channel_send: sites(&["flume::Sender::send"]),
        channel_recv: sites(&["flume::Shared::recv"]),
        channel_done: sites(&["flume::async::RecvFut::reset_hook"]),
        channel_close: sites(&["flume::Shared::disconnect_all"]),
        reply_made: addresses(image, &["futures_channel::oneshot::channel"])
            .into_iter()
            .flat_map(|addr| at_returns(image, addr))
            .filter(|exit| exit.has_result)
            .collect(),
        reply_sent: sites(&["futures_channel::oneshot::Sender::send"]),
        sql_step: sites(&["sqlite3_step"]),
        sql_step_exits: sql_step_exits(image, scan),
        sql_reset: sites(&["sqlite3_reset"]),
        sql_finalize: sites(&["sqlite3_finalize", "sqlite3VdbeDelete"]),
        sql_text_offset: sql_text_offset(image),
    }
}

/// Collects [`TlsLandmarks`]. The functions of a library are called from elsewhere, so its
/// exits are `ret`s.
pub(super) fn tls(image: &Image, scan: &Scan) -> TlsLandmarks {
    let pair = |plain, ex| {
        let with = |name, is_ex| entries(image, &[name]).into_iter().map(move |site| (site, is_ex));
        with(plain, false).chain(with(ex, true)).collect()
    };
    let exits = |plain, ex| {
        let with = |name, is_ex| {
            let all = addresses(image, &[name]).into_iter();
            all.flat_map(|addr| returns_behind_thunk(image, scan, addr))
                .map(move |exit| (exit, is_ex))
                .collect::<Vec<_>>()
        };
        with(plain, false).into_iter().chain(with(ex, true)).collect()
    };
    TlsLandmarks {
        write: pair("SSL_write", "SSL_write_ex"),
        read: pair("SSL_read", "SSL_read_ex"),
        write_exits: exits("SSL_write", "SSL_write_ex"),
        read_exits: exits("SSL_read", "SSL_read_ex"),
        free: entries(image, &["SSL_free"]),
    }
}

/// Collects [`SocketLandmarks`]. (`read` and `write` are left out: runtimes read and write sockets
/// with the functions below, and files, pipes and wakeups with those.)
pub(super) fn sockets(image: &Image) -> SocketLandmarks {
    let behind = |names: &[&str], vectors| -> Vec<(Site, bool)> {
        let all = addresses(image, names).into_iter();
        all.flat_map(|addr| behind_system_calls(image, addr)).map(|site| (site, vectors)).collect()
    };
    let both = |plain: &[&str], vectored| {
        let mut all = behind(plain, false);
        all.extend(behind(&[vectored], true));
        all
    };
    SocketLandmarks {
        sent: both(&["send", "sendto"], "writev"),
        received: both(&["recv", "recvfrom"], "readv"),
        close: entries(image, &["close"]),
    }
}

/// Where the result of each system call in a function is tested: the first emulated instruction
/// behind `syscall`, while the arguments, which the kernel preserves, and the result are in their
/// registers. Empty when one of them has none.
fn behind_system_calls(image: &Image, start: u64) -> Vec<Site> {
    let code = body(image, start);
    let mut writes = Writes::new();
    let kept = [RAX, RDI, RSI, RDX].iter().fold(0, |mask, number| mask | bit(*number));
    let mut sites = Vec::new();
    for (at, _) in code.iter().enumerate().filter(|(_, i)| i.mnemonic() == Mnemonic::Syscall) {
        let behind = code.iter().skip(at + 1).take(4);
        let mut found = None;
        for instruction in behind {
            found = image.site(instruction.ip()).filter(|site| site.cost == Cost::Emulated);
            if found.is_some() || writes.of(instruction) & kept != 0 {
                break;
            }
        }
        match found {
            Some(site) => sites.push(site),
            None => return Vec::new(),
        }
    }
    sites
}

/// Where the functions of these names begin, ordered, each once.
pub(super) fn addresses(image: &Image, names: &[&str]) -> Vec<u64> {
    let functions = names.iter().flat_map(|name| image.symbols().named(name));
    let mut all: Vec<_> =
        functions.flat_map(|function| &function.copies).map(|(addr, _)| *addr).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn entries(image: &Image, names: &[&str]) -> Vec<Site> {
    addresses(image, names).into_iter().filter_map(|addr| entry(image, addr)).collect()
}

/// `raw::dealloc` is called through the vtable; elsewhere tokio drops the last reference by a
/// direct call of the drop glue of the task's allocation, or of the box around it.
fn task_dealloc(image: &Image) -> Vec<Site> {
    const CELL: &str = "tokio::runtime::task::core::Cell";
    let mut all = addresses(image, &["tokio::runtime::task::raw::dealloc"]);
    let glue = image.functions().iter().filter(|function| {
        dropped_type(&function.name).is_some_and(|dropped| {
            dropped.starts_with(CELL)
                || dropped.starts_with("alloc::boxed::Box") && drops_box_of(&function.symbol, CELL)
        })
    });
    all.extend(glue.flat_map(|function| &function.copies).map(|(addr, _)| *addr));
    all.sort_unstable();
    all.dedup();
    all.into_iter().filter_map(|addr| entry(image, addr)).collect()
}

/// SQLite keeps the addresses of its functions in one table, for extensions that are loaded at
/// run time: that alone is no reason to leave its callers.
fn sql_step_exits(image: &Image, scan: &Scan) -> Vec<ExitSite> {
    let mut sites = BTreeMap::new();
    for addr in addresses(image, &["sqlite3_step"]) {
        let is_in_table = |place: u64| image.symbols().is_in_object("sqlite3Apis", place);
        for exit in exits_ignoring_pointers(image, scan, addr, is_in_table) {
            sites
                .entry(exit.site.addr)
                .and_modify(|kept: &mut ExitSite| kept.has_result &= exit.has_result)
                .or_insert(exit);
        }
    }
    sites.into_values().collect()
}

/// The offset of the text in `sqlite3_stmt`: `sqlite3_sql` is a null check and one load.
fn sql_text_offset(image: &Image) -> Option<u32> {
    let start = *addresses(image, &["sqlite3_sql"]).first()?;
    let code = body(image, start);
    let load = code.iter().take(8).find(|instruction| {
        instruction.code() == Code::Mov_r64_rm64
            && instruction.op1_kind() == OpKind::Memory
            && instruction.op0_register() == Register::RAX
            && gpr(instruction.memory_base()) == Some(RDI)
            && instruction.memory_index() == Register::None
    })?;
    u32::try_from(load.memory_displacement64()).ok().filter(|offset| *offset < 1 << 16)
}

/// The version in a path like `…/tokio-1.54.0/src/…`: the locations of tokio's panics hold some.
fn tokio_version(image: &Image) -> Option<String> {
    const BEFORE: &[u8] = b"/tokio-";
    let rodata = image.sections().iter().filter(|section| section.name.starts_with(b".rodata"));
    for section in rodata {
        let len = usize::try_from(section.size).ok()?;
        let Some(mut text) = image.bytes(section.addr, len) else { continue };
        // By the first byte: the rest is compared only where that fits.
        while let Some(at) = text.iter().position(|byte| *byte == BEFORE[0]) {
            text = &text[at..];
            if let Some(version) = text.strip_prefix(BEFORE).and_then(version) {
                return Some(version.to_owned());
            }
            text = &text[1..];
        }
    }
    None
}

/// The version number that `text` begins with, up to a slash.
fn version(text: &[u8]) -> Option<&str> {
    let end = text.iter().take(32).position(|byte| *byte == b'/')?;
    let version = std::str::from_utf8(&text[..end]).ok()?;
    let mut parts = version.splitn(3, '.');
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (parts.next().is_some_and(is_number)
        && parts.next().is_some_and(is_number)
        && parts.next().is_some())
    .then_some(version)
}

/// The exits of a function by its `ret`s, behind a lone jump those of where it leads.
pub(super) fn returns_behind_thunk(image: &Image, scan: &Scan, start: u64) -> Vec<ExitSite> {
    use iced_x86::FlowControl;
    let code = body(image, start);
    match code.first() {
        Some(jump)
            if matches!(
                jump.flow_control(),
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
            ) =>
        {
            scan.callee(jump).map_or_else(Vec::new, |target| at_returns(image, target))
        }
        _ => at_returns(image, start),
    }
}
