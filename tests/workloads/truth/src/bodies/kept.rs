//! Keeps the poll function of a body a function.

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future whose poll function is called, not inlined.
///
/// The compiler copies the poll function of an async fn into every codegen unit that polls it,
/// and whatever has a single use in its unit is inlined there, whatever its size. In programs of
/// a hundred small callers that is nearly everything; in large ones it is about half. Here the
/// address of the function is a second use. The call itself stays a direct one, and the future
/// stays where it is: inside its parent.
#[derive(Debug)]
#[repr(transparent)]
#[must_use = "futures do nothing unless polled"]
pub struct Kept<F>(F);

/// Keeps the poll function of `future` a function.
pub fn kept<F: Future>(future: F) -> Kept<F> {
    Kept(future)
}

impl<F: Future> Future for Kept<F> {
    type Output = F::Output;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the field is pinned with its struct: nothing moves it and nothing drops it
        // before the struct is dropped.
        let future = unsafe { self.map_unchecked_mut(|kept| &mut kept.0) };
        black_box(F::poll as fn(Pin<&mut F>, &mut Context<'_>) -> Poll<F::Output>);
        future.poll(context)
    }
}
