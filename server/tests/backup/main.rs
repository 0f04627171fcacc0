//! Backups against a real S3 server over HTTP, and against directories.

mod bucket;
mod support;
