//! Wire and disk formats of Keelstone: generated code, no logic.
//!
//! * [`v1`]: the public gRPC API, `keelstone.v1`;
//! * [`peer`]: what replicas say to each other;
//! * [`disk`]: what is written to logs, snapshots and backups.
//!
//! Messages are always there; the features `client` and `server` add the
//! services.

/// The packages as they nest in the `.proto` files.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod keelstone {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/keelstone.v1.rs"));
    }
    pub mod peer {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/keelstone.peer.v1.rs"));
        }
    }
    pub mod disk {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/keelstone.disk.v1.rs"));
        }
    }
}

pub use keelstone::disk::v1 as disk;
pub use keelstone::peer::v1 as peer;
pub use keelstone::v1;

/// All descriptors, encoded as a `FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
