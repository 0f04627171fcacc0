//! The machine's types as the bytes that are kept: in logs, rows, snapshots and
//! backups.
//!
//! This is the only place where the core's types meet the messages of
//! [`keelstone_proto::disk`]. There are three forms of each conversion:
//!
//! * `X_to_proto` and `X_from_proto`, for callers that put a type into a larger
//!   message of their own (a snapshot's row, a peer's request);
//! * `encode_X` and `decode_X`, for those that keep its bytes;
//! * [`encode_batch`], which packs envelopes that are encoded already.
//!
//! Nothing is copied on the way in: keys and values of what was decoded are
//! slices of the input, which stays in memory as long as one of them does.
//!
//! What this version does not know is an error, never a default: a replica that
//! guesses the meaning of a newer command diverges from those that know it.
//! Feature levels keep such commands out of the log until all replicas do.

mod command;
mod rejection;
mod reply;
mod state;

pub use command::{
    decode_batch, decode_envelope, encode_batch, encode_envelope, envelope_from_proto,
    envelope_to_proto, range_from_proto, range_to_proto, txn_from_proto, txn_to_proto,
};
pub use rejection::{rejection_from_proto, rejection_to_proto};
pub use reply::{
    decode_record, decode_reply, encode_record, encode_reply, key_record_from_proto,
    key_record_to_proto, range_reply_from_proto, range_reply_to_proto, record_from_proto,
    record_to_proto, reply_from_proto, reply_to_proto,
};
pub use state::{
    decode_head, decode_lease, decode_remembered, decode_session, encode_head, encode_lease,
    encode_remembered, encode_session, head_from_proto, head_to_proto, lease_from_proto,
    lease_to_proto, remembered_from_proto, remembered_to_proto, session_from_proto,
    session_to_proto,
};

/// Why bytes are not what they should be. The bytes are damaged, or written by
/// a newer version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They do not follow the encoding.
    #[error("malformed: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A part is missing, or of a kind that this version does not know.
    #[error("{0} is missing or unknown to this version")]
    Missing(&'static str),
    /// A number has no meaning in this version.
    #[error("{what} {number} is unknown to this version")]
    Unknown {
        /// What is numbered.
        what: &'static str,
        /// The number.
        number: u64,
    },
}

/// The part, or the error that names it.
fn required<T>(part: Option<T>, what: &'static str) -> Result<T, DecodeError> {
    part.ok_or(DecodeError::Missing(what))
}

/// Converts all items, or fails with the first that cannot be.
fn all<S, T>(
    items: Vec<S>,
    convert: impl FnMut(S) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    items.into_iter().map(convert).collect()
}
