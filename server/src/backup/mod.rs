//! Backup and restore: a consistent copy of the store at one revision, in
//! immutable objects, and new clusters from it.
//!
//! The way of a backup: a [`Source`] reads all live records at a pinned
//! revision, on any replica; [`create`] cuts them into chunks, compresses them
//! into packs of 32 MiB and uploads these; the manifest, with the hashes of
//! everything, comes last and makes the backup exist. [`verify`] reads all of it
//! back. [`restore`] verifies first and then builds the data directories of a
//! new cluster: a new identity, a new history, and revisions far above the old
//! ones, so that no client takes one for the other.
//!
//! The objects and their layout are drawn in `docs/disk-format.md`. They are
//! made for what comes later as well: continuous archive, encryption,
//! retention. Nothing here is on the way of a write.

mod bucket;
mod create;
mod document;
mod error;
mod fault;
mod location;
mod manifest;
mod pack;
mod probe;
mod progress;
mod repo;
mod restore;
mod rows;
mod scan;
mod site;
mod source;
mod token;
mod verify;

pub use bucket::{Bucket, BucketError, Created, LIST_MAX, OBJECT_BYTES_MAX, ObjectMeta, Retry};
pub use create::{CreateOptions, create};
pub use error::{BackupError, Class, Damage};
pub use location::{BucketOptions, BucketUrl, Secret, open};
pub use manifest::{
    Crypto, HistoryName, Manifest, MemberEntry, PackEntry, RaftPosition, Stats, Times,
};
pub use probe::Capabilities;
pub use progress::{Observer, Phase, Progress, Unobserved};
pub use repo::{Entry, Listing, Repo, Unreadable};
pub use restore::{LEASE_GRACE, REVISION_BUMP, RestoreMember, RestoreOptions, Restored, restore};
pub use rows::{Counts, Origin};
pub use source::{Source, SourceHeader, SourcePart, SourceTrailer};
pub use token::{NotAToken, RestoreToken};
pub use verify::{Verified, verify};
