//! Snapshots: the whole state as bytes that any engine can be filled from.
//!
//! A snapshot is a run of chunks. A chunk is a run of frames: a length (4
//! bytes, little-endian) and that many bytes of a `disk::SnapshotRow`. The first
//! row is the head, the second the applied position, then come live records,
//! past ones and tombstones, changes, leases, sessions and their replies, each
//! in the order of their keys. The trailer counts the rows and hashes all bytes.
//!
//! What compaction has not removed yet is left out: equal states give equal
//! snapshots, however far each replica has come with it.

use super::{Applied, StateError, StateView, codec, rows};
use crate::disk::Table;
use crate::machine::codec as machine_codec;
use crate::machine::{Head, KeyRecord, View as _};
use crate::planted::{self, Bug};
use crate::{Key, Revision};
use bytes::{BufMut as _, Bytes, BytesMut};
use keelstone_proto::disk;
use keelstone_proto::disk::snapshot_row::Row;
use prost::Message as _;
use std::ops::Bound;

/// Bytes of a chunk, unless a single row is larger.
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;

/// Bytes of a frame besides its row: the length, and the row's own tag.
const FRAME_BYTES: usize = 16;

/// How a snapshot ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTrailer {
    /// Rows in all chunks.
    pub rows: u64,
    /// BLAKE3 of all chunks' bytes, in order.
    pub hash: [u8; 32],
}

/// Appends a row's frame to a chunk.
///
/// # Panics
///
/// If the row is larger than 4 GiB.
pub fn put_frame(chunk: &mut BytesMut, row: Row) {
    let row = disk::SnapshotRow { row: Some(row) };
    let length = row.encoded_len();
    chunk.reserve(4 + length);
    chunk.put_u32_le(u32::try_from(length).expect("a row is far below 4 GiB"));
    row.encode(chunk).expect("a BytesMut grows");
}

/// The rows of a chunk, which are parts of its bytes. The first that cannot be
/// read is the last.
pub fn parse_frames(mut chunk: Bytes) -> impl Iterator<Item = Result<Row, StateError>> {
    let bad = |problem: &str| StateError::BadSnapshot(problem.to_owned());
    std::iter::from_fn(move || {
        if chunk.is_empty() {
            return None;
        }
        if chunk.len() < 4 {
            chunk.clear();
            return Some(Err(bad("a frame is cut off")));
        }
        let length = chunk.split_to(4);
        let length = u32::from_le_bytes(length.as_ref().try_into().expect("4 bytes")) as usize;
        if chunk.len() < length {
            chunk.clear();
            return Some(Err(bad("a row is cut off")));
        }
        let row = disk::SnapshotRow::decode(chunk.split_to(length));
        Some(match row {
            Ok(disk::SnapshotRow { row: Some(row) }) => Ok(row),
            Ok(_) => Err(bad("a row is of a kind that this version does not know")),
            Err(error) => Err(bad(&error.to_string())),
        })
    })
}

impl Iterator for SnapshotReader {
    type Item = Result<Bytes, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_chunk().transpose()
    }
}

/// The parts of a snapshot after its two first rows, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Latest,
    Past,
    Changes,
    Leases,
    Sessions,
    Replies,
}

impl Part {
    const ALL: [Self; 6] =
        [Self::Latest, Self::Past, Self::Changes, Self::Leases, Self::Sessions, Self::Replies];

    fn table(self) -> Table {
        match self {
            Self::Latest => Table::Latest,
            Self::Past => Table::Past,
            Self::Changes => Table::Changes,
            Self::Leases => Table::Leases,
            Self::Sessions | Self::Replies => Table::Sessions,
        }
    }

    fn bounds(self, head: &Head) -> rows::Bounds {
        match self {
            Self::Latest | Self::Past => (Bound::Unbounded, Bound::Unbounded),
            Self::Changes => (Bound::Included(rows::change_key(head.compacted)), Bound::Unbounded),
            Self::Leases => rows::all_of(rows::Kind::Lease),
            Self::Sessions => rows::all_of(rows::Kind::Session),
            Self::Replies => rows::all_of(rows::Kind::Reply),
        }
    }
}

/// Reads a snapshot of one view, chunk by chunk. Between chunks it holds
/// nothing but the view and a key.
pub struct SnapshotReader {
    view: StateView,
    part: usize,
    /// The last row of the part that was read.
    after: Option<Bytes>,
    began: bool,
    /// Read, but did not fit into the chunk before.
    held: Option<Row>,
    rows: u64,
    hasher: blake3::Hasher,
}

impl SnapshotReader {
    pub(super) fn new(view: StateView) -> Self {
        let hasher = blake3::Hasher::new();
        Self { view, part: 0, after: None, began: false, held: None, rows: 0, hasher }
    }

    /// What the snapshot contains: the applied position and the head.
    pub fn header(&self) -> (Applied, Head) {
        (self.view.applied(), self.view.head())
    }

    /// The next chunk: at most 1 MiB, unless a single row is larger. None at
    /// the end.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StateError> {
        let mut chunk = BytesMut::new();
        if !self.began {
            self.began = true;
            let head = machine_codec::head_to_proto(self.view.head_ref());
            self.put(&mut chunk, Row::Head(head));
            let applied = codec::applied_to_proto(self.view.applied_ref());
            self.put(&mut chunk, Row::Applied(applied));
        }
        if let Some(row) = self.held.take() {
            self.put(&mut chunk, row);
        }
        while self.held.is_none() && self.part < Part::ALL.len() {
            self.fill(Part::ALL[self.part], &mut chunk)?;
        }
        if chunk.is_empty() {
            return Ok(None);
        }
        self.hasher.update(&chunk);
        Ok(Some(chunk.freeze()))
    }

    /// How the snapshot ends; to be asked for after the last chunk.
    pub fn trailer(&self) -> SnapshotTrailer {
        SnapshotTrailer { rows: self.rows, hash: *self.hasher.finalize().as_bytes() }
    }

    fn put(&mut self, chunk: &mut BytesMut, row: Row) {
        put_frame(chunk, row);
        self.rows += 1;
    }

    /// Adds rows of a part until one does not fit, which is held for the next
    /// chunk, or the part ends.
    fn fill(&mut self, part: Part, chunk: &mut BytesMut) -> Result<(), StateError> {
        let view = self.view.clone();
        let (mut from, until) = part.bounds(view.head_ref());
        if let Some(after) = &self.after {
            from = Bound::Excluded(after.clone());
        }
        let mut scan = view.rows().scan(part.table(), (from, until), false).peekable();
        while let Some(row) = scan.next() {
            let (key, value) = row?;
            let next = scan.peek().and_then(|next| next.as_ref().ok()).map(|(next, _)| next);
            let row = snapshot_row(&view, part, &key, value, next)?;
            self.after = Some(key);
            let lost = part == Part::Replies && planted::is(Bug::DedupLostInSnapshot);
            let Some(row) = row.filter(|_| !lost) else { continue };
            if !chunk.is_empty() && chunk.len() + row.encoded_len() > CHUNK_BYTES - FRAME_BYTES {
                self.held = Some(row);
                return Ok(());
            }
            self.put(chunk, row);
        }
        self.part += 1;
        self.after = None;
        Ok(())
    }
}

/// A row as the snapshot carries it, unless compaction is about to remove it.
fn snapshot_row(
    view: &StateView,
    part: Part,
    key: &Bytes,
    value: Bytes,
    next: Option<&Bytes>,
) -> Result<Option<Row>, StateError> {
    Ok(Some(match part {
        Part::Latest => Row::Latest(latest_row(key, value)?),
        Part::Past => return past_row(view, key, value, next),
        Part::Changes => {
            let revision = rows::parse_change_key(key)?;
            Row::Change(codec::change_of(revision, codec::parse_change(value)?))
        }
        Part::Leases => Row::Lease(machine_codec::lease_to_proto(&codec::parse_lease(value)?)),
        Part::Sessions => {
            Row::Session(machine_codec::session_to_proto(&codec::parse_session(value)?))
        }
        Part::Replies => {
            let (id, sequence) = rows::parse_reply_key(key)?;
            let remembered = codec::parse_remembered(value)?;
            Row::SessionReply(machine_codec::remembered_to_proto(id, sequence, &remembered))
        }
    }))
}

fn latest_row(key: &Bytes, value: Bytes) -> Result<disk::KeyRecord, StateError> {
    let record = rows::parse_record(Table::Latest, value)?;
    Ok(machine_codec::key_record_to_proto(&KeyRecord { key: Key(key.clone()), record }))
}

/// A row of the past, if a read at or after the compaction, or an event from
/// there on, can still show it.
fn past_row(
    view: &StateView,
    row_key: &Bytes,
    value: Bytes,
    next: Option<&Bytes>,
) -> Result<Option<Row>, StateError> {
    let compacted = view.head_ref().compacted;
    let (key, revision) = rows::parse_past_key(row_key)?;
    if value.is_empty() {
        let tombstone = disk::Tombstone { key: key.0, revision: revision.get() };
        return Ok((revision >= compacted).then_some(Row::Tombstone(tombstone)));
    }
    if revision < compacted && superseded_at(view, &key, next)? < compacted {
        return Ok(None);
    }
    let record = rows::parse_record(Table::Past, value)?;
    Ok(Some(Row::Past(machine_codec::key_record_to_proto(&KeyRecord { key, record }))))
}

/// When the row before `next` was superseded: by the next row of its key, or
/// else by the newest record.
fn superseded_at(
    view: &StateView,
    key: &Key,
    next: Option<&Bytes>,
) -> Result<Revision, StateError> {
    if let Some(next) = next {
        let (next_key, revision) = rows::parse_past_key(next)?;
        if next_key == *key {
            return Ok(revision);
        }
    }
    let latest = view.get(key)?;
    let latest = latest.ok_or(StateError::Incomplete("a past record was never superseded"))?;
    Ok(latest.modified)
}
