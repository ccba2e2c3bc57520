//! What tracing leaves behind: nothing, neither in the kernel nor in the target.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use super::{PATIENCE, wait_for};

/// Every eBPF program, map and link of the machine, by kind and id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objects(BTreeSet<(&'static str, u32)>);

/// `bpf(2)` commands that name the next id of a kind.
const NEXT: [(&str, i64); 3] = [("program", 11), ("map", 12), ("link", 31)];

impl Objects {
    /// Those that are there now.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn now() -> Result<Self> {
        let mut found = BTreeSet::new();
        for (kind, command) in NEXT {
            let mut id = 0;
            while let Some(next) = next_id(command, id).with_context(|| format!("{kind}s"))? {
                found.insert((kind, next));
                id = next;
            }
        }
        Ok(Self(found))
    }

    /// Waits until nothing is there that is not among these. (The kernel takes objects away a
    /// moment after their last holder has gone.)
    ///
    /// # Errors
    /// Something stays.
    pub fn wait_until_restored(&self) -> Result<()> {
        let mut more = vec![];
        wait_for("eBPF objects to go", PATIENCE, || {
            more = Self::now()?.0.difference(&self.0).copied().collect();
            Ok(more.is_empty().then_some(()))
        })
        .with_context(|| format!("still there: {more:?}"))
    }

    /// How many are there that are not among `earlier`.
    pub fn more_than(&self, earlier: &Self) -> usize {
        self.0.difference(&earlier.0).count()
    }
}

fn next_id(command: i64, id: u32) -> io::Result<Option<u32>> {
    // `union bpf_attr`, as far as these commands read it: start_id, next_id, open_flags.
    let mut attr = [id, 0, 0];
    // SAFETY: the kernel reads and writes no more than the size given, which is the array's.
    let failed = unsafe {
        libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(&attr)) != 0
    };
    if !failed {
        return Ok(Some(attr[1]));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        error => Err(error),
    }
}

/// Places in the code of `pid` where its memory and the file that is mapped there differ.
///
/// # Errors
/// It cannot be read.
pub fn changed_code(pid: u32) -> Result<Vec<u64>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut changed = vec![];
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(mode), Some(offset), _, Some(inode)) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        if !mode.contains('x') || inode == "0" {
            continue;
        }
        let (from, to) = range.split_once('-').context("a range in maps")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let file = File::open(format!("/proc/{pid}/map_files/{range}"))?;
        let mut mapped = vec![0; (to - from) as usize];
        memory.read_exact_at(&mut mapped, from)?;
        // The last page reaches beyond the end of the file.
        let mut stored = vec![0; mapped.len()];
        let length = read_at(&file, &mut stored, u64::from_str_radix(offset, 16)?)?;
        let differs = |&at: &usize| mapped[at] != stored[at];
        changed.extend((0..length).filter(differs).map(|at| from + at as u64));
    }
    Ok(changed)
}

fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match file.read_at(&mut into[length..], offset + length as u64)? {
            0 => break,
            n => length += n,
        }
    }
    Ok(length)
}
