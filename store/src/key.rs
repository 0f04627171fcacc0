//! Keys, the ranges of them, and the spaces that they live in.

use bytes::{BufMut as _, Bytes, BytesMut};
use std::borrow::Borrow;
use std::fmt;
use std::ops::Bound;

/// A part of the key space. The first byte of every stored key names it, so
/// that one mechanism keeps user keys, entities and configuration apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Space {
    /// Raw keys of the native API and of the etcd API.
    Raw = b'k',
    /// Entity types.
    Types = b't',
    /// Entities.
    Entities = b'e',
    /// Configuration.
    Config = b'c',
    /// The store's own bookkeeping.
    System = b's',
}

impl Space {
    /// The stored key of `name` in this space.
    pub fn key(self, name: &[u8]) -> Key {
        let mut bytes = BytesMut::with_capacity(name.len() + 1);
        bytes.put_u8(self as u8);
        bytes.put_slice(name);
        Key(bytes.freeze())
    }

    /// All keys of this space.
    pub fn all(self) -> KeyRange {
        KeyRange::prefix(Bytes::copy_from_slice(&[self as u8]))
    }
}

/// A stored key: a space's byte and a name. At most
/// [`limits::KEY_BYTES_MAX`](crate::limits::KEY_BYTES_MAX) bytes, never empty
/// in a valid command.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Bytes);

impl Key {
    /// The bytes of the key, with its space.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key without its space's byte.
    pub fn name(&self) -> Bytes {
        self.0.slice(1.min(self.0.len())..)
    }

    /// Whether the key belongs to `space`.
    pub fn is_in(&self, space: Space) -> bool {
        self.0.first() == Some(&(space as u8))
    }
}

/// A map by key can be asked with bytes alone: a key orders and hashes as they do.
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Keys are user data: only their length may be seen in a log.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bytes)", self.0.len())
    }
}

/// Where a [`KeyRange`] ends.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum RangeEnd {
    /// Only the start key itself.
    Single,
    /// All keys below this one.
    Until(Bytes),
    /// No bound.
    Unbounded,
}

/// A run of keys in byte order, from `start` on.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key that can be in the range.
    pub start: Bytes,
    /// Where it ends.
    pub end: RangeEnd,
}

impl KeyRange {
    /// Only `key`.
    pub fn single(key: &Key) -> Self {
        Self { start: key.0.clone(), end: RangeEnd::Single }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: Bytes) -> Self {
        let end = match successor_of_prefix(&prefix) {
            Some(until) => RangeEnd::Until(until),
            None => RangeEnd::Unbounded,
        };
        Self { start: prefix, end }
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            RangeEnd::Single => key == self.start.as_ref(),
            RangeEnd::Until(until) => key >= self.start.as_ref() && key < until.as_ref(),
            RangeEnd::Unbounded => key >= self.start.as_ref(),
        }
    }

    /// The range as bounds, for ordered maps. An [empty](Self::is_empty) range
    /// has none that a `BTreeMap` would accept: ask first.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let start = self.start.as_ref();
        let end = match &self.end {
            RangeEnd::Single => Bound::Included(start),
            RangeEnd::Until(until) => Bound::Excluded(until.as_ref()),
            RangeEnd::Unbounded => Bound::Unbounded,
        };
        (Bound::Included(start), end)
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, RangeEnd::Until(until) if until <= &self.start)
    }
}

/// Ranges are user data: only the form may be seen in a log.
impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match &self.end {
            RangeEnd::Single => "single",
            RangeEnd::Until(_) => "until",
            RangeEnd::Unbounded => "unbounded",
        };
        write!(f, "KeyRange({} bytes, {end})", self.start.len())
    }
}

/// The least key that is above all keys with this prefix, if there is one.
fn successor_of_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut until = prefix[..=last].to_vec();
    until[last] += 1;
    Some(Bytes::from(until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_its_successor_begins() {
        let check = |prefix: &[u8], expected: Option<&[u8]>| {
            assert_eq!(successor_of_prefix(prefix).as_deref(), expected);
        };
        check(b"a", Some(b"b"));
        check(b"a\xff", Some(b"b"));
        check(b"\xff\xff", None);
        check(b"", None);
    }
}
