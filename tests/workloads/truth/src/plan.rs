//! What a body will do, drawn from a seed.
//!
//! A plan is not stored: every body draws its decisions from the seed its caller drew for it, so
//! a plan is the same whatever the scheduler does, and costs nothing to hold. Three things travel
//! from caller to callee in a [`Cx`]:
//!
//! - a *budget*: how many spans the subtree may have, itself included. It is split between the
//!   children, so the number of spans of an agent is bounded before it starts.
//! - a *fate*: how the subtree has to end. Races stay deterministic because the loser of every
//!   race is fated never to finish.
//! - *limits*: what the subtree must not do where it runs.

use crate::record::{Guard, Link};

/// Largest budget of one agent, and so the most spans it can begin.
pub const MAX_BUDGET: u16 = 400;
const MIN_BUDGET: u16 = 140;

/// How a body has to end, decided by its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Returns `Ok`.
    Ok,
    /// Returns `Err`, its own or a child's.
    Err,
    /// Panics, itself or through a child that it awaits.
    Panic,
    /// Suspends for ever: somebody will drop it.
    Never,
    /// Suspends for ever and nobody drops it: it still runs when the program ends.
    Park,
}

/// Where a subtree runs forbids some things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// May be dropped at any time. A panic inside could then happen or not, and the messages on
    /// stderr would differ from run to run: so none.
    pub quiet: bool,
    /// Runs on a thread that is blocked for it. Blocking once more inside could exhaust the
    /// blocking pool and deadlock; detached tasks could outlive their runtime.
    pub nested: bool,
}

/// What a body is called with: who calls, and the seed of its plan.
#[derive(Clone, Copy, Debug)]
pub struct Cx {
    /// Seed of everything the body decides.
    pub seed: u64,
    /// Span of the caller, 0 for none.
    pub parent: u32,
    /// Agent the work belongs to.
    pub agent: u32,
    /// Spans the subtree may have, itself included; at least 1.
    pub budget: u16,
    /// How it has to end.
    pub fate: Fate,
    /// How the caller and the body are connected.
    pub link: Link,
    /// What it must not do.
    pub limits: Limits,
}

impl Cx {
    /// The root of one agent. Most agents succeed.
    pub fn agent(seed: u64, agent: u32, panics: bool) -> Self {
        let mut rng = Rng(scramble(seed) ^ scramble(u64::from(agent) << 20));
        let fate = match rng.below(16) {
            0 => Fate::Err,
            1 if panics => Fate::Panic,
            _ => Fate::Ok,
        };
        let budget = MIN_BUDGET + rng.below(u32::from(MAX_BUDGET - MIN_BUDGET) + 1) as u16;
        let seed = rng.next();
        let limits = Limits::default();
        Self { seed, parent: 0, agent, budget, fate, link: Link::Root, limits }
    }

    /// The same work, started by `spawn`: its parent is the body that calls `spawn`.
    pub fn spawned(self) -> Self {
        Self { link: Link::Spawn, ..self }
    }

    /// The same work under `block_on` inside a `spawn_blocking` closure.
    pub fn blocking(mut self) -> Self {
        self.limits.nested = true;
        Self { link: Link::Blocking, ..self }
    }

    /// The same work on a thread and runtime of its own: nothing links it to the caller.
    pub fn island(mut self) -> Self {
        self.limits.nested = true;
        Self { link: Link::Root, parent: 0, ..self }
    }

    /// The same work polled in place by a thread that is blocked for it.
    pub fn in_place(mut self) -> Self {
        self.limits.nested = true;
        self
    }

    /// The same work with the caller catching its panics.
    pub fn caught(self) -> Self {
        Self { link: Link::AwaitCaught, ..self }
    }

    /// How often a leaf yields.
    pub fn yields(&self) -> u32 {
        let fixed = crate::args::config().polls;
        if fixed > 0 {
            return fixed - 1;
        }
        // Most leaves of real programs are ready at once or after one wait.
        [0, 0, 0, 1, 1, 1, 2, 3, 5, 9][(scramble(self.seed ^ 0x51) % 10) as usize]
    }
}

/// The decisions of one body: hands out the [`Cx`] of its children.
#[derive(Debug)]
pub struct Plan {
    rng: Rng,
    me: u32,
    agent: u32,
    left: u16,
    share: u16,
    fate: Fate,
    limits: Limits,
    /// Child that takes over the body's own fate.
    heir: u32,
}

impl Plan {
    /// The plan of the body that was called with `cx` and is recorded by `guard`.
    pub fn new(cx: &Cx, guard: &Guard) -> Self {
        let &Cx { seed, parent: _, agent, budget, fate, link: _, limits } = cx;
        let left = budget.saturating_sub(1);
        let rng = Rng(seed);
        Self { rng, me: guard.id(), agent, left, share: 1, fate, limits, heir: u32::MAX }
    }

    /// A number below `n`.
    pub fn pick(&mut self, n: u32) -> u32 {
        self.rng.below(n)
    }

    /// How many children to have, `least..=most` if the budget allows, else fewer; 0 for less
    /// than `least`. Divides what is left of the budget between them.
    pub fn kids(&mut self, least: u32, most: u32) -> u32 {
        let wanted = least + self.rng.below(most - least + 1);
        let n = wanted.min(u32::from(self.left));
        if n < least || n == 0 {
            return 0;
        }
        self.share = self.left / n as u16;
        if self.fate != Fate::Ok {
            // One more than there are children: then the body does it itself, at its end.
            self.heir = self.rng.below(n + 1);
        }
        n
    }

    /// Child `i` of those counted by [`Plan::kids`]. One of them may inherit the body's own fate,
    /// so an error must be passed on and a panic must not be caught.
    pub fn step(&mut self, i: u32) -> Cx {
        if i == self.heir {
            return self.kid(self.fate, self.limits);
        }
        // The heir may end everything around it while this one is still at work.
        let quiet = self.limits.quiet || self.fate != Fate::Ok;
        self.kid(Fate::Ok, Limits { quiet, ..self.limits })
    }

    /// A child that returns `Ok` but may be dropped before.
    pub fn dropped_early(&mut self) -> Cx {
        self.kid(Fate::Ok, Limits { quiet: true, ..self.limits })
    }

    /// A child that never finishes: the caller drops or aborts it.
    pub fn stuck(&mut self) -> Cx {
        self.kid(Fate::Never, Limits { quiet: true, ..self.limits })
    }

    /// A child that still runs when the program ends; for detached tasks of sequential bodies.
    pub fn parked(&mut self) -> Cx {
        self.kid(Fate::Park, Limits { quiet: true, ..self.limits })
    }

    /// A child whose `Err` the caller handles.
    pub fn failing(&mut self) -> Cx {
        self.kid(Fate::Err, self.limits)
    }

    /// A child that panics and whose panic the caller catches; ask [`Plan::may_panic`] first.
    pub fn panicking(&mut self) -> Cx {
        self.kid(Fate::Panic, self.limits)
    }

    /// A child that ends in any way, which cannot end the caller.
    pub fn any_fate(&mut self) -> Cx {
        let fate = match self.rng.below(8) {
            0 | 1 => Fate::Err,
            2 if self.may_panic() => Fate::Panic,
            _ => Fate::Ok,
        };
        self.kid(fate, self.limits)
    }

    /// Whether a panic may happen here at all.
    pub fn may_panic(&self) -> bool {
        cfg!(panic = "unwind") && !self.limits.quiet
    }

    /// Whether the body runs on a thread that is blocked for it.
    pub fn nested(&self) -> bool {
        self.limits.nested
    }

    fn kid(&mut self, fate: Fate, limits: Limits) -> Cx {
        let seed = self.rng.next();
        let &mut Self { me, agent, share, .. } = self;
        self.left = self.left.saturating_sub(share);
        Cx { seed, parent: me, agent, budget: share.max(1), fate, link: Link::Await, limits }
    }
}

/// SplitMix64: small enough to live in every body.
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.0)
    }

    fn below(&mut self, n: u32) -> u32 {
        ((self.next() >> 32).wrapping_mul(u64::from(n)) >> 32) as u32
    }
}

/// Mixes all bits of `x`.
pub fn scramble(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Adds a child's result to its parent's; order matters.
pub fn fold(acc: u64, value: u64) -> u64 {
    scramble(acc.rotate_left(17) ^ value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(cx: Cx, out: &mut Vec<(u64, u16, Fate)>) {
        out.push((cx.seed, cx.budget, cx.fate));
        let mut plan = Plan::new(&cx, &Guard::unrecorded(&cx));
        let n = plan.kids(1, 4);
        for i in 0..n {
            tree(plan.step(i), out);
        }
    }

    #[test]
    fn equal_seeds_make_equal_plans() {
        for seed in 0..50 {
            let (mut a, mut b, mut other) = (vec![], vec![], vec![]);
            tree(Cx::agent(seed, 3, true), &mut a);
            tree(Cx::agent(seed, 3, true), &mut b);
            tree(Cx::agent(seed, 4, true), &mut other);
            assert_eq!(a, b);
            assert_ne!(a, other);
        }
    }

    #[test]
    fn a_tree_stays_within_its_budget() {
        for seed in 0..500 {
            let cx = Cx::agent(seed, 0, true);
            let mut spans = vec![];
            tree(cx, &mut spans);
            assert!(spans.len() <= usize::from(cx.budget), "{} of {cx:?}", spans.len());
        }
    }

    #[test]
    fn a_fate_is_inherited_by_at_most_one_child() {
        for seed in 0..500 {
            let cx = Cx { fate: Fate::Err, ..Cx::agent(seed, 0, true) };
            let mut plan = Plan::new(&cx, &Guard::unrecorded(&cx));
            let n = plan.kids(1, 4);
            let heirs = (0..n).filter(|&i| plan.step(i).fate == Fate::Err).count();
            assert!(heirs <= 1);
        }
    }
}
