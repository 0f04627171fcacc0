//! The client crate against three real processes: every call, and what it does
//! while leaders are killed.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod config;
mod entities;
mod failures;
mod kv;
mod leases;
