//! The manifest of a backup: what it is, and the hashes of all that it is made
//! of. It is written last; a backup without one does not exist.

use super::document;
use super::rows::Counts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the backup.
    pub format: u64,
    /// The least format that a program must know to read it.
    pub min_reader: u64,
    /// `full`.
    pub kind: String,
    /// The repository that it belongs to.
    pub repo_uid: String,
    /// The cluster that it is of.
    pub cluster_uid: String,
    /// The history that its revisions belong to.
    pub history: HistoryName,
    /// Names the backup, in all repositories.
    pub backup_id: String,
    /// The revision that it was read at.
    pub revision: u64,
    /// The hash over all transitions up to there.
    pub state_hash: String,
    /// How many transitions that hash covers.
    pub transitions: u64,
    /// BLAKE3 over the live records, sorted.
    pub state_root: String,
    /// What the cluster had compacted.
    pub compact_revision: u64,
    /// The level of features in force.
    pub feature_level: u32,
    /// Where the replicas stood.
    pub raft: RaftPosition,
    /// Replicated time at the revision, and when the backup was made.
    pub time: Times,
    /// Rows by kind.
    pub counts: Counts,
    /// All rows.
    pub rows: u64,
    /// How the packs are encrypted.
    pub crypto: Crypto,
    /// The packs, in the order of their rows.
    pub packs: Vec<PackEntry>,
    /// The index of all chunks.
    pub index: PackEntry,
    /// The hash of the manifest before this one; empty for the first.
    pub prev_manifest: String,
    /// Bytes, for people.
    pub stats: Stats,
    /// The version of the program that made it.
    pub writer: String,
}

/// A history: a run of revisions that no restore interrupted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HistoryName {
    /// Counts the histories of a repository, from 1.
    pub ordinal: u64,
    /// 32 hexadecimal digits.
    pub uid: String,
}

/// Where the replicas stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftPosition {
    /// The term of the last applied entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
    /// The members.
    pub membership: Vec<MemberEntry>,
}

/// A member, as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEntry {
    /// Its id.
    pub id: u64,
    /// `voter` or `learner`.
    pub role: String,
    /// Where it served peers.
    pub peer_address: String,
    /// Where it served clients.
    pub client_address: String,
    /// Failure domains.
    pub labels: BTreeMap<String, String>,
}

/// Times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Replicated time at the revision, milliseconds since the Unix epoch.
    pub commit_ms: u64,
    /// The same, for people.
    pub commit: String,
    /// When the backup began, by the clock of the machine that made it.
    pub started: String,
    /// When it ended.
    pub finished: String,
}

/// How the packs are encrypted. This version writes them plain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crypto {
    /// `none`.
    pub alg: String,
    /// The data key, wrapped for each recipient.
    pub dek: Vec<serde_json::Value>,
}

/// An object of the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackEntry {
    /// Its name in the backup's folder.
    pub key: String,
    /// Its size.
    pub size: u64,
    /// BLAKE3 of all of it.
    pub b3: String,
    /// CRC32C of all of it.
    pub crc32c: String,
}

impl PackEntry {
    pub(super) fn of(key: String, bytes: &[u8]) -> Self {
        Self {
            key,
            size: bytes.len() as u64,
            b3: blake3::hash(bytes).to_hex().to_string(),
            crc32c: format!("{:08x}", crc32c::crc32c(bytes)),
        }
    }

    /// What is wrong with `bytes`, if they are not this object's.
    pub(super) fn mismatch(&self, bytes: &[u8]) -> Option<String> {
        let there = Self::of(self.key.clone(), bytes);
        if there.size != self.size {
            return Some(format!("it has {} bytes, not {}", there.size, self.size));
        }
        (there != *self).then(|| "it is not the object that the manifest names".to_owned())
    }
}

/// Bytes, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes of rows.
    pub plain_bytes: u64,
    /// Bytes of all objects.
    pub stored_bytes: u64,
    /// How long the backup took.
    pub millis: u64,
}

impl Manifest {
    /// The name that people use: the revision, and eight digits of the id.
    pub fn name(&self) -> String {
        format!("r{}-{}", self.revision, short(&self.backup_id))
    }

    /// The folder of the backup in its repository.
    pub fn folder(&self) -> String {
        folder(&self.history, self.revision, &self.backup_id)
    }

    pub(super) fn seal(&self) -> Vec<u8> {
        document::seal(self)
    }
}

/// The folder of a history.
pub(super) fn history_folder(history: &HistoryName) -> String {
    format!("h/{:08}-{}", history.ordinal, history.uid)
}

/// The folder of a backup.
pub(super) fn folder(history: &HistoryName, revision: u64, backup_id: &str) -> String {
    format!("{}/full/{revision:016x}-{}", history_folder(history), short(backup_id))
}

/// The random end of an id that begins with a time.
fn short(id: &str) -> &str {
    id.get(id.len().saturating_sub(8)..).unwrap_or(id)
}

/// A time as RFC 3339.
pub(super) fn time_text(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// A time of the log as RFC 3339; one beyond the year 9999 as that year's end.
pub(super) fn log_time_text(ms: u64) -> String {
    const YEAR_9999_MS: u64 = 253_402_300_799_000;
    time_text(UNIX_EPOCH + Duration::from_millis(ms.min(YEAR_9999_MS)))
}
