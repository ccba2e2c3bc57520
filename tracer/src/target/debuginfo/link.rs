//! `.gnu_debuglink`: the name of the file that debuginfo was moved to, and its checksum.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::super::Image;

/// More than any debuginfo file that is worth reading through for its checksum.
const MAX_CHECKED: u64 = 2 << 30;

/// The file's name.
pub(super) fn name(image: &Image) -> Option<PathBuf> {
    parse(image.section_data(b".gnu_debuglink")?).map(|(name, _)| name)
}

/// Whether the file has the checksum that the program gives.
pub(super) fn vouches(image: &Image, path: &Path) -> bool {
    let link = image.section_data(b".gnu_debuglink").and_then(parse);
    link.is_some_and(|(_, wanted)| checksum(path).is_ok_and(|found| found == wanted))
}

fn parse(section: &[u8]) -> Option<(PathBuf, u32)> {
    let end = section.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&section[..end]).ok()?;
    // A name, not a way out of the folder.
    if name.is_empty() || name == ".." || name == "." || name.contains('/') {
        return None;
    }
    let at = (end + 1).next_multiple_of(4);
    let checksum = section.get(at..at + 4)?.try_into().ok()?;
    Some((PathBuf::from(name), u32::from_le_bytes(checksum)))
}

/// CRC-32 as in ISO 3309, bit by bit from a table of nibbles.
fn checksum(path: &Path) -> std::io::Result<u32> {
    let table: [u32; 256] = std::array::from_fn(|byte| {
        (0..8).fold(byte as u32, |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    let mut file = File::open(path)?;
    if file.metadata()?.len() > MAX_CHECKED {
        return Err(std::io::Error::other("too large"));
    }
    let mut buffer = vec![0; 1 << 16];
    let mut crc = u32::MAX;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(!crc);
        }
        for byte in &buffer[..read] {
            crc = (crc >> 8) ^ table[(crc as u8 ^ byte) as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"123456789").unwrap();
        assert_eq!(checksum(file.path()).unwrap(), 0xcbf4_3926);
    }

    #[test]
    fn a_link_is_a_name() {
        let link = |name: &[u8]| {
            let mut section = name.to_vec();
            section.push(0);
            section.resize(section.len().next_multiple_of(4), 0);
            section.extend(7_u32.to_le_bytes());
            parse(&section)
        };
        assert_eq!(link(b"a.debug"), Some((PathBuf::from("a.debug"), 7)));
        for bad in [&b"../x"[..], b"/x", b"", b"..", b"\xff"] {
            assert_eq!(link(bad), None);
        }
        assert_eq!(parse(b"abc"), None);
        assert_eq!(parse(b"abc\0\x01"), None);
    }
}
