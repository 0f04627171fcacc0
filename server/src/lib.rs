//! The Keelstone replica: everything that touches the world.

pub mod backup;
pub mod changes;
pub mod cli;
pub mod config;
pub mod core;
pub mod dev;
pub mod entities;
pub mod http;
pub mod metrics;
pub mod node;
mod raft;
pub mod replica;
pub mod rpc;
pub mod samples;
pub mod settings;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod solo;
pub mod tls;
pub mod watch;
