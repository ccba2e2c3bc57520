//! One try to get one batch to an endpoint.

use std::time::Duration;

use super::batch::Batch;
use super::endpoint::Endpoint;
use super::jaeger::Jaeger;
use super::otlp::Otlp;

/// What a receiver says that took a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Receipt {
    /// Spans of it that it refused (OTLP's partial success).
    pub(super) refused: u64,
    /// Why, or a warning.
    pub(super) message: String,
}

/// What to do about a batch that did not get through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may get through later.
    Retry {
        /// What happened.
        error: String,
        /// How long the receiver wants to be left alone.
        after: Option<Duration>,
    },
    /// The receiver will not have it.
    Rejected(String),
}

impl Failure {
    pub(super) fn retry(error: impl Into<String>) -> Self {
        Self::Retry { error: error.into(), after: None }
    }
}

/// A protocol, and a connection that is made when it is needed.
#[derive(Debug)]
pub(super) enum Transport {
    Otlp(Box<Otlp>),
    Jaeger(Jaeger),
}

impl Transport {
    /// Must be called inside a tokio runtime: gRPC's channel wants one.
    pub(super) fn new(endpoint: &Endpoint) -> Result<Self, String> {
        match endpoint {
            Endpoint::Otlp(config) => Ok(Self::Otlp(Box::new(Otlp::new(config)?))),
            Endpoint::Jaeger(config) => Ok(Self::Jaeger(Jaeger::new(config)?)),
        }
    }

    pub(super) async fn send(&mut self, batch: &Batch) -> Result<Receipt, Failure> {
        match self {
            Self::Otlp(otlp) => otlp.send(batch).await,
            Self::Jaeger(jaeger) => jaeger.send(batch).await,
        }
    }
}
