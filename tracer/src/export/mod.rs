//! Where spans go: OTLP over gRPC or HTTP, or Jaeger's Thrift, through a queue that never blocks
//! the tracing loop and a spool on disk for outages.
//!
//! This is the only module that names OpenTelemetry or Thrift.

mod attributes;
mod batch;
mod config;
mod endpoint;
mod exporter;
mod http;
mod jaeger;
mod notices;
mod otlp;
mod outlet;
mod queue;
mod resource;
mod spool;
mod spooling;
mod stats;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod worker;

pub use attributes::attributes;
pub use config::{ConfigError, DEFAULT_ENDPOINT, OtlpConfig, Protocol};
pub use endpoint::{DEFAULT_JAEGER_ENDPOINT, Endpoint, JaegerConfig};
pub use exporter::{ExportOptions, Exporter, Sender, StartError};
pub use outlet::{Exporters, Outlet};
pub use queue::Limits;
pub use resource::{DEFAULT_SERVICE_NAME, ResourceInfo};
pub use spool::SpoolConfig;
pub use stats::{DropCause, ExportStats, Notice};
pub use tls::Tls;
