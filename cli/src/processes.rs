//! Processes by id or by the name of their executable.

use std::fs;
use std::path::Path;

use crate::exit::{CliError, Exit};

/// The process ids that `target` stands for: itself, or every process of that executable name.
pub fn resolve(target: &str) -> Result<Vec<u32>, CliError> {
    if let Some(pid) = parse_pid(target)? {
        return Ok(vec![pid]);
    }
    if target.is_empty() {
        return Err(CliError::usage("an empty name; give a process id or an executable's name"));
    }
    if target.contains('/') {
        return Err(CliError::usage(format_args!(
            "'{target}' is a path; give a process id or an executable's name (inspect takes files)"
        )));
    }
    let found = by_name(Path::new("/proc"), target, std::process::id());
    if found.is_empty() {
        return Err(CliError::new(
            Exit::NotTraceable,
            format_args!(
                "no running process has an executable named '{target}'; `pgrep -l {target}` looks \
                 for similar ones, and `orchestrate-trace run -- {target}` starts one"
            ),
        ));
    }
    Ok(found)
}

/// A process id, if it is a number at all.
pub fn parse_pid(text: &str) -> Result<Option<u32>, CliError> {
    let number = text.strip_prefix(['-', '+']).unwrap_or(text);
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    // The kernel's limit is 2^22.
    match text.parse::<u32>() {
        Ok(pid) if (1..=1 << 22).contains(&pid) => Ok(Some(pid)),
        _ => Err(CliError::usage(format_args!(
            "'{text}' is not a process id: expected a number from 1 to 4194304"
        ))),
    }
}

fn by_name(proc: &Path, name: &str, own: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(proc) else { return vec![] };
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own && is_named(&proc.join(pid.to_string()), name))
        .collect();
    pids.sort_unstable();
    pids
}

fn is_named(process: &Path, name: &str) -> bool {
    if let Ok(exe) = fs::read_link(process.join("exe")) {
        let file = exe.file_name().map(|file| file.to_string_lossy());
        return file.is_some_and(|file| file.trim_end_matches(" (deleted)") == name);
    }
    // Not ours to read: the kernel's short name is at most 15 bytes of it.
    fs::read_to_string(process.join("comm")).is_ok_and(|comm| {
        let comm = comm.trim_end();
        comm == name || (comm.len() == 15 && name.starts_with(comm))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names() {
        assert_eq!(parse_pid("4242").unwrap(), Some(4242));
        assert_eq!(parse_pid("orchestrate").unwrap(), None);
        assert_eq!(parse_pid("7zip").unwrap(), None);
        for text in ["0", "-1", "4194305", "99999999999"] {
            assert_eq!(parse_pid(text).unwrap_err().exit, Exit::Usage, "{text}");
        }
        assert_eq!(resolve("/usr/bin/x").unwrap_err().exit, Exit::Usage);
        assert_eq!(resolve("").unwrap_err().exit, Exit::Usage);
        let error = resolve("no-such-program-anywhere").unwrap_err();
        assert_eq!(error.exit, Exit::NotTraceable);
    }

    #[test]
    fn by_executable_or_short_name() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: u32, exe: Option<&str>, comm: &str| {
            let dir = proc.path().join(pid.to_string());
            fs::create_dir(&dir).unwrap();
            if let Some(exe) = exe {
                std::os::unix::fs::symlink(exe, dir.join("exe")).unwrap();
            }
            fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
        };
        process(10, Some("/usr/bin/orchestrate"), "orchestrate");
        process(11, Some("/usr/bin/orchestrate (deleted)"), "tokio-rt-worker");
        process(12, Some("/usr/bin/other"), "orchestrate");
        process(13, None, "orchestrate");
        process(14, None, "orchestrate-tra");
        assert_eq!(by_name(proc.path(), "orchestrate", 1), [10, 11, 13]);
        assert_eq!(by_name(proc.path(), "orchestrate", 10), [11, 13]);
        assert_eq!(by_name(proc.path(), "orchestrate-trace", 1), [14]);
    }
}
