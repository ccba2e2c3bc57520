//! `uprobe_multi` links: hundreds of probes placed and taken away at once (kernel 6.6+).

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya::Ebpf;
use aya_obj::Object;

use super::error::AttachError;
use super::object::PROGRAM;
use super::sys;
use crate::plan::ProbePlan;

/// The links: one for each file that is probed. Taking one away costs a few RCU grace periods
/// however many probes it holds, also when this process is killed.
#[derive(Debug)]
pub(super) struct Multi {
    links: Vec<OwnedFd>,
}

/// A link holds at most this many probes: the kernel's own bound (`MAX_UPROBE_MULTI_CNT`).
const MAX_PROBES: usize = 1 << 20;

impl Multi {
    /// Loads the program against the maps of `ebpf`, and makes one link per module. Nothing runs yet: the session is switched on afterwards.
    pub(super) fn attach(ebpf: &Ebpf, plan: &ProbePlan, pid: u32) -> Result<Self, AttachError> {
        let mut object = Object::parse(super::object::bytes())?;
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps: Vec<_> = object
            .maps
            .iter()
            .filter_map(|(name, map)| {
                let fd = map_fd(ebpf.map(name)?)?;
                Some((name.clone(), fd, map.clone()))
            })
            .collect();
        object
            .relocate_maps(maps.iter().map(|(name, fd, map)| (name.as_str(), *fd, map)), &text)?;
        object.relocate_calls(&text)?;
        object.sanitize_functions(aya::features());
        let btf = types(&mut object)?;

        let program = load(&object, btf.as_ref())?;
        let mut links = Vec::new();
        for (index, module) in plan.modules.iter().enumerate() {
            let (offsets, cookies): (Vec<u64>, Vec<u64>) = plan
                .probes
                .iter()
                .filter(|p| p.module == index)
                .map(|p| (p.offset, p.cookie.with_hook(p.hook).0))
                .unzip();
            for (offsets, cookies) in offsets.chunks(MAX_PROBES).zip(cookies.chunks(MAX_PROBES)) {
                let path = &module.path;
                let link = sys::link_uprobe_multi(program.as_raw_fd(), path, offsets, cookies, pid)
                    .map_err(|source| AttachError::Refused {
                        path: path.clone(),
                        count: offsets.len(),
                        source,
                    })?;
                links.push(link);
            }
        }
        // The links hold the program from here on.
        Ok(Self { links })
    }

    /// Links made.
    pub(super) fn links(&self) -> usize {
        self.links.len()
    }
}

/// The object's type information, loaded; `None` where the kernel has none or the object has none.
fn types(object: &mut Object) -> Result<Option<OwnedFd>, AttachError> {
    let Some(features) = aya::features().btf() else { return Ok(None) };
    let btf = object.fixup_and_sanitize_btf(features)?.map(|btf| btf.to_bytes());
    // Without it the programs load too, only more slowly.
    Ok(btf.and_then(|bytes| sys::load_btf(&bytes).ok()))
}

fn load(object: &Object, btf: Option<&OwnedFd>) -> Result<OwnedFd, AttachError> {
    let missing = AttachError::Missing { kind: "program", name: PROGRAM };
    let Some(found) = object.programs.get(PROGRAM) else { return Err(missing) };
    let Some(function) = object.functions.get(&found.function_key()) else { return Err(missing) };
    let btf = btf.map(OwnedFd::as_fd);
    sys::load_program(PROGRAM, function, &found.license, btf).map_err(|(source, log)| {
        if source.kind() == io::ErrorKind::PermissionDenied && log.is_empty() {
            AttachError::NotPermitted { source }
        } else {
            AttachError::Rejected { source, log }
        }
    })
}

fn map_fd(map: &aya::maps::Map) -> Option<i32> {
    use aya::maps::Map;
    let data = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::LruHashMap(data)
        | Map::PerCpuHashMap(data) => data,
        _ => return None,
    };
    Some(data.fd().as_fd().as_raw_fd())
}
