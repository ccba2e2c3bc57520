//! What the functions under measurement do, and how they are driven.

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A few nanoseconds of work that the compiler can neither drop nor compute beforehand.
#[inline(never)]
pub fn work(seed: u64) -> u64 {
    black_box(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
}

/// Not ready for a number of polls.
#[derive(Debug)]
pub struct Yields(pub u32);

impl Future for Yields {
    type Output = ();

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        // Whoever drives it polls again anyway; a wake would only add to what is measured.
        match self.0.checked_sub(1) {
            None => Poll::Ready(()),
            Some(left) => {
                self.0 = left;
                Poll::Pending
            }
        }
    }
}

/// [`work`] a dozen times. Spelled out: a body of this size is called, not inlined, as the bodies
/// of real programs are; a loop would not be.
#[macro_export]
macro_rules! dozen {
    ($seed:expr) => {{
        let mut x: u64 = $seed;
        $crate::dozen!(@ x 1 2 3 4 5 6 7 8 9 10 11 12);
        x
    }};
    (@ $x:ident $($n:literal)*) => { $($x ^= $crate::bodies::work($x + $n);)* };
}

/// Polls until there is a result.
#[inline(always)]
pub fn drive<F: Future>(mut future: Pin<&mut F>) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
