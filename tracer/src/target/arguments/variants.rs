//! The names of a fieldless enum's variants, read from the machine code of its `Debug`.

use super::super::dispatch::Walk;
use super::super::scan::Scan;
use super::super::sites::body;
use super::super::{Image, SelfRegister};

/// More variants than are looked for.
const MAX_VARIANTS: u64 = 128;
/// A variant's name is not longer.
const MAX_NAME: u64 = 64;

/// What `#[derive(Debug)]` passes the name to.
const WRITE_STR: &str = "core::fmt::Formatter::write_str";

/// The variants by discriminant (one byte), as long as the code at `start` gives names for them.
/// It has a table without a bound, so there may be nonsense behind the last: a value that never
/// occurs.
pub(super) fn of_debug(image: &Image, scan: &Scan, start: u64) -> Vec<(u64, String)> {
    let code = body(image, start);
    let mut names: Vec<(u64, String)> = Vec::new();
    for discriminant in 0..MAX_VARIANTS {
        let walk = Walk::new(image, scan, &code, (SelfRegister::Rdi, 0, 1), discriminant);
        let Some((callee, text, len)) = walk.run_to_tail_call() else { break };
        let is_write = image.names_at(callee).iter().any(|name| name.starts_with(WRITE_STR));
        if !is_write || !(1..=MAX_NAME).contains(&len) {
            break;
        }
        let name = image.bytes(text, len as usize).and_then(|name| std::str::from_utf8(name).ok());
        let Some(name) = name.filter(|name| is_variant(name)) else { break };
        if names.iter().any(|(_, other)| other == name) {
            break;
        }
        names.push((discriminant, name.to_owned()));
    }
    // An enum of one variant has no discriminant, and a single name proves nothing.
    if names.len() < 2 { Vec::new() } else { names }
}

fn is_variant(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_uppercase())
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}
