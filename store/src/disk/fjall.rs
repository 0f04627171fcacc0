//! The state engine over fjall 3: the default.
//!
//! A batch is one sorted file that fjall takes in (its "ingestion"): no
//! journal, no sorted buffer. It is there as a whole or not at all, because all
//! tables share one keyspace, each with its number before its keys, and it is
//! durable when the commit returns. That suits large batches: it is meant to
//! stand behind a [`Buffered`](super::buffered::Buffered).

use super::batch::{Place, Span, WriteBatch};
use super::engine::{Engine, EngineError, EngineView, Rows, Table};
use super::kind::EngineOptions;
use super::memory::is_empty;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _, Snapshot};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The keyspace that holds all tables.
const KEYSPACE: &str = "rows";
/// Threads that merge files; they sleep when there is nothing to do.
const WORKERS: usize = 1;
/// How far they step back behind those who serve requests.
const WORKERS_NICE: i32 = 10;
/// Files that may pile up before they are merged with those below: twice
/// fjall's own choice, for half as much merging. A read looks into each of
/// them that its filter does not rule out.
const MERGE_FROM: u8 = 8;
/// Bytes of a merged file, an eighth of fjall's own choice. Each is synced as a
/// whole, and whatever else is synced on that disk waits behind it: the log.
const TABLE_BYTES: u64 = 8 * 1024 * 1024;
/// Values from this size on live in files of their own, so that merging does
/// not copy documents over and over.
const BLOB_BYTES_MIN: u32 = 4096;
/// Open files that fjall keeps at most.
const CACHED_FILES: usize = 256;
/// Files that may pile up before commits are slowed down: a read looks into
/// each of them.
const UNMERGED_SLOW: usize = 24;
/// And before something has to be wrong.
const UNMERGED_MAX: usize = 256;
/// How often it is looked whether there are fewer, and how often before one
/// commit: five seconds. Then it goes on, which wakes the threads that merge.
const UNMERGED_WAIT: Duration = Duration::from_millis(10);
const UNMERGED_WAITS_MAX: usize = 500;

/// An engine over a directory that fjall owns.
pub(super) struct FjallEngine {
    database: Database,
    keyspace: Keyspace,
    dir: PathBuf,
}

impl FjallEngine {
    /// Opens or creates the engine in `dir`.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be used or what is there cannot be read.
    pub(super) fn open(dir: &Path, options: &EngineOptions) -> Result<Self, EngineError> {
        let open = || {
            super::priority::lower(WORKERS_NICE);
            Database::builder(dir)
                .cache_size(options.cache_bytes)
                .worker_threads(WORKERS)
                .max_cached_files(Some(CACHED_FILES))
                .open()
        };
        // On a thread whose priority its workers inherit.
        let opened = std::thread::scope(|scope| scope.spawn(open).join());
        let database = match opened {
            Ok(opened) => opened.map_err(failed)?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let keyspace = database.keyspace(KEYSPACE, create_options).map_err(failed)?;
        Ok(Self { database, keyspace, dir: dir.to_owned() })
    }

    /// Waits a while for merging to catch up, so that reads stay fast. Fails if
    /// it never will.
    fn wait_for_merges(&self) -> Result<(), EngineError> {
        for _ in 0..UNMERGED_WAITS_MAX {
            // Taking in a file does not ask whether fjall has failed; this does.
            self.database.persist(PersistMode::Buffer).map_err(failed)?;
            if self.keyspace.l0_table_count() < UNMERGED_SLOW {
                return Ok(());
            }
            std::thread::sleep(UNMERGED_WAIT);
        }
        let files = self.keyspace.l0_table_count();
        if files >= UNMERGED_MAX {
            let detail = format!("fjall has {files} files to merge and merges none");
            return Err(EngineError::Engine(detail));
        }
        Ok(())
    }

    /// Syncs the directories that fjall leaves out.
    fn sync_dirs(&self) -> std::io::Result<()> {
        let keyspace = self.keyspace.path();
        let inner = std::fs::read_dir(keyspace)?.map(|entry| Ok(entry?.path()));
        let inner: Vec<PathBuf> = inner.collect::<std::io::Result<_>>()?;
        let inner = inner.iter().map(PathBuf::as_path).filter(|path| path.is_dir());
        let outer = [Some(keyspace), keyspace.parent(), Some(self.dir.as_path())];
        for dir in inner.chain(outer.into_iter().flatten()) {
            std::fs::File::open(dir)?.sync_all()?;
        }
        Ok(())
    }
}

fn create_options() -> KeyspaceCreateOptions {
    let blobs = fjall::KvSeparationOptions::default().separation_threshold(BLOB_BYTES_MIN);
    let merging = fjall::compaction::Leveled::default()
        .with_l0_threshold(MERGE_FROM)
        .with_table_target_size(TABLE_BYTES);
    KeyspaceCreateOptions::default()
        .with_kv_separation(Some(blobs))
        .compaction_strategy(Arc::new(merging))
}

fn failed(error: fjall::Error) -> EngineError {
    match error {
        fjall::Error::Io(error) => EngineError::Io(error),
        other => EngineError::Engine(other.to_string()),
    }
}

/// A row's key among those of all tables.
fn row_key(table: Table, key: &[u8]) -> Bytes {
    [&[table.number()], key].concat().into()
}

impl Engine for FjallEngine {
    fn view(&self) -> Result<Arc<dyn EngineView>, EngineError> {
        let snapshot = self.database.snapshot();
        Ok(Arc::new(FjallView { snapshot, keyspace: self.keyspace.clone() }))
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.wait_for_merges()?;
        let (arenas, rows) = batch.into_sorted();
        let part = |span: Span| span.share(&arenas[span.arena as usize]);
        let mut ingestion = self.keyspace.start_ingestion().map_err(failed)?;
        for Place { key, value } in rows {
            // Parts of the batch: fjall keeps none of them beyond this.
            match value {
                Some(value) => ingestion.write(part(key), part(value)),
                None => ingestion.write_tombstone(part(key)),
            }
            .map_err(failed)?;
        }
        ingestion.finish().map_err(failed)
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        self.database.persist(PersistMode::SyncAll).map_err(failed)?;
        Ok(self.sync_dirs()?)
    }

    fn size_bytes(&self) -> Result<u64, EngineError> {
        self.database.disk_space().map_err(failed)
    }

    fn name(&self) -> &'static str {
        "fjall"
    }
}

struct FjallView {
    snapshot: Snapshot,
    keyspace: Keyspace,
}

impl EngineView for FjallView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.snapshot.get(&self.keyspace, row_key(table, key)).map_err(failed)?;
        Ok(value.map(Bytes::from))
    }

    fn scan(
        &self,
        table: Table,
        range: (Bound<Bytes>, Bound<Bytes>),
        descending: bool,
    ) -> Rows<'_> {
        if is_empty(&range) {
            return Box::new(std::iter::empty());
        }
        let row = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner().map_err(failed)?;
            Ok((Bytes::from(key).slice(1..), Bytes::from(value)))
        };
        let rows = self.snapshot.range(&self.keyspace, bounds_in(table, range));
        if descending { Box::new(rows.rev().map(row)) } else { Box::new(rows.map(row)) }
    }
}

/// A range of a table's keys among those of all tables.
fn bounds_in(
    table: Table,
    (from, until): (Bound<Bytes>, Bound<Bytes>),
) -> (Bound<Bytes>, Bound<Bytes>) {
    let within = |bound: Bound<Bytes>, edge: Bound<u8>| match bound {
        Bound::Unbounded => edge.map(|number| Bytes::copy_from_slice(&[number])),
        bound => bound.map(|key| row_key(table, &key)),
    };
    let from = within(from, Bound::Included(table.number()));
    (from, within(until, Bound::Excluded(table.number() + 1)))
}
