//! The gRPC face of a node: `keelstone.v1`.
//!
//! Handlers are thin: they turn messages into the core's types (`convert.rs`),
//! ask the core, the entity loop or the watch hub, and turn the answer back. What
//! all requests have in common -- limits, deadlines, the caller, the span, the
//! metrics -- is in the layer (`layer.rs`); what goes wrong becomes a status in
//! `status.rs`; [`serve`] puts it on a listener.
//!
//! | service | file |
//! |---|---|
//! | Kv | `kv.rs` |
//! | Leases, Sessions | `leases.rs`, `sessions.rs` |
//! | Watch | `watch.rs` |
//! | Types, Entities, Config | `types.rs`, `entities.rs`, `config.rs` |
//! | Cluster, Export | `cluster.rs`, `export.rs` |
//! | health, reflection | `serve.rs` |

mod cluster;
mod config;
mod context;
mod convert;
mod entities;
mod export;
mod gather;
mod kv;
mod layer;
mod leases;
mod methods;
mod serve;
mod sessions;
mod status;
#[cfg(test)]
mod tests;
mod types;
mod watch;

pub use context::Services;
pub use serve::{ServeError, serve};
