//! Row values that are messages: the conversions of `machine::codec` with this
//! area's errors, and the few messages that only the state has.

use super::{Applied, StateError};
use crate::disk::LogId;
use crate::machine::codec::{self, DecodeError};
use crate::machine::{Head, Lease, Remembered, Session};
use crate::{Key, Revision};
use bytes::Bytes;
use keelstone_proto::disk;
use prost::Message as _;

pub(super) fn undecodable(what: &'static str) -> impl Fn(DecodeError) -> StateError {
    move |error| StateError::Undecodable { what, detail: error.to_string() }
}

fn malformed(what: &'static str) -> impl Fn(prost::DecodeError) -> StateError {
    move |error| StateError::Undecodable { what, detail: error.to_string() }
}

pub(super) fn parse_head(row: Bytes) -> Result<Head, StateError> {
    codec::decode_head(row).map_err(undecodable("the head"))
}

pub(super) fn parse_lease(row: Bytes) -> Result<Lease, StateError> {
    codec::decode_lease(row).map_err(undecodable("a lease"))
}

pub(super) fn parse_session(row: Bytes) -> Result<Session, StateError> {
    codec::decode_session(row).map_err(undecodable("a session"))
}

pub(super) fn parse_remembered(row: Bytes) -> Result<Remembered, StateError> {
    let (_, _, remembered) =
        codec::decode_remembered(row).map_err(undecodable("a session's reply"))?;
    Ok(remembered)
}

/// A key that a revision changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChangedKey {
    pub(super) key: Key,
    pub(super) deleted: bool,
    /// The revision of the record before, or zero.
    pub(super) previous: Revision,
}

pub(super) fn change_of(
    revision: Revision,
    keys: impl IntoIterator<Item = ChangedKey>,
) -> disk::Change {
    let keys = keys.into_iter().map(|changed| disk::ChangedKey {
        key: changed.key.0,
        deleted: changed.deleted,
        previous: changed.previous.get(),
    });
    disk::Change { revision: revision.get(), keys: keys.collect() }
}

/// Appends a message as a row's value.
pub(super) fn put_message(row: &mut Vec<u8>, message: &impl prost::Message) {
    message.encode(row).expect("a buffer that grows has room");
}

pub(super) fn parse_change(row: Bytes) -> Result<Vec<ChangedKey>, StateError> {
    let change = disk::Change::decode(row).map_err(malformed("a change"))?;
    let keys = change.keys.into_iter().map(|changed| ChangedKey {
        key: Key(changed.key),
        deleted: changed.deleted,
        previous: Revision::new(changed.previous),
    });
    Ok(keys.collect())
}

pub(super) fn log_id_row(id: LogId) -> Vec<u8> {
    disk::LogId { term: id.term, index: id.index, leader: id.leader }.encode_to_vec()
}

pub(super) fn parse_log_id(row: Bytes) -> Result<LogId, StateError> {
    let id = disk::LogId::decode(row).map_err(malformed("the applied position"))?;
    Ok(LogId { term: id.term, index: id.index, leader: id.leader })
}

pub(super) fn membership_row(membership: &disk::Membership) -> Vec<u8> {
    membership.encode_to_vec()
}

pub(super) fn parse_membership(row: Bytes) -> Result<disk::Membership, StateError> {
    disk::Membership::decode(row).map_err(malformed("the membership"))
}

/// The applied position as snapshots carry it.
pub(super) fn applied_to_proto(applied: &Applied) -> disk::Applied {
    let membership = Some(applied.membership.clone());
    match applied.id {
        Some(LogId { term, index, leader }) => {
            disk::Applied { present: true, term, index, leader, membership }
        }
        None => disk::Applied { membership, ..disk::Applied::default() },
    }
}

pub(super) fn applied_from_proto(applied: disk::Applied) -> Applied {
    let disk::Applied { present, term, index, leader, membership } = applied;
    let id = present.then_some(LogId { term, index, leader });
    Applied { id, membership: membership.unwrap_or_default() }
}
