//! Rebuilds spans from events: pure, replayable, sole owner of state, bounded.
