//! From a process, or a file, to a plan: inspection and planning joined up.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::arguments;
use crate::plan::{self, Finding, Inputs, ProbePlan, Profile};
use crate::target::{Analysis, DebugInfoOptions, Image, Target, TargetError, WhyNot};

/// Makes the plan for a process, touching nothing.
pub fn plan_for(target: &Target, profile: &Profile, debuginfo: &DebugInfoOptions) -> ProbePlan {
    let root = PathBuf::from(format!("/proc/{}/root", target.pid));
    let (libssl, libc) = (target.libssl.as_deref(), target.libc.as_deref());
    plan_images(&target.exe, libssl, libc, profile, &root, debuginfo)
}

/// Makes the plan for an executable, and the OpenSSL and C library that it uses, where these are
/// libraries.
///
/// `root`: the root directory as the target sees it.
pub fn plan_images(
    exe: &Image,
    libssl: Option<&Image>,
    libc: Option<&Image>,
    profile: &Profile,
    root: &Path,
    debuginfo: &DebugInfoOptions,
) -> ProbePlan {
    let analysis = Analysis::new(exe);
    let findings = find(&analysis, profile);
    let (arguments, debuginfo) = arguments::find(&analysis, profile, &findings, root, debuginfo);
    let tls = match libssl {
        Some(image) => (image.info().clone(), Analysis::new(image).tls_landmarks()),
        // Linked in statically, if at all.
        None => (exe.info().clone(), analysis.tls_landmarks()),
    };
    let libc = libc.unwrap_or(exe);
    let sockets = (libc.info().clone(), libc.socket_landmarks());
    let mut plan = plan::build(Inputs {
        profile,
        executable: exe.info().clone(),
        findings,
        arguments,
        inlined: &analysis.inlined(),
        landmarks: &analysis.landmarks(),
        tls: Some((tls.0, &tls.1)),
        sockets: Some((sockets.0, &sockets.1)),
    });
    plan.coverage.debuginfo = debuginfo;
    plan
}

/// Looks at every function that the profile asks for.
fn find(analysis: &Analysis<'_>, profile: &Profile) -> Vec<(usize, Finding)> {
    let wanted = plan::wanted(profile, analysis.image().functions());
    let functions: Vec<_> = wanted.iter().map(|(_, function)| *function).collect();
    let coroutines = analysis.coroutines(&functions);
    let mut found = Vec::with_capacity(wanted.len());
    for ((rule, function), coroutine) in wanted.into_iter().zip(coroutines) {
        let finding = match coroutine {
            Ok(coroutine) => Finding::Coroutine(coroutine),
            Err(WhyNot::NotAsync) if !profile.spans[rule].function.means_plain(&function.name) => {
                continue;
            }
            Err(WhyNot::NotAsync) => {
                let mut plain = analysis.plain_functions(&[function]);
                match plain.pop().flatten() {
                    Some(plain) => Finding::Plain(plain),
                    None => Finding::Refused(function.clone(), WhyNot::NoEntry.to_string()),
                }
            }
            Err(why) => Finding::Refused(function.clone(), why.to_string()),
        };
        found.push((rule, finding));
    }
    found
}

/// Opens a process, once the dynamic linker is through with it: a program that has just been
/// started does not have its OpenSSL yet.
pub(super) fn open_loaded(pid: u32) -> Result<Target, TargetError> {
    let until = Instant::now() + LOADING;
    loop {
        let target = Target::open(pid)?;
        target.exe.require_rust()?;
        let wants = || target.exe.needed_libraries().iter().any(|n| n.starts_with("libssl.so"));
        if target.libssl.is_some() || !wants() || Instant::now() >= until {
            return Ok(target);
        }
        std::thread::sleep(LOADING / 20);
    }
}

/// More than a dynamic linker takes.
const LOADING: Duration = Duration::from_millis(400);

/// The library of this name that a program started now would load, if it needs one: what `run`
/// goes by, before there are mappings to look at.
pub(super) fn needed_library(exe: &Image, prefix: &str) -> Option<Image> {
    let needed = exe.needed_libraries();
    let name = needed.iter().find(|name| name.starts_with(prefix))?;
    let places =
        ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"];
    places.iter().find_map(|place| {
        let path = Path::new(place).join(name);
        Image::open(&path, &path).ok()
    })
}
