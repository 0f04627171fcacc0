//! The paths of configuration values, and where they are kept.
//!
//! A value's key is its path with a zero byte for each `/`. Zero sorts before
//! everything that a segment can have, so a value and all below it are one run
//! of keys: with `/` itself, `a-b` would stand between `a` and `a/b`.

use keelstone_store::entity::EntityRejection;
use keelstone_store::limits::{CONFIG_PATH_BYTES_MAX, CONFIG_PATH_SEGMENTS_MAX};
use keelstone_store::{Key, KeyRange, RangeEnd, Space};
use std::fmt;

const FIELD: &str = "path";

/// The path of a configuration value, such as `cse/server-1/syslog/port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigPath(String);

impl ConfigPath {
    /// Reads a path.
    ///
    /// # Errors
    ///
    /// [`EntityRejection::TooLarge`] or [`EntityRejection::InvalidField`].
    pub fn parse(text: &str) -> Result<Self, EntityRejection> {
        let too_large = |actual: usize, limit: usize| EntityRejection::TooLarge {
            field: FIELD,
            actual: actual as u64,
            limit: limit as u64,
        };
        if text.len() > CONFIG_PATH_BYTES_MAX {
            return Err(too_large(text.len(), CONFIG_PATH_BYTES_MAX));
        }
        let segments = text.split('/').count();
        if segments > CONFIG_PATH_SEGMENTS_MAX {
            return Err(too_large(segments, CONFIG_PATH_SEGMENTS_MAX));
        }
        let is_segment = |segment: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !segment.is_empty() && segment.bytes().all(allowed)
        };
        if !text.split('/').all(is_segment) {
            let problem =
                "it is not segments of letters, digits, `.`, `_` and `-`, separated by `/`";
            return Err(EntityRejection::invalid(FIELD, problem));
        }
        Ok(Self(text.to_owned()))
    }

    /// Where the value is kept.
    pub fn key(&self) -> Key {
        Space::Config.key(self.0.replace('/', "\0").as_bytes())
    }

    /// The path that is kept under `key`.
    pub fn of_key(key: &Key) -> Option<Self> {
        if !key.is_in(Space::Config) {
            return None;
        }
        let name = String::from_utf8(key.name().to_vec()).ok()?;
        Some(Self(name.replace('\0', "/")))
    }
}

impl fmt::Display for ConfigPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The keys of the value at `path` and of all below it; of the whole tree
/// without a path.
pub fn run(path: Option<&ConfigPath>) -> KeyRange {
    let Some(path) = path else { return Space::Config.all() };
    let start = path.key().0;
    let mut until = start.to_vec();
    until.push(1);
    KeyRange { start, end: RangeEnd::Until(until.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_segments() {
        for good in ["a", "cse/server-1/syslog/port", "a/b.c/_", &"a/".repeat(15).as_str()[..29]] {
            let path = ConfigPath::parse(good).unwrap();
            assert_eq!(path.to_string(), good);
            assert_eq!(ConfigPath::of_key(&path.key()), Some(path));
        }
        for bad in ["", "/", "a//b", "/a", "a/", "a b", "ä", "a\0b"] {
            let error = ConfigPath::parse(bad).unwrap_err();
            assert_eq!(error.reason(), "field_invalid", "{bad:?}");
        }
        for large in ["x".repeat(513), vec!["a"; 17].join("/")] {
            assert_eq!(ConfigPath::parse(&large).unwrap_err().reason(), "too_large");
        }
    }

    #[test]
    fn a_value_and_all_below_it_are_one_run() {
        let path = |text| ConfigPath::parse(text).unwrap();
        let run = run(Some(&path("a/b")));
        let check = |text, expected| {
            assert_eq!(run.contains(path(text).key().as_bytes()), expected, "{text}");
        };
        check("a/b", true);
        check("a/b/c", true);
        check("a/b/c/d", true);
        check("a", false);
        check("a/b-c", false);
        check("a/b.c", false);
        check("a/bc", false);
        check("a/c", false);
    }
}
