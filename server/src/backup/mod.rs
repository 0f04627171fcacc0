//! Backup and restore.
mod bucket;
mod fault;
mod location;

pub use bucket::{Bucket, BucketError, Created, LIST_MAX, OBJECT_BYTES_MAX, ObjectMeta, Retry};
pub use location::{BucketOptions, BucketUrl, Secret, open};
