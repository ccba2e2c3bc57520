//! Which processes are to be traced: looks at `/proc` now and then, at little cost.
//!
//! A new process is looked at once; what it executes later is noticed by looking again at those
//! that are young, and at some of the others in turn.

mod process;
mod rules;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use process::{Identity, executable, identity, is_named};
pub use rules::Rules;

/// Old processes looked at again in one scan.
const AGAIN: usize = 512;
/// A process that began to be known less long ago is looked at in every scan.
const YOUNG: Duration = Duration::from_secs(10);
/// Between fork and exec a child still has its parent's program: it is given this long.
const SETTLED: Duration = Duration::from_millis(30);

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Processes that the rules name, in order of their ids.
    pub pids: Vec<u32>,
    /// Some of what matches began so recently that it may still execute another program: look
    /// again soon.
    pub unsettled: bool,
}

/// Remembers what it has seen.
#[derive(Debug)]
pub struct Scanner {
    proc: PathBuf,
    own: u32,
    known: HashMap<u32, Known>,
    /// Where looking again at the old ones goes on.
    cursor: u32,
}

#[derive(Debug)]
struct Known {
    matches: bool,
    since: Instant,
}

impl Scanner {
    /// Looks below `/proc`.
    pub fn new() -> Self {
        Self::below(Path::new("/proc"), std::process::id())
    }

    fn below(proc: &Path, own: u32) -> Self {
        Self { proc: proc.to_owned(), own, known: HashMap::new(), cursor: 0 }
    }

    /// Looks at everything anew next time: the rules have changed.
    pub fn forget_all(&mut self) {
        self.known.clear();
    }

    /// Looks at this one anew next time.
    pub fn forget(&mut self, pid: u32) {
        self.known.remove(&pid);
    }

    /// Looks for processes.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn scan(&mut self, rules: &Rules) -> io::Result<Found> {
        let now = Instant::now();
        let mut pids: Vec<u32> = fs::read_dir(&self.proc)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != self.own)
            .collect();
        pids.sort_unstable();
        self.known.retain(|pid, _| pids.binary_search(pid).is_ok());

        let mut again = AGAIN;
        // The old ones from where the last scan stopped, then those before.
        let start = pids.partition_point(|pid| *pid < self.cursor);
        let (before, after) = pids.split_at(start);
        for &pid in after.iter().chain(before) {
            match self.known.get(&pid) {
                Some(known) if now.duration_since(known.since) >= YOUNG => {
                    if again == 0 {
                        continue;
                    }
                    again -= 1;
                    self.cursor = pid.saturating_add(1);
                }
                Some(_) | None => {}
            }
            let matches = rules.matches(&self.proc, pid);
            self.known.entry(pid).or_insert(Known { matches, since: now }).matches = matches;
        }

        let mut found = Found::default();
        for pid in pids {
            let Some(Known { matches: true, since }) = self.known.get(&pid) else { continue };
            let young = now.duration_since(*since) < YOUNG;
            if young && process::age(&self.proc, pid).is_some_and(|age| age < SETTLED) {
                found.unsettled = true;
            } else {
                found.pids.push(pid);
            }
        }
        Ok(found)
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

/// Ids of all processes whose executable has this file name, but for `own`.
pub fn by_name(proc: &Path, name: &str, own: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(proc) else { return vec![] };
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own && is_named(&proc.join(pid.to_string()), name))
        .collect();
    pids.sort_unstable();
    pids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::config::Discovery;

    pub(super) fn process(proc: &Path, pid: u32, exe: &str, cgroup: &str) {
        let dir = proc.join(pid.to_string());
        fs::create_dir_all(&dir).unwrap();
        let _ = fs::remove_file(dir.join("exe"));
        std::os::unix::fs::symlink(exe, dir.join("exe")).unwrap();
        fs::write(dir.join("cgroup"), format!("{cgroup}\n")).unwrap();
        fs::write(dir.join("comm"), "whatever\n").unwrap();
    }

    fn scan(scanner: &mut Scanner, rules: &Rules) -> Vec<u32> {
        scanner.scan(rules).unwrap().pids
    }

    #[test]
    fn starts_exits_and_execs_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        let rules = Rules::new(&Discovery::default());
        let mut scanner = Scanner::below(proc, 99);
        fs::create_dir(proc.join("sys")).unwrap();
        process(proc, 10, "/usr/bin/orchestrate", "0::/");
        process(proc, 11, "/usr/bin/bash", "0::/");
        process(proc, 99, "/usr/bin/orchestrate", "0::/");
        assert_eq!(scan(&mut scanner, &rules), [10]);
        process(proc, 11, "/opt/orchestrate (deleted)", "0::/");
        process(proc, 12, "/usr/bin/orchestrate", "0::/");
        assert_eq!(scan(&mut scanner, &rules), [10, 11, 12]);
        process(proc, 12, "/usr/bin/true", "0::/");
        fs::remove_dir_all(proc.join("10")).unwrap();
        assert_eq!(scan(&mut scanner, &rules), [11]);
        let none = Discovery { executables: vec![], ..Discovery::default() };
        scanner.forget_all();
        assert_eq!(scan(&mut scanner, &Rules::new(&none)), [0; 0]);
    }

    #[test]
    fn old_processes_are_looked_at_in_turn() {
        let dir = tempfile::tempdir().unwrap();
        let rules = Rules::new(&Discovery::default());
        let mut scanner = Scanner::below(dir.path(), 1);
        let count = AGAIN as u32 + 100;
        for pid in 0..count {
            process(dir.path(), 1000 + pid, "/bin/sh", "0::/");
        }
        assert_eq!(scan(&mut scanner, &rules), [0; 0]);
        for known in scanner.known.values_mut() {
            known.since = known.since.checked_sub(YOUNG).unwrap();
        }
        for pid in 0..count {
            process(dir.path(), 1000 + pid, "/bin/orchestrate", "0::/");
        }
        assert_eq!(scan(&mut scanner, &rules).len(), AGAIN);
        assert_eq!(scan(&mut scanner, &rules).len(), count as usize);
    }

    #[test]
    fn a_process_that_has_just_begun_is_given_time() {
        // Only a real process has an age.
        let rules = Discovery { executables: vec!["sleep".to_owned()], ..Discovery::default() };
        let mut scanner = Scanner::new();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let began = Instant::now();
        let rules = Rules::new(&rules);
        while !scan(&mut scanner, &rules).contains(&child.id()) {
            assert!(began.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
        // Process times are in ticks of 10 ms.
        assert!(began.elapsed() + Duration::from_millis(15) >= SETTLED, "{:?}", began.elapsed());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
