//! The state engine over fjall 3: the default.
//!
//! One keyspace for each table, one atomic batch across them, snapshots as
//! views. fjall writes a journal and sorted tables; it syncs the journal before
//! it writes a table and before it begins another journal, so that a table can
//! never be ahead of the journal that the other tables are recovered from.

mod journal;

use super::engine::{Engine, EngineError, EngineView, Rows, Table, WriteBatch};
use super::kind::EngineOptions;
use super::memory::is_empty;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _, Snapshot};
use journal::Journals;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MIB: u64 = 1024 * 1024;
/// fjall keeps journals until every keyspace that they mention is flushed;
/// beyond this it flushes the laggards. It is also what an open has to replay.
const JOURNAL_BYTES_MAX: u64 = 128 * MIB;
/// One thread flushes, one compacts: with a single one, a long compaction holds
/// up flushes and then writes. Both sleep when there is nothing to do.
const WORKERS: usize = 2;
/// How far those threads step back behind the others: flushes fall due on all
/// replicas at about the same moment, and would hold up requests on machines
/// with few cores.
const WORKERS_NICE: i32 = 10;
/// Values from this size on live in files of their own, so that compaction
/// does not copy documents over and over.
const BLOB_BYTES_MIN: u32 = 4096;
/// Open files that fjall keeps at most.
const CACHED_FILES: usize = 256;

/// An engine over a directory that fjall owns.
pub(super) struct FjallEngine {
    database: Database,
    keyspaces: Keyspaces,
    dir: PathBuf,
}

type Keyspaces = Arc<[Keyspace; Table::ALL.len()]>;

impl FjallEngine {
    /// Opens or creates the engine in `dir`.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be used or what is there cannot be read.
    pub(super) fn open(dir: &Path, options: &EngineOptions) -> Result<Self, EngineError> {
        let database = in_the_background(|| open_database(dir, options))?;
        let mut keyspaces = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            let keyspace = database
                .keyspace(table.name(), || create_options(table, options.write_buffer_bytes))
                .map_err(failed)?;
            keyspaces.push(keyspace);
        }
        let keyspaces: [Keyspace; Table::ALL.len()] =
            keyspaces.try_into().unwrap_or_else(|_| unreachable!("one keyspace for each table"));
        Ok(Self { database, keyspaces: Arc::new(keyspaces), dir: dir.to_owned() })
    }
}

/// Runs `open` on a thread of low priority, which the threads that it starts
/// inherit (Linux, sched(7)). Elsewhere, or if the system refuses, they are like
/// all others.
fn in_the_background<T: Send>(open: impl FnOnce() -> T + Send) -> T {
    let low = || {
        // None is the calling thread, on Linux; elsewhere it is the process.
        if cfg!(target_os = "linux")
            && let Err(error) = rustix::process::setpriority_process(None, WORKERS_NICE)
        {
            tracing::debug!(%error, "fjall's threads have the priority of the others");
        }
        open()
    };
    std::thread::scope(|scope| match scope.spawn(low).join() {
        Ok(opened) => opened,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Opens fjall, after a look at its journals.
fn open_database(dir: &Path, options: &EngineOptions) -> Result<Database, EngineError> {
    let open = || {
        Database::builder(dir)
            .cache_size(options.cache_bytes)
            .worker_threads(WORKERS)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .max_cached_files(Some(CACHED_FILES))
            // A commit is not durable anyway: this spares a system call each.
            .manual_journal_persist(true)
            .open()
    };
    let journals = journal::inspect(dir)?;
    if let Journals::Damaged(problem) = journals {
        return Err(EngineError::Engine(format!("fjall's journal is damaged: {problem}")));
    }
    match (open(), journals) {
        (Err(fjall::Error::JournalRecovery(error)), Journals::Torn { at }) => {
            tracing::warn!(%error, at, "the torn end of the state's journal was cut off");
            journal::cut(dir, at)?;
            open().map_err(failed)
        }
        (opened, _) => opened.map_err(failed),
    }
}

/// Memory of a replica is bounded by these write buffers and the block cache.
fn create_options(table: Table, write_buffer_bytes: u64) -> KeyspaceCreateOptions {
    let options = KeyspaceCreateOptions::default();
    match table {
        Table::Latest | Table::Past => {
            let blobs = fjall::KvSeparationOptions::default().separation_threshold(BLOB_BYTES_MIN);
            options.max_memtable_size(write_buffer_bytes).with_kv_separation(Some(blobs))
        }
        Table::Meta | Table::Changes | Table::Leases | Table::Sessions => {
            options.max_memtable_size(write_buffer_bytes / 4)
        }
    }
}

fn failed(error: fjall::Error) -> EngineError {
    match error {
        fjall::Error::Io(error) => EngineError::Io(error),
        other => EngineError::Engine(other.to_string()),
    }
}

impl Engine for FjallEngine {
    fn view(&self) -> Result<Arc<dyn EngineView>, EngineError> {
        let snapshot = self.database.snapshot();
        Ok(Arc::new(FjallView { snapshot, keyspaces: Arc::clone(&self.keyspaces) }))
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let mut writes =
            fjall::OwnedWriteBatch::with_capacity(self.database.clone(), batch.rows.len());
        for (table, key, value) in batch.rows {
            let keyspace = &self.keyspaces[usize::from(table.number())];
            match value {
                Some(value) => writes.insert(keyspace, key, value),
                None => writes.remove(keyspace, key),
            }
        }
        writes.commit().map_err(failed)
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        journal::presync(&self.dir)?;
        self.database.persist(PersistMode::SyncAll).map_err(failed)?;
        std::fs::File::open(&self.dir)?.sync_all()?;
        Ok(())
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
    keyspaces: Keyspaces,
}

impl FjallView {
    fn keyspace(&self, table: Table) -> &Keyspace {
        &self.keyspaces[usize::from(table.number())]
    }
}

impl EngineView for FjallView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.snapshot.get(self.keyspace(table), key).map_err(failed)?;
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
            Ok((Bytes::from(key), Bytes::from(value)))
        };
        let rows = self.snapshot.range(self.keyspace(table), range);
        if descending { Box::new(rows.rev().map(row)) } else { Box::new(rows.map(row)) }
    }
}
