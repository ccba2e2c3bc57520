//! Trace and span ids, derived from the recording's seed and the kernel's ids, so that a replay
//! gives the same ones.

use crate::events::KernelId;
use crate::span::{SpanId, TraceId};

/// Makes ids from one trace's seed.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    keys: [u64; 2],
}

impl Ids {
    /// `seed` is 32 hex digits; any other text serves too.
    pub fn new(seed: &str) -> Self {
        let keys = match u128::from_str_radix(seed, 16) {
            Ok(seed) => [seed as u64, (seed >> 64) as u64],
            Err(_) => {
                let fold = |from| seed.bytes().fold(from, |hash, byte| mix(hash ^ u64::from(byte)));
                [fold(1), fold(2)]
            }
        };
        Self { keys: [mix(keys[0]), mix(keys[1] ^ mix(keys[0]))] }
    }

    /// The span id for a kernel id. Within one trace no two are equal, as every step can be
    /// undone.
    pub fn span(&self, id: KernelId) -> SpanId {
        SpanId(non_zero(mix(mix(id.get() ^ self.keys[0]).wrapping_add(self.keys[1]))))
    }

    /// The trace id of the trace whose root has this kernel id.
    pub fn trace(&self, root: KernelId) -> TraceId {
        let half = |n: u64| mix(mix(root.get() ^ self.keys[1]) ^ mix(self.keys[0].wrapping_add(n)));
        TraceId(u128::from(non_zero(half(1))) << 64 | u128::from(half(2)))
    }
}

const fn non_zero(n: u64) -> u64 {
    if n == 0 { 1 } else { n }
}

/// The finaliser of splitmix64: a permutation of the 64-bit numbers in which every bit of the
/// input changes every bit of the output with probability about one half.
const fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_distinct_and_follow_from_the_seed_alone() {
        let (a, again, b) = (Ids::new("1f"), Ids::new("1f"), Ids::new("not hex"));
        let ids = (1..10_000).filter_map(KernelId::new);
        let mut seen = HashSet::new();
        for id in ids {
            assert_eq!((a.span(id), a.trace(id)), (again.span(id), again.trace(id)));
            assert!(seen.insert(a.span(id).0) && seen.insert(b.span(id).0));
            assert!(a.trace(id) != b.trace(id) && a.trace(id).0 != 0);
        }
    }
}
