//! Jaeger's own protocol: a Thrift batch in the binary protocol as the body of a POST, as
//! Jaeger's collector and the OpenTelemetry Collector's `jaeger` receiver take it.

mod convert;
mod model;
#[cfg(test)]
mod tests;

use reqwest::header::CONTENT_TYPE;
use thrift::protocol::TBinaryOutputProtocol;

use super::batch::Batch;
use super::endpoint::JaegerConfig;
use super::http;
use super::transport::{Failure, Receipt};

/// The media type that Jaeger registered for a batch; `application/x-thrift` means the same.
const THRIFT: &str = "application/vnd.apache.thrift.binary";

/// Sends batches to one Jaeger.
#[derive(Debug)]
pub(super) struct Jaeger {
    client: reqwest::Client,
    config: JaegerConfig,
}

impl Jaeger {
    pub(super) fn new(config: &JaegerConfig) -> Result<Self, String> {
        let client = http::client(config.timeout, &Default::default())?;
        Ok(Self { client, config: config.clone() })
    }

    pub(super) async fn send(&self, batch: &Batch) -> Result<Receipt, Failure> {
        let body = encode(&convert::batch(batch)).map_err(|e| Failure::Rejected(e.to_string()))?;
        let request = self.client.post(self.config.endpoint.clone());
        let response = request
            .header(CONTENT_TYPE, THRIFT)
            .body(body)
            .send()
            .await
            .map_err(|error| Failure::retry(http::chain(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(Receipt::default());
        }
        let error = format!("HTTP status {}", status.as_u16());
        // Jaeger says 500 when its own storage or queue will not take a batch now.
        if matches!(status.as_u16(), 408 | 429 | 500..=599) {
            return Err(Failure::Retry { error, after: http::retry_after(response.headers()) });
        }
        Err(Failure::Rejected(error))
    }
}

fn encode(batch: &model::Batch) -> thrift::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512 * (batch.spans.len() + 1));
    batch.write(&mut TBinaryOutputProtocol::new(&mut bytes, true))?;
    Ok(bytes)
}
