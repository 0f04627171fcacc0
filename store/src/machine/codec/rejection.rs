//! Rejections as bytes: a stable number for each kind, and its arguments.

use super::DecodeError;
use crate::machine::Rejection;
use crate::machine::check::text;
use crate::{LeaseId, Revision, SessionId};
use bytes::Bytes;
use keelstone_proto::disk;

const KEY_NOT_FOUND: u32 = 1;
const LEASE_NOT_FOUND: u32 = 2;
const LEASE_EXISTS: u32 = 3;
const TOO_LARGE: u32 = 4;
const COMPACTED: u32 = 5;
const FUTURE_REVISION: u32 = 6;
const DUPLICATE_KEY: u32 = 7;
const SESSION_NOT_FOUND: u32 = 8;
const SESSION_EXISTS: u32 = 9;
const REPLY_FORGOTTEN: u32 = 10;
const INVALID: u32 = 11;

/// The message of a rejection.
pub fn rejection_to_proto(rejection: &Rejection) -> disk::Rejection {
    let plain = |code, numbers: &[u64]| disk::Rejection {
        code,
        numbers: numbers.to_vec(),
        texts: Vec::new(),
    };
    match rejection {
        Rejection::KeyNotFound => plain(KEY_NOT_FOUND, &[]),
        Rejection::LeaseNotFound(id) => plain(LEASE_NOT_FOUND, &[id.0.cast_unsigned()]),
        Rejection::LeaseExists(id) => plain(LEASE_EXISTS, &[id.0.cast_unsigned()]),
        Rejection::TooLarge { what, actual, limit } => disk::Rejection {
            texts: vec![Bytes::from_static(what.as_bytes())],
            ..plain(TOO_LARGE, &[*actual, *limit])
        },
        Rejection::Compacted { asked, compacted } => {
            plain(COMPACTED, &[asked.get(), compacted.get()])
        }
        Rejection::FutureRevision { asked, current } => {
            plain(FUTURE_REVISION, &[asked.get(), current.get()])
        }
        Rejection::DuplicateKey => plain(DUPLICATE_KEY, &[]),
        Rejection::SessionNotFound(id) => plain(SESSION_NOT_FOUND, &[id.0]),
        Rejection::SessionExists(id) => plain(SESSION_EXISTS, &[id.0]),
        Rejection::ReplyForgotten { sequence, oldest } => {
            plain(REPLY_FORGOTTEN, &[*sequence, *oldest])
        }
        Rejection::Invalid(problem) => disk::Rejection {
            texts: vec![Bytes::from_static(problem.as_bytes())],
            ..plain(INVALID, &[])
        },
    }
}

/// The rejection of a message. A text that this version does not know becomes
/// [`text::UNKNOWN`].
///
/// # Errors
///
/// Fails if the kind is unknown to this version.
pub fn rejection_from_proto(rejection: &disk::Rejection) -> Result<Rejection, DecodeError> {
    let number = |at: usize| rejection.numbers.get(at).copied().unwrap_or_default();
    let revision = |at: usize| Revision::new(number(at));
    let lease = LeaseId(number(0).cast_signed());
    let words = || text::known(rejection.texts.first().map_or(&[][..], |text| text));
    Ok(match rejection.code {
        KEY_NOT_FOUND => Rejection::KeyNotFound,
        LEASE_NOT_FOUND => Rejection::LeaseNotFound(lease),
        LEASE_EXISTS => Rejection::LeaseExists(lease),
        TOO_LARGE => Rejection::TooLarge { what: words(), actual: number(0), limit: number(1) },
        COMPACTED => Rejection::Compacted { asked: revision(0), compacted: revision(1) },
        FUTURE_REVISION => Rejection::FutureRevision { asked: revision(0), current: revision(1) },
        DUPLICATE_KEY => Rejection::DuplicateKey,
        SESSION_NOT_FOUND => Rejection::SessionNotFound(SessionId(number(0))),
        SESSION_EXISTS => Rejection::SessionExists(SessionId(number(0))),
        REPLY_FORGOTTEN => Rejection::ReplyForgotten { sequence: number(0), oldest: number(1) },
        INVALID => Rejection::Invalid(words()),
        code => {
            return Err(DecodeError::Unknown { what: "rejection", number: u64::from(code) });
        }
    })
}
