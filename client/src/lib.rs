//! The Keelstone client: typed entities, configuration, transactions, leases and
//! watches.
//!
//! A [`Client`] knows the nodes of a cluster, finds the one that leads, follows
//! it when it changes, and speaks for the caller until a call is done or its
//! time is up:
//!
//! ```no_run
//! # async fn example() -> Result<(), keelstone_client::Error> {
//! use keelstone_client::{Client, EntityType, NewEntity};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Cluster {
//!     phase: String,
//! }
//!
//! impl EntityType for Cluster {
//!     const TYPE_ID: &'static str = "urn:vcloud:type:vmware:capvcdCluster:1.2.0";
//! }
//!
//! let client = Client::builder().endpoints(["10.0.0.1:7701", "10.0.0.2:7701"]).connect().await?;
//! let clusters = client.entities::<Cluster>();
//! let new = Cluster { phase: "provisioning".into() };
//! let entity = clusters.create(NewEntity::named("prod-1"), &new).await?;
//! clusters.modify(&entity.id, |cluster| cluster.phase = "provisioned".into()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a call does when something fails
//!
//! * A **read** is repeated, on other nodes if need be, until the client's
//!   timeout: it has no effect.
//! * A **write** carries an identity, the session of the client and a sequence
//!   number. The cluster remembers what it answered, so the write can be
//!   repeated and is still applied once. The session is opened with the first
//!   write and again when it has expired.
//! * A **change of the membership** has no identity. It is repeated only when
//!   the cluster said that nothing was done.
//!
//! When a call ends with an [`Error`], its [kind](ErrorKind) says how to react,
//! and [`Error::outcome`] whether a write can still take effect.
//! [`Outcome::Unknown`] is not a failure to be retried blindly: read first.
//!
//! # Preconditions
//!
//! A write to an entity or a configuration value says what it expects to find:
//! [`Precondition::IfRevision`], [`Precondition::IfAbsent`], or
//! [`Precondition::Unconditional`], which has to be spelled out. To change an
//! entity that others change as well, [`Entities::modify`] does the loop of
//! read, change and conditional write; what the Rust type does not know of the
//! document survives it.
//!
//! # Watching
//!
//! A watch delivers each change exactly once, in order, whatever nodes and
//! connections are lost meanwhile. To have a list and then all changes of it,
//! read the list and watch [after](WatchBuilder::after) its position. A watch
//! ends with [`ErrorKind::Compacted`] or [`ErrorKind::HistoryChanged`] when that
//! promise cannot be kept: then read the list again.
//!
//! # What it is not
//!
//! It keeps no copy of anything: no cache, no queue of writes for later. A
//! [`Client`] is cheap to clone and safe to share; make one per process.

mod backoff;
mod builder;
mod call;
mod client;
mod cluster;
mod config;
mod documents;
mod endpoint;
mod entities;
mod entity;
mod entity_watch;
mod error;
mod export;
mod follow;
mod keepalive;
mod kv;
mod lease;
mod merge;
mod range;
mod revision;
mod session;
mod status;
mod txn;
mod types;
mod watch;

pub use builder::{ClientBuilder, Tls};
pub use client::Client;
pub use cluster::{Cluster, Member, NewMember, NodeStatus};
pub use config::{Config, ConfigEvent, ConfigTree, ConfigValue, ConfigVersion, ConfigWatch};
pub use documents::{Documents, EntityPage, EntityPages};
pub use entities::{Entities, ModifyError, TypedEvent, TypedPages, TypedWatch, TypedWatchBuilder};
pub use entity::{
    Deletion, Entity, EntityEvent, EntityFilter, EntityState, EntityType, EntityVersion,
    EnvelopeChange, History, NewEntity,
};
pub use entity_watch::{EntityWatch, EntityWatchBuilder};
pub use error::{Error, ErrorKind, Outcome};
pub use export::{Export, ExportHeader, ExportPart, ExportTrailer};
pub use keepalive::KeepAlive;
pub use kv::{Delete, DeleteReply, KeyValue, Kv, Pages, Put, PutReply, Range, RangeReply};
pub use lease::{Lease, LeaseId, Leases, TimeToLive};
pub use range::KeyRange;
pub use revision::{Consistency, HistoryId, Position, Precondition, Revision};
pub use txn::{Compare, Op, StepReply, Txn, TxnReply};
pub use types::{NewType, TypeFilter, TypeRecord, Types};
pub use watch::{Changes, Event, Watch, WatchBuilder};
