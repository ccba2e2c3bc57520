//! What people and scripts see.

pub mod block;
pub mod coverage;
pub mod forest;
pub mod json;
pub mod live;
pub mod status;
pub mod style;
pub mod summary;
pub mod text;

#[cfg(test)]
pub mod fixture;
