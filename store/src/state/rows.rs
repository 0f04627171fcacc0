//! How the state is laid out in rows: their keys and their values.
//!
//! Drawn in `docs/disk-format.md`; nothing else knows it. Numbers in keys are
//! big-endian, so that rows are in the order of the numbers. Records have a
//! fixed header, so that a value is read without a copy and written with one;
//! the other values are messages of `keelstone_proto::disk`.

use super::StateError;
use crate::disk::Table;
use crate::machine::Record;
use crate::{Key, KeyRange, LeaseId, Millis, RangeEnd, Revision, SessionId};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use std::ops::Bound;

/// The bounds of a scan.
pub(super) type Bounds = (Bound<Bytes>, Bound<Bytes>);

/// The version of this layout, kept in the state.
pub(super) const FORMAT: u32 = 1;

pub(super) const META_FORMAT: &[u8] = b"format";
pub(super) const META_HEAD: &[u8] = b"head";
pub(super) const META_APPLIED: &[u8] = b"applied";
pub(super) const META_MEMBERSHIP: &[u8] = b"membership";

/// What a row of the tables of leases and sessions is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A key attached to a lease.
    Attachment = b'a',
    /// An entry of the index by expiry.
    Expiry = b'e',
    /// A lease.
    Lease = b'l',
    /// A reply that a session remembers.
    Reply = b'r',
    /// A session.
    Session = b's',
}

fn key_of(parts: &[&[u8]]) -> Bytes {
    Bytes::from(parts.concat())
}

/// All rows of a kind.
pub(super) fn all_of(kind: Kind) -> Bounds {
    let from = key_of(&[&[kind as u8]]);
    (Bound::Included(from), Bound::Excluded(key_of(&[&[kind as u8 + 1]])))
}

// Latest and Past.

/// The rows of `Latest` in a range of keys.
pub(super) fn latest_bounds(range: &KeyRange) -> Bounds {
    let from = Bound::Included(range.start.clone());
    match &range.end {
        RangeEnd::Single => (from, Bound::Included(range.start.clone())),
        RangeEnd::Until(until) => (from, Bound::Excluded(until.clone())),
        RangeEnd::Unbounded => (from, Bound::Unbounded),
    }
}

/// The rows of `Past` in a range of keys.
pub(super) fn past_bounds(range: &KeyRange) -> Bounds {
    let from = Bound::Included(past_prefix(&range.start));
    match &range.end {
        RangeEnd::Single => {
            (from, Bound::Included(past_key(&range.start, Revision::new(u64::MAX))))
        }
        RangeEnd::Until(until) => (from, Bound::Excluded(past_prefix(until))),
        RangeEnd::Unbounded => (from, Bound::Unbounded),
    }
}

/// What all rows of `key` in `Past` begin with. A zero byte becomes `00 FF` and
/// the end `00 01`, so that rows are in the order of the keys, whatever bytes
/// these contain, and no key's rows lie between those of another.
fn past_prefix(key: &[u8]) -> Bytes {
    let mut escaped = Vec::with_capacity(key.len() + 2);
    put_escaped(&mut escaped, key);
    escaped.into()
}

fn put_escaped(escaped: &mut Vec<u8>, key: &[u8]) {
    for part in key.split_inclusive(|byte| *byte == 0) {
        escaped.put_slice(part);
        if part.last() == Some(&0) {
            escaped.put_u8(0xFF);
        }
    }
    escaped.put_slice(&[0, 1]);
}

/// The row of `key`'s record of `revision`.
pub(super) fn past_key(key: &[u8], revision: Revision) -> Bytes {
    let mut row = Vec::with_capacity(key.len() + 2 + 8);
    put_past_key(&mut row, key, revision);
    row.into()
}

/// Appends [`past_key`].
pub(super) fn put_past_key(row: &mut Vec<u8>, key: &[u8], revision: Revision) {
    put_escaped(row, key);
    row.put_u64(revision.get());
}

/// The key and the revision of a row of `Past`.
pub(super) fn parse_past_key(row: &[u8]) -> Result<(Key, Revision), StateError> {
    let malformed = || StateError::malformed(Table::Past, "its key cannot be read");
    let mut key = BytesMut::with_capacity(row.len());
    let mut rest = row;
    loop {
        let zero = rest.iter().position(|byte| *byte == 0).ok_or_else(malformed)?;
        key.put_slice(&rest[..zero]);
        match rest.get(zero + 1) {
            Some(0xFF) => key.put_u8(0),
            Some(1) => {
                let revision = rest[zero + 2..].try_into().map_err(|_| malformed())?;
                return Ok((Key(key.freeze()), Revision::new(u64::from_be_bytes(revision))));
            }
            _ => return Err(malformed()),
        }
        rest = &rest[zero + 2..];
    }
}

const RECORD_HEADER_BYTES: usize = 32;

/// Appends a record as a row of `Latest` or `Past`; an empty row of `Past` is a
/// tombstone.
pub(super) fn put_record(row: &mut Vec<u8>, record: &Record) {
    row.put_u64_le(record.created.get());
    row.put_u64_le(record.modified.get());
    row.put_u64_le(record.version);
    row.put_i64_le(record.lease.0);
    row.put_slice(&record.value);
}

/// The row of `Past` that says that the key was deleted.
pub(super) const TOMBSTONE: &[u8] = &[];

/// Reads a record; its value is a part of `row`.
pub(super) fn parse_record(table: Table, mut row: Bytes) -> Result<Record, StateError> {
    if row.len() < RECORD_HEADER_BYTES {
        return Err(StateError::malformed(table, "a record is too short"));
    }
    Ok(Record {
        created: Revision::new(row.get_u64_le()),
        modified: Revision::new(row.get_u64_le()),
        version: row.get_u64_le(),
        lease: LeaseId(row.get_i64_le()),
        value: row,
    })
}

// Changes.

pub(super) fn change_key(revision: Revision) -> Bytes {
    Bytes::copy_from_slice(&revision.get().to_be_bytes())
}

/// Appends [`change_key`].
pub(super) fn put_change_key(row: &mut Vec<u8>, revision: Revision) {
    row.put_u64(revision.get());
}

pub(super) fn parse_change_key(row: &[u8]) -> Result<Revision, StateError> {
    let bytes = row
        .try_into()
        .map_err(|_| StateError::malformed(Table::Changes, "its key cannot be read"))?;
    Ok(Revision::new(u64::from_be_bytes(bytes)))
}

// Leases and sessions.

pub(super) fn lease_key(id: LeaseId) -> Bytes {
    key_of(&[&[Kind::Lease as u8], &id.0.to_be_bytes()])
}

pub(super) fn attachment_key(id: LeaseId, key: &[u8]) -> Bytes {
    key_of(&[&[Kind::Attachment as u8], &id.0.to_be_bytes(), key])
}

pub(super) fn attachments_of(id: LeaseId) -> Bounds {
    let from = Bound::Included(attachment_key(id, &[]));
    match id.0.checked_add(1) {
        Some(next) => (from, Bound::Excluded(attachment_key(LeaseId(next), &[]))),
        None => (from, all_of(Kind::Attachment).1),
    }
}

/// The key attached, in a row between [`attachments_of`]'s bounds.
pub(super) fn parse_attachment(row: &Bytes) -> Key {
    Key(row.slice(9.min(row.len())..))
}

pub(super) fn session_key(id: SessionId) -> Bytes {
    key_of(&[&[Kind::Session as u8], &id.0.to_be_bytes()])
}

pub(super) fn reply_key(id: SessionId, sequence: u64) -> Bytes {
    key_of(&[&[Kind::Reply as u8], &id.0.to_be_bytes(), &sequence.to_be_bytes()])
}

pub(super) fn parse_reply_key(row: &[u8]) -> Result<(SessionId, u64), StateError> {
    let malformed = || StateError::malformed(Table::Sessions, "a reply's key cannot be read");
    let numbers = row.get(1..).filter(|rest| rest.len() == 16).ok_or_else(malformed)?;
    let (id, sequence) = numbers.split_at(8);
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("8 bytes"));
    Ok((SessionId(number(id)), number(sequence)))
}

/// The index by expiry is coarse: an entry moves only when the expiry passes
/// into another second, not with every renewal or write of a session.
const EXPIRY_STEP_MS: u64 = 1_000;

pub(super) fn expiry_key(expires: Millis, id: u64) -> Bytes {
    let step = expires.0 / EXPIRY_STEP_MS;
    key_of(&[&[Kind::Expiry as u8], &step.to_be_bytes(), &id.to_be_bytes()])
}

/// Entries of the index that can be due at `now`.
pub(super) fn due_bounds(now: Millis) -> Bounds {
    (all_of(Kind::Expiry).0, Bound::Included(expiry_key(now, u64::MAX)))
}

/// The id in an entry of the index.
pub(super) fn parse_expiry_id(table: Table, row: &[u8]) -> Result<u64, StateError> {
    let malformed = || StateError::malformed(table, "an index entry cannot be read");
    let bytes = row.get(9..).ok_or_else(malformed)?.try_into().map_err(|_| malformed())?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0), Just(1), Just(255), any::<u8>()], 0..6)
    }

    proptest! {
        #[test]
        fn past_rows_are_in_the_order_of_keys_and_revisions(
            a in (keys(), any::<u64>()),
            b in (keys(), any::<u64>()),
        ) {
            let row = |(key, revision): &(Vec<u8>, u64)| past_key(key, Revision::new(*revision));
            prop_assert_eq!(row(&a).cmp(&row(&b)), a.cmp(&b));
            let (key, revision) = parse_past_key(&row(&a)).unwrap();
            prop_assert_eq!((key.0.to_vec(), revision.get()), a);
        }
    }

    #[test]
    fn a_record_survives_its_row() {
        let record = Record {
            value: Bytes::from_static(b"value"),
            created: Revision::new(3),
            modified: Revision::new(5),
            version: 2,
            lease: LeaseId(7),
        };
        let mut row = Vec::new();
        put_record(&mut row, &record);
        assert_eq!(parse_record(Table::Latest, row.into()).unwrap(), record);
        assert!(parse_record(Table::Latest, Bytes::from_static(b"short")).is_err());
    }
}
