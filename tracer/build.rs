//! Tells the library which eBPF object to embed: the committed one, or a fresh build that
//! `ORCHESTRATE_TRACE_BPF_OBJECT` names (as CI does).

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=ORCHESTRATE_TRACE_BPF_OBJECT");
    let object = match env::var_os("ORCHESTRATE_TRACE_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => {
            let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
            let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
            root.join(format!("../tracer-ebpf/prebuilt/tracer.{arch}.bpf.o"))
        }
    };
    assert!(
        object.exists(),
        "{}: no eBPF object; run `cargo xtask build-ebpf --bless` or set \
         ORCHESTRATE_TRACE_BPF_OBJECT",
        object.display()
    );
    println!("cargo:rerun-if-changed={}", object.display());
    println!("cargo:rustc-env=ORCHESTRATE_TRACE_BPF_OBJECT={}", object.display());
}
