//! The web API.

pub mod api;
mod middleware;

pub use api::{create_router, AppState};
