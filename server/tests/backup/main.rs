//! Backups against a real S3 server over HTTP, and against directories.
//!
//! `KEELSTONE_SEED` repeats a run of random commands.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on should stop"
)]

mod bucket;
mod damage;
mod golden;
mod killed;
mod replicas;
mod restoring;
mod round_trip;
mod store;
mod support;
mod tls;
