//! Bytes to events, in order, with every loss counted; and recordings of them.
/// stub
#[derive(Debug, Default, Clone)]
pub struct Counters(std::collections::BTreeMap<tracer_ebpf::counters::Counter, u64>);
impl Counters {
    /// s
    pub fn set(&mut self, c: tracer_ebpf::counters::Counter, v: u64) {
        self.0.insert(c, v);
    }
}
