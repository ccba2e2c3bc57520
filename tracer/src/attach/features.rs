//! What this kernel can do, asked of the kernel itself and cached.

use std::sync::LazyLock;

use serde::Serialize;

/// What matters to us.
#[derive(Clone, Debug, Serialize)]
pub struct Features {
    /// `uprobe_multi` links that fire for every thread of the process; else why not.
    pub uprobe_multi: Result<(), String>,
    /// Attach cookies.
    pub cookie: bool,
    /// BTF of the kernel.
    pub btf: bool,
}

static FEATURES: LazyLock<Features> = LazyLock::new(|| Features {
    uprobe_multi: probe_uprobe_multi(),
    cookie: aya::features().bpf_cookie(),
    btf: std::path::Path::new("/sys/kernel/btf/vmlinux").exists(),
});

/// What this kernel can do.
pub fn features() -> &'static Features {
    &FEATURES
}

/// A function of ours to probe: not inlined, so it has an address and a first instruction.
#[inline(never)]
extern "C" fn probed_by_ourselves() -> u32 {
    std::hint::black_box(std::process::id())
}

/// Some kernels (before about 6.10) matched the *thread* with the link's PID, so hits of other
/// threads never came. Versions say little where patches are carried back: attach to ourselves
/// and hit from a second thread.
fn probe_uprobe_multi() -> Result<(), String> {
    super::selftest::multi_fires_on_every_thread(probed_by_ourselves)
}
