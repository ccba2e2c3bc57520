//! `core::panic::Location`s in the read-only data: where a body is written, when its name is
//! lost.

use super::{Image, SourceLocation};

/// Longer than any path that a compiler is given.
const MAX_PATH: u64 = 4096;

/// The `Location { file: &str, line: u32, column: u32 }` at `addr`, if that is one.
pub(super) fn location_at(image: &Image, addr: u64) -> Option<SourceLocation> {
    let field = |at: u64| addr.checked_add(at);
    let text = image.pointer_at(addr)?;
    let len = image.u64_at(field(8)?)?;
    let line = image.u32_at(field(16)?)?;
    let column = image.u32_at(field(20)?)?;
    if len == 0 || len > MAX_PATH || line == 0 || column == 0 {
        return None;
    }
    let file = std::str::from_utf8(image.bytes(text, usize::try_from(len).ok()?)?).ok()?;
    // Newer compilers count a closing NUL in.
    let file = file.strip_suffix('\0').unwrap_or(file);
    if file.is_empty() || file.contains(char::is_control) {
        return None;
    }
    Some(SourceLocation { file: file.to_owned(), line, column })
}
