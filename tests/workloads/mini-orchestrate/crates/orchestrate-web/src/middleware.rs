//! What happens to each request before its handler.

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{info_span, Instrument};
use workload_record::{bind_span, scope, ServerRequest};

/// Gives the request a span and a line in the record.
pub async fn observe(request: Request, next: Next) -> Response {
    let client = request
        .headers()
        .get("x-request-seq")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let (method, path) = (request.method().as_str(), request.uri().path());
    let record = ServerRequest::begin(method, path, route, client);
    let span = info_span!("request", method, path);
    span.in_scope(|| bind_span(record.asker()));
    let response = scope(record.asker(), next.run(request)).instrument(span).await;
    record.respond(response.status().as_u16());
    response
}
