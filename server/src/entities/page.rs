//! Page tokens: where a list goes on, and at which revision.
//!
//! A token is opaque to callers. It names the revision that all pages are read
//! at, the last key of the page before, and a fingerprint of the list, so that
//! a token of another list is refused instead of answered with nonsense.

use super::EntityError;
use bytes::Bytes;
use keelstone_store::{KeyRange, Revision};

const VERSION: &str = "1";

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The revision that all pages are read at.
    pub(crate) revision: Revision,
    /// The first key that can be in the next page.
    pub(crate) from: Bytes,
}

impl Place {
    /// The token that leads here, for the list of this fingerprint.
    pub(crate) fn token(&self, list: &[u8]) -> String {
        let mut token = format!("{VERSION}.{:x}.{}.", self.revision.get(), fingerprint(list));
        token.extend(self.from.iter().map(|byte| format!("{byte:02x}")));
        token
    }

    /// Where `token` leads.
    ///
    /// # Errors
    ///
    /// [`EntityError::PageToken`] if it is not a token of this list, or leads
    /// out of `run`.
    pub(crate) fn parse(token: &str, list: &[u8], run: &KeyRange) -> Result<Self, EntityError> {
        let malformed = || EntityError::PageToken("is malformed");
        let parts: Vec<&str> = token.split('.').collect();
        let [VERSION, revision, print, from] = parts[..] else { return Err(malformed()) };
        if print != fingerprint(list) {
            return Err(EntityError::PageToken("belongs to another list"));
        }
        let revision = u64::from_str_radix(revision, 16).map_err(|_| malformed())?;
        let from = bytes_of(from).filter(|from| run.contains(from)).ok_or_else(malformed)?;
        Ok(Self { revision: Revision::new(revision), from: from.into() })
    }
}

/// The part of `run` from `from` on.
pub(crate) fn rest(run: &KeyRange, from: &Bytes) -> KeyRange {
    KeyRange { start: from.clone(), end: run.end.clone() }
}

fn fingerprint(list: &[u8]) -> String {
    blake3::hash(list).to_hex()[..8].to_owned()
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelstone_store::Space;

    #[test]
    fn a_token_leads_back_to_its_place_only() {
        let run = Space::Entities.all();
        let place = Place { revision: Revision::new(300), from: Bytes::from_static(b"ed\xff\0") };
        let token = place.token(b"all");
        assert_eq!(Place::parse(&token, b"all", &run).unwrap(), place);
        let other = Place::parse(&token, b"some", &run).unwrap_err();
        assert_eq!(other.to_string(), "the page token belongs to another list");
        let outside = Place { from: Bytes::from_static(b"x"), ..place };
        for bad in ["", "1.2.3", &outside.token(b"all"), &token[..token.len() - 1], "1.é.é.é"] {
            assert!(Place::parse(bad, b"all", &run).is_err(), "{bad}");
        }
    }
}
