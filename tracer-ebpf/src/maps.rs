//! Session settings and the function table, filled by user space.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use tracer_ebpf::config::{Config, FnConfig, MAX_FUNCTIONS};

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

#[map]
static FUNCTIONS: Array<FnConfig> = Array::with_max_entries(MAX_FUNCTIONS, 0);

/// The session's settings.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// What is known of a function.
#[inline(always)]
pub fn function(id: u16) -> Option<&'static FnConfig> {
    FUNCTIONS.get(u32::from(id))
}
