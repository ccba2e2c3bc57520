//! Loads the eBPF object and places probes: the only stage that knows aya and the kernel.
