//! Which processes are meant: by executable, path, id, unit, cgroup or container.

use std::path::Path;

use glob::{MatchOptions, Pattern};

use super::process;
use crate::service::config::Discovery;

/// A process is meant if any of them fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    executables: Vec<String>,
    paths: Vec<Pattern>,
    pids: Vec<u32>,
    units: Vec<String>,
    cgroups: Vec<Pattern>,
    containers: Vec<String>,
}

/// `*` stays within one folder; `**` does not.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl Rules {
    /// The rules of a configuration, which has checked its globs.
    pub fn new(discovery: &Discovery) -> Self {
        let globs = |texts: &[String]| texts.iter().filter_map(|t| Pattern::new(t).ok()).collect();
        Self {
            executables: discovery.executables.clone(),
            paths: globs(&discovery.paths),
            pids: discovery.pids.clone(),
            units: discovery.units.clone(),
            cgroups: globs(&discovery.cgroups),
            containers: discovery.containers.iter().map(|id| id.to_ascii_lowercase()).collect(),
        }
    }

    /// Whether a process is meant.
    pub(super) fn matches(&self, proc: &Path, pid: u32) -> bool {
        let Self { executables, paths, pids, units, cgroups, containers } = self;
        if pids.contains(&pid) {
            return true;
        }
        let dir = proc.join(pid.to_string());
        // Without a program of its own it is a kernel thread, or has ended.
        let Some(exe) = process::executable(&dir) else { return false };
        if let Some(name) = exe.file_name()
            && executables.iter().any(|wanted| name == wanted.as_str())
        {
            return true;
        }
        if paths.iter().any(|glob| glob.matches_path_with(&exe, OPTIONS)) {
            return true;
        }
        if units.is_empty() && cgroups.is_empty() && containers.is_empty() {
            return false;
        }
        process::cgroups(&dir).iter().any(|path| {
            units.iter().any(|unit| path.split('/').any(|part| part == unit))
                || cgroups.iter().any(|glob| glob.matches_with(path, OPTIONS))
                || container(path).is_some_and(|id| {
                    containers.iter().any(|wanted| id.starts_with(wanted.as_str()))
                })
        })
    }
}

/// The container that a cgroup belongs to: 64 hex digits that stand by themselves in its path
/// (`/docker/ID`, `docker-ID.scope`, `cri-containerd-ID.scope`, `/kubepods/…/ID`).
pub(crate) fn container(cgroup: &str) -> Option<&str> {
    cgroup.rsplit('/').flat_map(|part| part.split(['-', '.', ':'])).find(|word| {
        word.len() == 64 && word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::process;
    use super::*;

    const ID: &str = "3f4e8a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789ab";

    #[test]
    fn every_kind_of_rule() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        process(proc, 1, "/usr/bin/orchestrate", "0::/user.slice");
        process(proc, 2, "/opt/a/bin/agent-x", "0::/user.slice");
        process(proc, 3, "/opt/a/b/bin/agent-x", "0::/user.slice");
        process(proc, 4, "/bin/y", "12:cpu:/\n0::/system.slice/web.service");
        process(proc, 5, "/bin/y", &format!("0::/system.slice/docker-{ID}.scope"));
        process(proc, 6, "/bin/y", "0::/kubepods.slice/pod1/x");
        process(proc, 7, "/bin/y", "0::/system.slice/web.service.d");
        let which = |change: &dyn Fn(&mut Discovery)| {
            let mut discovery = Discovery { executables: vec![], ..Discovery::default() };
            change(&mut discovery);
            let rules = Rules::new(&discovery);
            (1..=8).filter(|pid| rules.matches(proc, *pid)).collect::<Vec<u32>>()
        };
        assert_eq!(which(&|_| {}), [0; 0]);
        assert_eq!(which(&|d| d.executables = vec!["orchestrate".into()]), [1]);
        assert_eq!(which(&|d| d.paths = vec!["/opt/*/bin/agent-*".into()]), [2]);
        assert_eq!(which(&|d| d.paths = vec!["/opt/**/agent-*".into()]), [2, 3]);
        assert_eq!(which(&|d| d.pids = vec![3, 7]), [3, 7]);
        assert_eq!(which(&|d| d.units = vec!["web.service".into()]), [4]);
        assert_eq!(which(&|d| d.containers = vec!["3F4E8A1B2C3D".into()]), [5]);
        assert_eq!(which(&|d| d.cgroups = vec!["/kubepods.slice/**".into()]), [6]);
    }

    #[test]
    fn containers() {
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
        ] {
            assert_eq!(container(&path), Some(ID), "{path}");
        }
        assert_eq!(container("/user.slice/user-1000.slice"), None);
    }
}
