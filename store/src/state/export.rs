//! What a backup takes of a state: live records at one revision, leases and
//! the head, without history and sessions; and the hash that names them.

use super::snapshot::{CHUNK_BYTES, put_frame};
use super::{StateError, StateView};
use crate::machine::codec as machine_codec;
use crate::machine::{KeyRecord, Record, Rejection, View as _};
use crate::planted::{self, Bug};
use crate::{Key, KeyRange, LeaseId, RangeEnd, Revision};
use bytes::{Bytes, BytesMut};
use keelstone_proto::disk::snapshot_row::Row;

/// The state root as it is computed: BLAKE3 over the live records in key order,
/// each as its key, modification and create revision, version, lease and value.
/// Numbers are little-endian; key and value follow their lengths.
#[derive(Clone, Debug, Default)]
pub struct Root(blake3::Hasher);

impl Root {
    /// The root of no records.
    pub fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    /// Adds the record of the next key.
    pub fn add(&mut self, key: &Key, record: &Record) {
        let length = |bytes: &[u8]| (bytes.len() as u64).to_le_bytes();
        let hasher = &mut self.0;
        hasher.update(&length(key.as_bytes())).update(key.as_bytes());
        hasher.update(&record.modified.get().to_le_bytes());
        hasher.update(&record.created.get().to_le_bytes());
        hasher.update(&record.version.to_le_bytes());
        hasher.update(&record.lease.0.to_le_bytes());
        hasher.update(&length(&record.value)).update(&record.value);
    }

    /// The root of the records so far.
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

const EVERYTHING: KeyRange = KeyRange { start: Bytes::new(), end: RangeEnd::Unbounded };

impl StateView {
    /// Checks that the state at `revision` can be read.
    fn check_readable(&self, revision: Revision) -> Result<(), Rejection> {
        let (compacted, current) = (self.head_ref().compacted, self.head_ref().revision);
        if revision < compacted {
            return Err(Rejection::Compacted { asked: revision, compacted });
        }
        if revision > current {
            return Err(Rejection::FutureRevision { asked: revision, current });
        }
        Ok(())
    }

    /// The hash of all records that were live at `revision`: BLAKE3 over key,
    /// modification and create revision, version, lease and value of each, in
    /// key order. Reads the whole state.
    ///
    /// # Errors
    ///
    /// The rejection says that `revision` is compacted or in the future. Fails
    /// if the state cannot be read.
    pub fn state_root(
        &self,
        revision: Revision,
    ) -> Result<Result<[u8; 32], Rejection>, StateError> {
        if let Err(rejection) = self.check_readable(revision) {
            return Ok(Err(rejection));
        }
        let mut root = Root::new();
        self.scan_at(&EVERYTHING, revision, &mut |key, record| {
            root.add(&key, &record);
            true
        })?;
        Ok(Ok(root.finish()))
    }

    /// The rows of a backup at `revision`: the head, the leases of this view,
    /// and all records that were live at `revision`.
    ///
    /// # Errors
    ///
    /// Says that `revision` is compacted or in the future.
    pub fn export_rows(&self, revision: Revision) -> Result<Export, Rejection> {
        self.check_readable(revision)?;
        Ok(Export {
            view: self.clone(),
            revision,
            stage: Stage::Head,
            held: None,
            rows: 0,
            root: Root::new(),
        })
    }
}

/// Frames of rows, as in a snapshot, and what a backup's index wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportChunk {
    /// Frames of `disk::SnapshotRow`: at most 1 MiB, unless a single row is
    /// larger.
    pub bytes: Bytes,
    /// How many rows.
    pub rows: u64,
    /// The first record's key; empty if there is no record.
    pub first_key: Bytes,
    /// The last record's key; empty if there is no record.
    pub last_key: Bytes,
}

/// How an export ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportTrailer {
    /// Rows in all chunks.
    pub rows: u64,
    /// The [state root](StateView::state_root).
    pub state_root: [u8; 32],
}

/// Where an export has come to.
enum Stage {
    Head,
    /// Leases from this one on.
    Leases(LeaseId),
    /// Records from this key on.
    Records(Bytes),
    Done,
}

/// Reads the rows of a backup, chunk by chunk.
pub struct Export {
    view: StateView,
    revision: Revision,
    stage: Stage,
    /// A record that did not fit into the chunk before.
    held: Option<(Key, Record)>,
    rows: u64,
    root: Root,
}

/// Leases in one chunk.
const LEASES_PER_CHUNK: usize = 16 * 1024;

impl Export {
    /// The next chunk; none at the end.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    pub fn next_chunk(&mut self) -> Result<Option<ExportChunk>, StateError> {
        let mut chunk = Chunk::default();
        if matches!(self.stage, Stage::Head) {
            chunk.put(Row::Head(machine_codec::head_to_proto(self.view.head_ref())));
            // Ids are positive, and in rows a negative one would come last.
            self.stage = Stage::Leases(LeaseId::NONE);
        }
        if let Stage::Leases(from) = self.stage {
            self.stage = self.leases(from, &mut chunk)?;
        } else if let Stage::Records(from) = &self.stage {
            self.stage = self.records(from.clone(), &mut chunk)?;
        }
        if chunk.rows == 0 {
            return Ok(None);
        }
        self.rows += chunk.rows;
        Ok(Some(chunk.finish()))
    }

    /// How the export ends; to be asked for after the last chunk.
    pub fn trailer(&self) -> ExportTrailer {
        ExportTrailer { rows: self.rows, state_root: self.root.finish() }
    }

    fn leases(&self, from: LeaseId, chunk: &mut Chunk) -> Result<Stage, StateError> {
        let leases = self.view.leases(from, LEASES_PER_CHUNK)?;
        for lease in &leases {
            chunk.put(Row::Lease(machine_codec::lease_to_proto(lease)));
        }
        let next = leases.last().and_then(|lease| lease.id.0.checked_add(1));
        Ok(match next {
            Some(next) if leases.len() == LEASES_PER_CHUNK => Stage::Leases(LeaseId(next)),
            _ => Stage::Records(Bytes::new()),
        })
    }

    fn records(&mut self, from: Bytes, chunk: &mut Chunk) -> Result<Stage, StateError> {
        if let Some((key, record)) = self.held.take() {
            chunk.put_record(key, record);
        }
        let range = KeyRange { start: from, end: RangeEnd::Unbounded };
        let Self { view, revision, held, root, .. } = self;
        view.scan_at(&range, *revision, &mut |key, record| {
            let Some(record) = moved(view, &key, record, *revision) else { return true };
            root.add(&key, &record);
            if chunk.has_room(&key, &record) {
                chunk.put_record(key, record);
                return true;
            }
            *held = Some((key, record));
            false
        })?;
        Ok(match &self.held {
            Some((key, _)) => Stage::Records([key.as_bytes(), &[0]].concat().into()),
            None => Stage::Done,
        })
    }
}

/// The record that goes into a backup: the one that was read, unless the bug of a
/// moving revision is planted.
fn moved(view: &StateView, key: &Key, record: Record, revision: Revision) -> Option<Record> {
    let odd = key.as_bytes().last().is_some_and(|byte| byte % 2 == 1);
    if !odd || !planted::is(Bug::BackupMovingRevision) {
        return Some(record);
    }
    let before = Revision::new(revision.get().saturating_sub(20).max(view.head().compacted.get()));
    let mut old = None;
    let seen = view.scan_at(&KeyRange::single(key), before, &mut |_, record| {
        old = Some(record);
        false
    });
    seen.ok().and(old)
}

impl Iterator for Export {
    type Item = Result<ExportChunk, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_chunk().transpose()
    }
}

/// A chunk as it grows.
#[derive(Default)]
struct Chunk {
    bytes: BytesMut,
    rows: u64,
    first_key: Option<Bytes>,
    last_key: Bytes,
}

/// Bytes of a record's frame besides its key and value, at most.
const RECORD_FRAME_BYTES: usize = 96;

impl Chunk {
    fn put(&mut self, row: Row) {
        put_frame(&mut self.bytes, row);
        self.rows += 1;
    }

    fn has_room(&self, key: &Key, record: &Record) -> bool {
        let bytes = key.as_bytes().len() + record.value.len() + RECORD_FRAME_BYTES;
        self.rows == 0 || self.bytes.len() + bytes <= CHUNK_BYTES
    }

    fn put_record(&mut self, key: Key, record: Record) {
        self.first_key.get_or_insert_with(|| key.0.clone());
        self.last_key = key.0.clone();
        self.put(Row::Latest(machine_codec::key_record_to_proto(&KeyRecord { key, record })));
    }

    fn finish(self) -> ExportChunk {
        ExportChunk {
            bytes: self.bytes.freeze(),
            rows: self.rows,
            first_key: self.first_key.unwrap_or_default(),
            last_key: self.last_key,
        }
    }
}
