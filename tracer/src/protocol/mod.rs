//! Readers of what goes over connections: HTTP/1 messages, chunks, gzip, server-sent events, JSON.
//!
//! All of them take bytes as they come, cut anywhere, keep little of them, and never trust them:
//! a damaged input ends in "not known", never in a panic, a hang or a wrong value. What a reader
//! has found is certain only once it says so.

mod chunked;
mod event_stream;
mod gzip;
mod head;
mod json;
mod message;

pub use chunked::Chunks;
pub use event_stream::{EventStream, Piece};
pub use gzip::{Gunzip, Sink};
pub use head::{
    Authority, Encoding, Framing, Head, Parsed, RequestHead, ResponseHead, TraceParent,
};
pub use json::{Json, Path, Scalar};
pub use message::{Message, Part};

/// Whether a request asks a model of the Messages API for an answer, whoever serves it.
pub fn is_model_call(request: &RequestHead) -> bool {
    request.method == "POST"
        && request.path.as_deref().is_some_and(|path| path.ends_with("/v1/messages"))
}
