//! Which open coroutines lie where: an index of address intervals.
//!
//! Coroutines awaited in place lie inside one another, so intervals nest. Each span remembers the
//! one it lies in; a look-up is one step in an ordered map and then a walk outwards.

use std::collections::BTreeMap;

use super::arena::{Arena, Idx};

/// Walks outwards end here: a witness that would have to look further stays silent.
const MAX_NESTING: usize = 64;

/// Open coroutines ordered by address; of those at one address the outer one first, since it
/// started first.
#[derive(Debug, Default)]
pub(super) struct Extents(BTreeMap<(u64, u64), Idx>);

impl Extents {
    pub fn insert(&mut self, addr: u64, seq: u64, idx: Idx) {
        self.0.insert((addr, seq), idx);
    }

    pub fn remove(&mut self, addr: u64, seq: u64) {
        self.0.remove(&(addr, seq));
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Spans in which `addr` certainly lies, from the innermost outwards.
    pub fn around<'a>(&self, arena: &'a Arena, addr: u64) -> impl Iterator<Item = Idx> + use<'a> {
        let nearest = self.0.range(..=(addr, u64::MAX)).next_back().map(|(_, &idx)| idx);
        std::iter::successors(nearest, |&idx| {
            let container = arena[idx].container?;
            arena.same(container).map(|_| container.0)
        })
        .take(MAX_NESTING)
        .filter(move |&idx| !arena[idx].displaced && arena[idx].contains(addr))
    }

    /// Spans that begin in the `size` bytes from `addr`; of those at `addr` itself only such as
    /// started after `seq`.
    pub fn within(&self, addr: u64, size: u32, seq: u64) -> impl Iterator<Item = Idx> {
        let end = addr.saturating_add(u64::from(size));
        let from = (addr, seq.saturating_add(1));
        self.0.range(from..(end, 0).max(from)).map(|(_, &idx)| idx)
    }
}
