//! Ranges of raw keys.

use bytes::Bytes;
use keelstone_proto::v1::{KeySpan, key_span::End};
use std::fmt;

/// A range of keys, in byte order.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRange {
    start: Bytes,
    end: Ending,
}

#[derive(Clone, PartialEq, Eq)]
enum Ending {
    /// Only the key itself.
    Single,
    /// Keys below this one.
    Until(Bytes),
    /// Keys that begin with the start.
    Prefix,
    /// All that follow.
    Unbounded,
}

impl KeyRange {
    /// Only this key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { start: key.into(), end: Ending::Single }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self { start: prefix.into(), end: Ending::Prefix }
    }

    /// From `start` on, up to but without `until`.
    pub fn between(start: impl Into<Bytes>, until: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: Ending::Until(until.into()) }
    }

    /// From `start` on.
    pub fn from(start: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: Ending::Unbounded }
    }

    /// All keys.
    pub fn all() -> Self {
        Self::from(Bytes::new())
    }

    /// What is left of it from `start` on.
    pub(crate) fn beginning_at(self, start: Bytes) -> Self {
        let end = match self.end {
            Ending::Prefix => successor(&self.start).map_or(Ending::Unbounded, Ending::Until),
            Ending::Single => Ending::Until(start.clone()),
            end => end,
        };
        Self { start, end }
    }

    pub(crate) fn into_wire(self) -> KeySpan {
        let end = match self.end {
            Ending::Single => None,
            Ending::Until(until) => Some(End::Until(until)),
            Ending::Prefix => Some(End::Prefix(true)),
            Ending::Unbounded => Some(End::Unbounded(true)),
        };
        KeySpan { key: self.start, end }
    }

    pub(crate) fn from_wire(span: KeySpan) -> Self {
        let end = match span.end {
            None | Some(End::Prefix(false) | End::Unbounded(false)) => Ending::Single,
            Some(End::Until(until)) => Ending::Until(until),
            Some(End::Prefix(true)) => Ending::Prefix,
            Some(End::Unbounded(true)) => Ending::Unbounded,
        };
        Self { start: span.key, end }
    }
}

/// The first key behind all that begin with `prefix`; `None` if there is none.
fn successor(prefix: &Bytes) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut key = prefix[..=last].to_vec();
    key[last] += 1;
    Some(key.into())
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.end {
            Ending::Single => "key",
            Ending::Until(_) => "between",
            Ending::Prefix => "prefix",
            Ending::Unbounded => "from",
        };
        write!(f, "KeyRange({kind}, {} bytes)", self.start.len())
    }
}

/// A single key.
impl From<&str> for KeyRange {
    fn from(key: &str) -> Self {
        Self::key(key.to_owned())
    }
}

/// A single key.
impl From<String> for KeyRange {
    fn from(key: String) -> Self {
        Self::key(key)
    }
}

/// A single key.
impl From<Bytes> for KeyRange {
    fn from(key: Bytes) -> Self {
        Self::key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_prefix_ends_where_the_prefix_does() {
        let rest = |prefix: &'static [u8]| {
            KeyRange::prefix(prefix).beginning_at(Bytes::from_static(b"x")).into_wire().end
        };
        assert_eq!(rest(b"ab"), Some(End::Until(Bytes::from_static(b"ac"))));
        assert_eq!(rest(b"a\xff\xff"), Some(End::Until(Bytes::from_static(b"b"))));
        assert_eq!(rest(b"\xff"), Some(End::Unbounded(true)));
        assert_eq!(rest(b""), Some(End::Unbounded(true)));
    }
}
