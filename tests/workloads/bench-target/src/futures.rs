//! Futures that stay alive while something else is measured.

use std::pin::Pin;
use std::task::{Context, Waker};

/// Anything that can be dropped. Not `dyn Future`: that would put the poll function into a vtable,
/// and functions that are called through one are probed in another way.
pub trait Held {}

impl<T> Held for T {}

/// A future that stays where it is.
pub type Boxed = Pin<Box<dyn Held>>;

/// Some futures that have been polled and are not ready.
#[derive(Default)]
pub struct Live(Vec<Boxed>);

impl Live {
    /// Makes them `n` in all. `begin` makes one and polls it for the first time.
    pub fn resize(&mut self, n: usize, begin: fn(u64, &mut Context<'_>) -> Boxed) {
        let mut context = Context::from_waker(Waker::noop());
        self.0.truncate(n);
        while self.0.len() < n {
            let future = begin(self.0.len() as u64, &mut context);
            self.0.push(future);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
