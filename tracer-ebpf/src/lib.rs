//! What the eBPF programs and user space agree on: records, cookies, configuration, counters.
//!
//! Everything here is `no_std`, `repr(C)`, of fixed width and without padding, so that one
//! definition serves both sides and its layout can be tested on the host.
#![no_std]

pub mod access;
pub mod config;
pub mod cookie;
pub mod counters;
pub mod event;
pub mod hook;
