//! The OTLP endpoint that spans are sent to: it counts them and forgets them.

use std::process::Command;

use anyhow::Result;
use serde::Deserialize;

use super::Bench;
use super::target::Target;

/// A sink at work.
#[derive(Debug)]
pub struct Sink {
    process: Target,
    port: u16,
}

/// What came in.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Received {
    /// Spans.
    pub spans: u64,
    /// Bytes of requests' bodies.
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Hello {
    port: u16,
}

impl Sink {
    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(bench: &Bench<'_>) -> Result<Self> {
        let program = bench.programs.workloads.join("bench-target");
        let mut command = Command::new(&program);
        command.arg("sink");
        let mut process = Target::start_with(command, &program)?;
        let Hello { port } = process.answer()?;
        Ok(Self { process, port })
    }

    /// Where to send to: OTLP over HTTP.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/v1/traces", self.port)
    }

    /// What came in so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn received(&mut self) -> Result<Received> {
        self.process.ask("count")
    }
}
