//! The state engine over sled 0.34, for those who ask for it.
//!
//! Two things that an engine must have are not sled's and are made here:
//!
//! * **Views.** sled's iterators see what is written meanwhile. As long as a
//!   view is open, each commit first keeps the rows that it is about to change.
//!   A view that has been open for too much of that is given up.
//! * **Durability.** sled's flush asks Linux to write file ranges, which moves
//!   neither the disk's cache nor a file's new length: what was flushed can be
//!   lost in a power cut. A checkpoint therefore syncs sled's files itself.
//!
//! All tables share one tree, because sled's batches are atomic only there.

use super::batch::WriteBatch;
use super::engine::{Engine, EngineError, EngineView, Rows, Table};
use super::kind::EngineOptions;
use bytes::Bytes;
use sled::IVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// Bytes of rows that are kept for open views. Beyond it, the oldest are given
/// up.
const IMAGES_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Rows and bytes that a scan reads at a time.
const SCAN_ROWS: usize = 128;
const SCAN_BYTES: usize = 1024 * 1024;

/// An engine over a directory that sled owns.
pub(super) struct SledEngine {
    tree: Arc<VersionedTree>,
    dir: PathBuf,
    without_fsync: bool,
    /// Files of `blobs` that are durable: sled writes each of them once.
    durable_blobs: Mutex<BTreeSet<PathBuf>>,
}

impl SledEngine {
    /// Opens or creates the engine in `dir`.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be used or what is there cannot be read.
    pub(super) fn open(dir: &Path, options: &EngineOptions) -> Result<Self, EngineError> {
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(options.cache_bytes)
            // The log is durable; the state is when it is checkpointed.
            .flush_every_ms(None);
        let database = open_database(&config)?;
        let tree = VersionedTree { database, images: RwLock::default() };
        Ok(Self {
            tree: Arc::new(tree),
            dir: dir.to_owned(),
            without_fsync: options.sled_without_fsync,
            durable_blobs: Mutex::default(),
        })
    }

    /// Syncs sled's files and directories.
    fn sync_files(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.is_file() {
                File::open(path)?.sync_all()?;
            }
        }
        let blobs = self.dir.join("blobs");
        if blobs.is_dir() {
            self.sync_blobs(&blobs)?;
        }
        File::open(&self.dir)?.sync_all()
    }

    fn sync_blobs(&self, blobs: &Path) -> io::Result<()> {
        let mut durable = self.durable_blobs.lock().expect("no holder of this lock panics");
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(blobs)? {
            let path = entry?.path();
            if !durable.contains(&path) {
                match File::open(&path) {
                    Ok(file) => file.sync_all()?,
                    // sled has removed it meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            present.insert(path);
        }
        *durable = present;
        File::open(blobs)?.sync_all()
    }
}

/// A closed sled lets go of its lock in the background, somewhat later.
const LOCK_WAIT: Duration = Duration::from_millis(20);
const LOCK_TRIES: usize = 500;

fn open_database(config: &sled::Config) -> Result<sled::Db, EngineError> {
    let mut tries = 0;
    loop {
        // On some damage sled panics instead of answering.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| EngineError::Engine("sled could not read its files".to_owned()))?;
        match opened {
            Err(sled::Error::Io(error)) if is_locked(&error) && tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_WAIT);
            }
            opened => return opened.map_err(failed),
        }
    }
}

fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.to_string().contains("could not acquire lock")
}

fn failed(error: sled::Error) -> EngineError {
    match error {
        sled::Error::Io(error) => EngineError::Io(error),
        other => EngineError::Engine(other.to_string()),
    }
}

impl Engine for SledEngine {
    fn view(&self) -> Result<Arc<dyn EngineView>, EngineError> {
        let mut images = self.tree.write();
        let version = images.version;
        *images.views.entry(version).or_default() += 1;
        drop(images);
        Ok(Arc::new(SledView { tree: Arc::clone(&self.tree), version }))
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let mut writes = sled::Batch::default();
        let mut images = self.tree.write();
        for row in batch.rows() {
            images.keep(&self.tree.database, row.numbered())?;
            match row.value {
                Some(value) => writes.insert(row.numbered(), value),
                None => writes.remove(row.numbered()),
            }
        }
        self.tree.database.apply_batch(writes).map_err(failed)?;
        images.advance();
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        self.tree.database.flush().map_err(failed)?;
        if !self.without_fsync {
            self.sync_files()?;
        }
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, EngineError> {
        self.tree.database.size_on_disk().map_err(failed)
    }

    fn name(&self) -> &'static str {
        "sled"
    }
}

fn row_key(table: Table, key: &[u8]) -> Bytes {
    [&[table.number()], key].concat().into()
}

/// A tree, and what its rows were before recent commits.
struct VersionedTree {
    database: sled::Db,
    images: RwLock<Images>,
}

impl VersionedTree {
    fn read(&self) -> RwLockReadGuard<'_, Images> {
        self.images.read().expect("no holder of this lock panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Images> {
        self.images.write().expect("no holder of this lock panics")
    }
}

/// Rows as they were before the commits that open views must not see.
#[derive(Default)]
struct Images {
    /// How many commits there were.
    version: u64,
    /// How many open views there are of each version.
    views: BTreeMap<u64, usize>,
    /// A row as it was in versions up to the number, back to the image before.
    rows: BTreeMap<(Bytes, u64), Option<IVec>>,
    /// The rows kept for each version, to drop them together.
    kept: VecDeque<(u64, Vec<Bytes>)>,
    bytes: usize,
    /// Views of lower versions have been given up.
    oldest: u64,
}

impl Images {
    /// Keeps a row that is about to change, if a view needs it.
    fn keep(&mut self, database: &sled::Db, row: &[u8]) -> Result<(), EngineError> {
        if self.views.is_empty() {
            return Ok(());
        }
        let row = Bytes::copy_from_slice(row);
        if self.rows.contains_key(&(row.clone(), self.version)) {
            return Ok(());
        }
        let image = database.get(&row).map_err(failed)?;
        self.bytes += image_bytes(&row, image.as_ref());
        self.rows.insert((row.clone(), self.version), image);
        match self.kept.back_mut() {
            Some((version, rows)) if *version == self.version => rows.push(row),
            _ => self.kept.push_back((self.version, vec![row])),
        }
        Ok(())
    }

    /// Ends a commit.
    fn advance(&mut self) {
        self.version += 1;
        while self.bytes > IMAGES_BYTES_MAX
            && let Some((version, _)) = self.kept.front()
        {
            self.oldest = version + 1;
            self.drop_below(self.oldest);
        }
    }

    /// Drops images that no view of `version` or later needs.
    fn drop_below(&mut self, version: u64) {
        while self.kept.front().is_some_and(|(kept, _)| *kept < version)
            && let Some((kept, rows)) = self.kept.pop_front()
        {
            for row in rows {
                let image = self.rows.remove(&(row.clone(), kept)).flatten();
                self.bytes -= image_bytes(&row, image.as_ref());
            }
        }
    }

    fn close_view(&mut self, version: u64) {
        if let Some(open) = self.views.get_mut(&version) {
            *open -= 1;
            if *open == 0 {
                self.views.remove(&version);
            }
        }
        let needed = self.views.first_key_value().map_or(u64::MAX, |(version, _)| *version);
        self.drop_below(needed);
    }

    fn check(&self, version: u64) -> Result<(), EngineError> {
        if version < self.oldest { Err(EngineError::ViewExpired) } else { Ok(()) }
    }
}

fn image_bytes(row: &Bytes, image: Option<&IVec>) -> usize {
    row.len() + image.map_or(0, |image| image.len()) + size_of::<((Bytes, u64), IVec)>()
}

struct SledView {
    tree: Arc<VersionedTree>,
    version: u64,
}

impl Drop for SledView {
    fn drop(&mut self) {
        self.tree.write().close_view(self.version);
    }
}

impl EngineView for SledView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let row = row_key(table, key);
        let images = self.tree.read();
        images.check(self.version)?;
        let image = images.rows.range((row.clone(), self.version)..).next();
        let value = match image {
            Some(((of, _), image)) if *of == row => image.clone(),
            _ => self.tree.database.get(&row).map_err(failed)?,
        };
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        table: Table,
        (from, until): (Bound<Bytes>, Bound<Bytes>),
        descending: bool,
    ) -> Rows<'_> {
        let in_table = |bound: Bound<Bytes>| bound.map(|key| row_key(table, &key));
        let from = match in_table(from) {
            Bound::Unbounded => Bound::Included(Bytes::copy_from_slice(&[table.number()])),
            bound => bound,
        };
        let until = match in_table(until) {
            Bound::Unbounded => Bound::Excluded(Bytes::copy_from_slice(&[table.number() + 1])),
            bound => bound,
        };
        let rest = Some((from, until));
        Box::new(SledRows { view: self, rest, descending, ready: VecDeque::new() })
    }
}

/// A scan. It reads some rows at a time and lets commits pass in between.
struct SledRows<'a> {
    view: &'a SledView,
    /// What is not read yet.
    rest: Option<(Bound<Bytes>, Bound<Bytes>)>,
    descending: bool,
    ready: VecDeque<(Bytes, Bytes)>,
}

impl Iterator for SledRows<'_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            let (from, until) = self.rest.take()?;
            if super::memory::is_empty(&(from.clone(), until.clone())) {
                return None;
            }
            if let Err(error) = self.read(from, until) {
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

impl SledRows<'_> {
    /// Reads the next rows of the range, as they were in the view's version.
    fn read(&mut self, from: Bound<Bytes>, until: Bound<Bytes>) -> Result<(), EngineError> {
        let images = self.view.tree.read();
        images.check(self.view.version)?;
        let mut rows = BTreeMap::new();
        let mut bytes = 0;
        let mut last = None;
        let mut scan = self.view.tree.database.range((from.clone(), until.clone()));
        loop {
            let row = if self.descending { scan.next_back() } else { scan.next() };
            let Some(row) = row else {
                last = None;
                break;
            };
            if rows.len() == SCAN_ROWS || bytes >= SCAN_BYTES {
                break;
            }
            let (key, value) = row.map_err(failed)?;
            let key = Bytes::copy_from_slice(&key);
            bytes += value.len();
            last = Some(key.clone());
            rows.insert(key, value);
        }
        let (covered, rest) = split(from, until, last, self.descending);
        self.rest = rest;
        overlay(&mut rows, &images, self.view.version, covered);
        let rows =
            rows.into_iter().map(|(key, value)| (key.slice(1..), Bytes::copy_from_slice(&value)));
        if self.descending {
            self.ready.extend(rows.rev());
        } else {
            self.ready.extend(rows);
        }
        Ok(())
    }
}

type Bounds = (Bound<Bytes>, Bound<Bytes>);

/// What was read of a range, and what is left: nothing without a last row.
fn split(
    from: Bound<Bytes>,
    until: Bound<Bytes>,
    last: Option<Bytes>,
    descending: bool,
) -> (Bounds, Option<Bounds>) {
    match last {
        None => ((from, until), None),
        Some(last) if descending => {
            ((Bound::Included(last.clone()), until), Some((from, Bound::Excluded(last))))
        }
        Some(last) => ((from, Bound::Included(last.clone())), Some((Bound::Excluded(last), until))),
    }
}

/// Turns rows of today into those of `version`.
fn overlay(rows: &mut BTreeMap<Bytes, IVec>, images: &Images, version: u64, range: Bounds) {
    let from = range.0.clone().map(|key| (key, 0));
    let mut decided: Option<&Bytes> = None;
    for ((key, kept), image) in images.rows.range((from, Bound::Unbounded)) {
        let is_beyond = match &range.1 {
            Bound::Included(until) => key > until,
            Bound::Excluded(until) => key >= until,
            Bound::Unbounded => false,
        };
        if is_beyond {
            break;
        }
        // The first image from the version on is the row as the view shows it.
        let is_excluded = matches!(&range.0, Bound::Excluded(from) if from == key);
        if *kept < version || is_excluded || decided == Some(key) {
            continue;
        }
        decided = Some(key);
        match image {
            Some(image) => rows.insert(key.clone(), image.clone()),
            None => rows.remove(key),
        };
    }
}
