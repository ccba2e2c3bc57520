//! `replay FILE`.

use clap::ColorChoice;

use crate::args::Replay;
use crate::engine::Engine;
use crate::exit::CommandResult;
use crate::exporting::Destinations;
use crate::tracing_loop::{self, Alone, Clock};
use crate::{signals, sink};

/// Rebuilds the spans of a recording.
pub fn run(args: &Replay, color: ColorChoice, engine: &impl Engine) -> CommandResult {
    let destinations = Destinations::of_command(&args.export)?;
    let session = engine.replay(&args.file, args.capture.captures())?;
    // Nothing is live about it, so a terminal gets trees only.
    let mut sink = sink::sink(&args.view, color, true)?;
    signals::watch();
    let settings = tracing_loop::Run {
        sink: &mut *sink,
        destinations: &destinations,
        duration: None,
        clock: Clock::Recorded,
    };
    tracing_loop::run(vec![session], settings, &mut Alone)
}
