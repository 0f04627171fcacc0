//! What `keelstone dev`, `keelstone demo` and the tests run on: real replicas as
//! processes of this machine. Not for production.

pub mod cluster;
#[cfg(feature = "dev-s3")]
pub mod s3;
