//! An async function that is no body: it lies outside `bodies`, so that who traces the bodies by
//! their path does not trace it.

use crate::bodies::boxed::Engine;
use crate::bodies::kept::kept;
use crate::plan::Cx;
use crate::record::Out;

/// Owns what the method borrows.
pub async fn drive_engine(cx: Cx) -> Out {
    let mut engine = Engine { heat: cx.seed, turns: 0 };
    kept(engine.turn(cx)).await
}
