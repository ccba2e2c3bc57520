//! Where spans go: OTLP over gRPC or HTTP, through a queue that never blocks the tracing loop.
//!
//! This is the only module that names OpenTelemetry.

mod attributes;
mod config;
mod otlp;
mod queue;
mod resource;
#[cfg(test)]
mod tests;
mod worker;

pub use attributes::attributes;
pub use config::{ConfigError, DEFAULT_ENDPOINT, OtlpConfig, Protocol};
pub use queue::{DropCause, ExportStats, Exporter, Limits, Notice, StartError};
pub use resource::{DEFAULT_SERVICE_NAME, ResourceInfo};
