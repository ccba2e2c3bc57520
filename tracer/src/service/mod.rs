//! The service that people leave running: finds processes, traces each, exports, and is steered
//! through a socket.
//!
//! It drives [`Session`](crate::session::Session)s; how a span is made is not its business.
//!
//! | file | subject |
//! | --- | --- |
//! | `config` | the configuration file |
//! | `settings` | what `enable` asked for, and what follows from it, the environment and the file |
//! | `state` | `state.json`, and the lock that keeps a second daemon away |
//! | `discovery` | which processes are to be traced |
//! | `protocol`, `auth`, `control`, `client` | the control socket, both ends |
//! | `workshop` | threads that attach and detach, so that the main loop never waits |
//! | `traced` | one process that is being traced |
//! | `main_loop` | all of them |
//! | `outlets` | where spans go |
//! | `reach` | whether endpoints can be reached, for a warning |
//! | `report` | what `status` says |
//! | `rates`, `metrics`, `health` | our own health over HTTP |

pub mod auth;
pub mod client;
pub mod config;
mod control;
pub mod discovery;
mod health;
mod main_loop;
mod metrics;
mod outlets;
pub mod protocol;
mod rates;
mod reach;
pub mod report;
pub mod settings;
pub mod state;
mod traced;
mod workshop;

#[cfg(test)]
pub(crate) use rates::tests;

pub use config::{Config, ConfigError};
pub use main_loop::{Handle, Options, Service, ServiceError, Supervisor};
pub use report::Report;
pub use settings::{Choice, Environment, Settings};
pub use state::{State, StateError};

/// Folder of the configuration and of profiles.
pub const CONFIG_FILE: &str = "/etc/orchestrate-trace/config.toml";
/// Folder of what must survive a restart.
pub const STATE_DIR: &str = "/var/lib/orchestrate-trace";
/// The control socket.
pub const SOCKET: &str = "/run/orchestrate-trace/control.sock";
/// Members of this group may steer the service.
pub const GROUP: &str = "orchestrate-trace";
