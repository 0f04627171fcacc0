//! Who may connect, and as whom.
//!
//! * [`Tls`]: the certificates of a node and the rustls configurations made of
//!   them, exchanged without a restart when the files change;
//! * [`Caller`]: who a connection belongs to, on every request;
//! * [`accept`]: from a listener to authenticated connections, with limits;
//! * [`issue`]: a development authority and certificates.
//!
//! # Two trusts
//!
//! Clients and replicas are trusted through separate roots. A replica's
//! certificate also names its role in a URI name, `keelstone://peer/<node id>`;
//! the peer port refuses every certificate without it, so that even an
//! operator who signs both kinds with one root does not let a client in, and
//! the client port refuses every certificate with it, so that a stolen
//! replica's certificate is no client. A client's certificate may carry
//! `keelstone://client/<name>`; without it the common name is the name.
//!
//! Nothing older than TLS 1.2 is spoken to clients, TLS 1.3 alone between
//! replicas. There is no fallback to plaintext on a port that has TLS.

pub mod accept;
mod files;
pub mod issue;
mod reload;
mod role;
#[cfg(test)]
mod tests;

pub use files::TlsError;
pub use reload::{LOOK_INTERVAL, ServerConfigs, Tls};
pub use role::{RoleError, Subject, subject_of};

use std::net::SocketAddr;

/// Who a connection belongs to. Every request carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The authenticated name, if there is one.
    pub subject: Subject,
    /// Where the connection comes from.
    pub address: SocketAddr,
}
