//! What /proc says of a process.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

/// A look at a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// CPU time of its living threads, nanoseconds.
    pub cpu_ns: u64,
    /// How often its threads went to sleep by themselves, and so were woken.
    pub wakeups: u64,
    /// Resident memory, bytes, without the ring buffer: mapped twice for its reader, it would be
    /// counted three times.
    pub rss: u64,
    /// The most it ever had.
    pub peak_rss: u64,
    /// Memory of its eBPF maps, bytes.
    pub maps: u64,
}

impl Look {
    /// What `pid` has used so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn at(pid: u32) -> Result<Self> {
        let mut look = Self::default();
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| tasks.clone())?.flatten() {
            let path = task.path();
            // A thread may end between two lines; its time is lost to us, which is little.
            let schedstat = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            look.cpu_ns += first_number(&schedstat);
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            look.wakeups += field(&status, "voluntary_ctxt_switches:");
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
        let rings = resident_rings(&smaps) << 10;
        look.rss = (field(&status, "VmRSS:") << 10).saturating_sub(rings);
        look.peak_rss = (field(&status, "VmHWM:") << 10).saturating_sub(rings);
        let mut seen = BTreeSet::new();
        for fd in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
            let info = fs::read_to_string(fd.path()).unwrap_or_default();
            if info.contains("map_id:") && seen.insert(field(&info, "map_id:")) {
                look.maps += field(&info, "memlock:");
            }
        }
        Ok(look)
    }
}

/// Resident kilobytes of mapped eBPF maps.
fn resident_rings(smaps: &str) -> u64 {
    let mut inside = false;
    let mut sum = 0;
    for line in smaps.lines() {
        match line.split_whitespace().next() {
            // A mapping begins with its range, a line about it with a name and a colon.
            Some(word) if !word.ends_with(':') => inside = line.ends_with("anon_inode:bpf-map"),
            Some("Rss:") if inside => sum += field(line, "Rss:"),
            _ => {}
        }
    }
    sum
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, first_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields() {
        let text =
            "VmHWM:\t   12 kB\nnonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t9\n";
        assert_eq!(field(text, "VmHWM:"), 12);
        assert_eq!(field(text, "voluntary_ctxt_switches:"), 9);
        assert_eq!(field(text, "VmRSS:"), 0);
    }

    #[test]
    fn tells_rings_from_other_mappings() {
        let smaps = "00-10 rw-s 0 00:0e 1 anon_inode:bpf-map\nSize: 9 kB\nRss: 4 kB\n\
                     10-20 r--p 0 00:0e 1 /bin/x\nRss: 3 kB\n";
        assert_eq!(resident_rings(smaps), 4);
    }

    #[test]
    fn sees_itself() {
        let look = Look::at(std::process::id()).unwrap();
        assert!(look.rss > 0 && look.peak_rss >= look.rss && look.cpu_ns > 0);
    }
}
