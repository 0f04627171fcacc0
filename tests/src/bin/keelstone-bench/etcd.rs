//! The generated stubs of etcd's API.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    unreachable_pub,
    reason = "generated code"
)]

tonic::include_proto!("etcdserverpb");
