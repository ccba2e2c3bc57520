//! The embedded eBPF object.

/// Gives the bytes the alignment that an ELF reader may rely on.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("ORCHESTRATE_TRACE_BPF_OBJECT")));

/// The name of the program that every probe runs.
pub(super) const PROGRAM: &str = "probe";

/// The program and its maps, as `cargo xtask build-ebpf` made them.
pub(super) fn bytes() -> &'static [u8] {
    &EMBEDDED.0
}
