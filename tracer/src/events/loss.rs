//! The kernel side's counters, summed over CPUs and with names.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tracer_ebpf::counters::Counter;

use crate::span::MonoNs;

const COUNT: usize = Counter::ALL.len();

/// One value for each [`Counter`]. Serialised as a map of names; a name that this version does
/// not know is skipped, one that is missing is 0.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "BTreeMap<String, u64>", from = "BTreeMap<String, u64>")]
pub struct Counters([u64; COUNT]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; COUNT])
    }
}

impl Counters {
    /// The value of `counter`.
    pub const fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Sets `counter` to the sum of what each CPU counted.
    pub fn set_from_cpus(&mut self, counter: Counter, per_cpu: impl IntoIterator<Item = u64>) {
        self.0[counter as usize] = per_cpu.into_iter().fold(0, u64::wrapping_add);
    }

    /// All of them with their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::ALL.iter().map(|&counter| (counter, self.get(counter)))
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut diff = Self::default();
        for (at, value) in diff.0.iter_mut().enumerate() {
            *value = self.0[at].saturating_sub(earlier.0[at]);
        }
        diff
    }

    /// Those that stand for something lost and are not 0.
    pub fn losses(&self) -> impl Iterator<Item = (Counter, u64)> {
        self.iter().filter(|&(counter, value)| value != 0 && is_loss(counter))
    }

    /// Those that count records of an end.
    pub const ENDS: [Counter; 2] = [Counter::LostSpanEnd, Counter::LostTaskEnd];

    /// Ends lost, so that a span found dead may have ended in any way: tell
    /// [`Pipeline::ends_lost`](crate::pipeline::Pipeline::ends_lost).
    pub const fn ends_lost(&self) -> u64 {
        let [span, task] = Self::ENDS;
        self.get(span).saturating_add(self.get(task))
    }
}

/// Whether a value other than 0 means that a span, an attribute or a relation is missing.
const fn is_loss(counter: Counter) -> bool {
    match counter {
        Counter::LostSpanStart
        | Counter::LostSpanEnd
        | Counter::LostTaskEnd
        | Counter::LostLeafStart
        | Counter::LostLeafLink
        | Counter::LostLeafEnd
        | Counter::LostPayload
        | Counter::PayloadSkipped
        | Counter::LostProcessExec
        | Counter::ProcessesFull
        | Counter::FuturesFull
        | Counter::ThreadsFull
        | Counter::TasksFull
        | Counter::LeavesFull
        | Counter::StackFull
        | Counter::ReadFaults => true,
        Counter::Hits
        | Counter::Records
        | Counter::ForeignHits
        | Counter::FramesHealed
        | Counter::StrayExits
        | Counter::LateFutures
        | Counter::FuturesReplaced
        | Counter::PayloadCut
        | Counter::NotHttp => false,
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = self.iter().filter(|&(_, value)| value != 0);
        f.debug_map().entries(counted.map(|(counter, value)| (counter.name(), value))).finish()
    }
}

impl From<Counters> for BTreeMap<String, u64> {
    fn from(counters: Counters) -> Self {
        counters.iter().map(|(counter, value)| (counter.name().to_owned(), value)).collect()
    }
}

impl From<BTreeMap<String, u64>> for Counters {
    fn from(names: BTreeMap<String, u64>) -> Self {
        let mut counters = Self::default();
        for &counter in Counter::ALL {
            counters.0[counter as usize] = names.get(counter.name()).copied().unwrap_or(0);
        }
        counters
    }
}

/// The counters as they stood at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountersAt {
    /// When they were read.
    pub at: MonoNs,
    /// The values since tracing began.
    pub counters: Counters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_cpus_and_gives_the_difference() {
        let mut before = Counters::default();
        before.set_from_cpus(Counter::LostSpanEnd, [1, 2]);
        let mut after = before.clone();
        after.set_from_cpus(Counter::LostSpanEnd, [1, 4]);
        after.set_from_cpus(Counter::Hits, [9]);
        let diff = after.since(&before);
        assert_eq!(diff.get(Counter::LostSpanEnd), 2);
        assert_eq!(diff.losses().collect::<Vec<_>>(), [(Counter::LostSpanEnd, 2)]);
        assert_eq!(diff.ends_lost(), 2);
    }

    #[test]
    fn reads_and_writes_names() {
        let mut counters = Counters::default();
        counters.set_from_cpus(Counter::FuturesFull, [5]);
        let json = serde_json::to_string(&counters).unwrap();
        assert!(json.contains(r#""futures_full":5"#), "{json}");
        assert_eq!(serde_json::from_str::<Counters>(&json).unwrap(), counters);
        let other: Counters = serde_json::from_str(r#"{"of_the_future":1,"hits":2}"#).unwrap();
        assert_eq!(other.get(Counter::Hits), 2);
    }
}
