//! Rows as an export and a backup carry them, and what is computed over them.
//!
//! A run of rows is framed as in snapshots. A backup begins with the head; then
//! come the leases in the order of their ids, and the live records in the order
//! of their keys. History, sessions and the replicas' own rows stay behind.

use bytes::Bytes;
use keelstone_proto::disk::snapshot_row::Row;
use keelstone_store::machine::codec;
use keelstone_store::machine::{Head, KeyRecord, Lease};
use keelstone_store::state::{StateRoot, parse_frames};
use keelstone_store::{Key, Space};
use serde::{Deserialize, Serialize};

/// What a history began with, if not with an empty store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Why there is a new history: `restore`.
    pub reason: String,
    /// The history before.
    pub parent: String,
    /// The last revision of the history before that is in this one.
    pub fork_revision: u64,
    /// The hash over all transitions up to there.
    pub fork_hash: String,
    /// The revision that this history begins with.
    pub first_revision: u64,
    /// The cluster before.
    pub cluster_uid: String,
    /// The backup that was restored.
    pub backup_id: String,
    /// The repository that it was in.
    pub repo_uid: String,
}

/// Why rows are not those of a backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RowError {
    #[error("a row is cut off or malformed")]
    Malformed,
    #[error("a row is of a kind that does not belong into a backup")]
    Unknown,
    #[error("rows are not in order")]
    Order,
}

/// A row of a backup.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum BackupRow {
    /// Where the state stood.
    Head(Head),
    /// A lease.
    Lease(Lease),
    /// A live key.
    Record(KeyRecord),
}

impl BackupRow {
    fn from_proto(row: Row) -> Result<Self, RowError> {
        match row {
            Row::Head(head) => {
                Ok(Self::Head(codec::head_from_proto(&head).map_err(|_| RowError::Malformed)?))
            }
            Row::Lease(lease) => Ok(Self::Lease(codec::lease_from_proto(&lease))),
            Row::Latest(pair) => {
                let pair = codec::key_record_from_proto(pair).map_err(|_| RowError::Malformed)?;
                Ok(Self::Record(pair))
            }
            _ => Err(RowError::Unknown),
        }
    }
}

/// The rows of a run. Values are slices of `run`.
pub(super) fn parse(run: Bytes) -> impl Iterator<Item = Result<BackupRow, RowError>> {
    parse_frames(run)
        .map(|row| row.map_err(|_| RowError::Malformed).and_then(BackupRow::from_proto))
}

/// How many rows of which kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Live keys, in all spaces.
    pub keys: u64,
    /// Raw keys of the native and the etcd API.
    pub raw: u64,
    /// Types.
    pub types: u64,
    /// Entities and what belongs to them.
    pub entities: u64,
    /// Configuration values.
    pub config: u64,
    /// The store's own bookkeeping.
    pub system: u64,
    /// Leases.
    pub leases: u64,
}

impl Counts {
    fn count(&mut self, key: &Key) {
        self.keys += 1;
        let by_space = [
            (Space::Raw, &mut self.raw),
            (Space::Types, &mut self.types),
            (Space::Entities, &mut self.entities),
            (Space::Config, &mut self.config),
            (Space::System, &mut self.system),
        ];
        for (space, count) in by_space {
            *count += u64::from(key.is_in(space));
        }
    }
}

/// What is computed over all rows of a backup, in order.
#[derive(Debug, Default)]
pub(super) struct Digest {
    head: Option<Head>,
    last_lease: Option<i64>,
    last_key: Option<Key>,
    root: StateRoot,
    rows: u64,
    counts: Counts,
    abandoned: bool,
}

/// What a [`Digest`] comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Digested {
    /// Where the state stood; `None`: there were no rows.
    pub(super) head: Option<Head>,
    /// BLAKE3 over the live records.
    pub(super) state_root: [u8; 32],
    /// Rows.
    pub(super) rows: u64,
    /// Rows by kind.
    pub(super) counts: Counts,
}

impl Digest {
    /// Adds the rows of a run, and returns the first and the last key in it and
    /// how many rows there are.
    pub(super) fn add_run(&mut self, run: Bytes) -> Result<RunSummary, RowError> {
        let mut summary = RunSummary::default();
        for row in parse(run) {
            let row = row?;
            if !self.abandoned {
                self.add(&row)?;
            }
            summary.rows += 1;
            if let BackupRow::Record(pair) = row {
                if summary.first_key.is_empty() {
                    summary.first_key = pair.key.0.clone();
                }
                summary.last_key = pair.key.0;
            }
        }
        Ok(summary)
    }

    /// Rows are missing: what is computed over all of them has no meaning any
    /// more, nor has their order.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
    }

    fn add(&mut self, row: &BackupRow) -> Result<(), RowError> {
        // The head is the first row and the only one of its kind.
        if matches!(row, BackupRow::Head(_)) == (self.rows > 0) {
            return Err(RowError::Order);
        }
        self.rows += 1;
        match row {
            BackupRow::Head(head) => self.head = Some(head.clone()),
            BackupRow::Lease(lease) => {
                let id = Some(lease.id.0);
                if self.last_lease >= id || self.last_key.is_some() {
                    return Err(RowError::Order);
                }
                self.last_lease = id;
                self.counts.leases += 1;
            }
            BackupRow::Record(KeyRecord { key, record }) => {
                if self.last_key.as_ref() >= Some(key) {
                    return Err(RowError::Order);
                }
                self.last_key = Some(key.clone());
                self.counts.count(key);
                self.root.add(key, record);
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Digested {
        let Self { head, root, rows, counts, .. } = self;
        Digested { head, state_root: root.finish(), rows, counts }
    }
}

/// What is in a run of rows, for the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RunSummary {
    /// The first record's key; empty if there is none.
    pub(super) first_key: Bytes,
    /// The last record's key.
    pub(super) last_key: Bytes,
    /// Rows.
    pub(super) rows: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use keelstone_proto::disk;
    use keelstone_store::machine::Record;
    use keelstone_store::state::put_frame;
    use keelstone_store::{LeaseId, Millis, Revision};

    fn head() -> Row {
        Row::Head(codec::head_to_proto(&Head::genesis([7; 16])))
    }

    fn record(name: &[u8]) -> Row {
        let record = Record { modified: Revision::new(3), version: 2, ..Record::default() };
        Row::Latest(codec::key_record_to_proto(&KeyRecord { key: Space::Raw.key(name), record }))
    }

    fn lease(id: i64) -> Row {
        let lease = Lease { id: LeaseId(id), ttl_ms: 9, expires: Millis(7) };
        Row::Lease(codec::lease_to_proto(&lease))
    }

    fn run(rows: Vec<Row>) -> Bytes {
        let mut run = BytesMut::new();
        for row in rows {
            put_frame(&mut run, row);
        }
        run.freeze()
    }

    #[test]
    fn rows_are_counted_and_bounded() {
        let mut digest = Digest::default();
        digest.add_run(run(vec![head(), lease(3), lease(4)])).unwrap();
        let summary = digest.add_run(run(vec![record(b"a"), record(b"b")])).unwrap();
        assert_eq!((&summary.first_key[..], &summary.last_key[..]), (&b"ka"[..], &b"kb"[..]));
        let digested = digest.finish();
        assert_eq!((digested.rows, digested.counts.raw, digested.counts.leases), (5, 2, 2));
        assert_eq!(digested.head, Some(Head::genesis([7; 16])));
    }

    #[test]
    fn order_and_kinds_are_checked() {
        let check = |rows: Vec<Row>| Digest::default().add_run(run(rows)).err();
        assert_eq!(check(vec![head(), lease(1), lease(2), record(b"a"), record(b"b")]), None);
        let wrong = Some(RowError::Order);
        assert_eq!(check(vec![lease(1)]), wrong);
        assert_eq!(check(vec![head(), head()]), wrong);
        assert_eq!(check(vec![head(), record(b"b"), record(b"a")]), wrong);
        assert_eq!(check(vec![head(), record(b"a"), record(b"a")]), wrong);
        assert_eq!(check(vec![head(), record(b"a"), lease(1)]), wrong);
        assert_eq!(check(vec![head(), lease(2), lease(1)]), wrong);
        let tombstone = Row::Tombstone(disk::Tombstone::default());
        assert_eq!(check(vec![head(), tombstone]), Some(RowError::Unknown));
    }
}
