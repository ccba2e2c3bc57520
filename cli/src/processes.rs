//! Processes by id or by the name of their executable.

use std::path::Path;

use tracer::service::discovery;

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
    let found = discovery::by_name(Path::new("/proc"), target, std::process::id());
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
}
