//! The machine's state as rows in an engine, and snapshots of it.
//!
//! A [`State`] is one replica's copy of the store. It applies log entries, each
//! as one atomic batch that also carries the entry's id: whatever happens, the
//! state is that of a prefix of the log and says which. It hands out
//! [`StateView`]s, which are consistent and never change; the state machine, all
//! reads and snapshots work on them, beside apply and without waiting for it.
//!
//! The rows ([`rows`]) follow from what is asked of them:
//!
//! * `Latest` holds each live key's newest record: nearly all reads end here.
//! * `Past` holds what came before, by key and revision, and deletions. A record
//!   moves there when it is superseded.
//! * `Changes` holds the keys that each revision changed. Watchers that come
//!   late read it, and compaction follows it: it names exactly what each change
//!   made unnecessary, so that forgetting history costs what history cost, and
//!   no scan of all that is kept.
//! * `Leases` and `Sessions` hold those, and an index by expiry.
//!
//! The state is a cache of the log. It is not durable until
//! [`State::checkpoint`], and if it is lost, it is set aside and rebuilt.

mod codec;
mod commit;
mod compact;
mod error;
mod export;
#[cfg(test)]
mod golden;
mod history;
mod home;
mod install;
mod past;
mod recent;
mod rows;
mod snapshot;
mod view;

use crate::disk::{Engine, EngineKind, EngineOptions, LogId, MemoryDisk, Table, WriteBatch};
use crate::machine::{self, Event, Head, Reply, Transition, View as _};
use crate::planted::{self, Bug};
use bytes::Bytes;
pub use error::{OpenError, StateError};
pub use export::{Export, ExportChunk, ExportTrailer, Root as StateRoot};
pub use history::Versions;
use home::Home;
pub use install::{FinishedSnapshot, RestoreWriter, SnapshotWriter};
use keelstone_proto::disk::Membership;
use recent::{Recent, Remembering};
pub use snapshot::{SnapshotReader, SnapshotTrailer, parse_frames, put_frame};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
pub use view::StateView;

/// The last log entry that a state contains, and the membership in force there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// None before the first entry.
    pub id: Option<LogId>,
    /// As of the last membership entry.
    pub membership: Membership,
}

/// What a log entry says.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// An encoded batch of commands.
    Batch(Bytes),
    /// A membership.
    Membership(Membership),
}

/// What came of an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct AppliedEntry {
    /// One for each command.
    pub replies: Vec<Reply>,
    /// What watchers are told, in revision order.
    pub events: Vec<Event>,
    /// The state's position afterwards.
    pub head: Head,
}

/// How a state is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateOptions {
    /// What the engine may use.
    pub engine: EngineOptions,
}

/// One replica's copy of the store. One caller applies; any number read.
pub struct State {
    home: Home,
    writer: Mutex<Writer>,
    shown: RwLock<Shown>,
    /// Shared with each moment that a view shows.
    held: Arc<()>,
}

/// What readers see: never locked for longer than it takes to copy a pointer.
struct Shown {
    view: StateView,
    engine: Arc<dyn Engine>,
}

/// What only one may use at a time: those who change the state.
struct Writer {
    engine: Arc<dyn Engine>,
    /// The number of the engine in use.
    number: u64,
    /// The highest number that an engine was given.
    highest: u64,
    /// A snapshot is being received into the engine of this number.
    installing: Option<u64>,
    /// Engines that were replaced, until nobody reads them any more.
    retired: Vec<(u64, Arc<dyn Engine>)>,
    /// Changes below this revision are gone from the tables.
    cleared_below: crate::Revision,
    /// What apply wrote lately to the engine in use.
    recent: Recent,
}

impl State {
    /// Opens the state in `dir`, or creates an empty one there. See
    /// [`is_fresh`](State::is_fresh).
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; [`OpenError::is_lost`] tells whether to
    /// [set the state aside](State::set_aside).
    pub fn open(dir: &Path, kind: EngineKind, options: StateOptions) -> Result<Self, OpenError> {
        let dir = dir.to_owned();
        Self::open_home(Home::Directory { dir, kind, options: options.engine })
    }

    /// A new state in memory.
    pub fn in_memory() -> Self {
        Self::open_in_memory(&MemoryDisk::default()).expect("a new disk holds nothing unreadable")
    }

    /// The state on a simulated disk.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open_in_memory(disk: &MemoryDisk) -> Result<Self, OpenError> {
        Self::open_home(Home::Memory(disk.clone()))
    }

    fn open_home(home: Home) -> Result<Self, OpenError> {
        let (number, engine) = home.open()?;
        let held = Arc::new(());
        let view = read_view(engine.as_ref(), &held)
            .map_err(|error| OpenError::Unreadable(error.to_string()))?;
        let shown = RwLock::new(Shown { view, engine: Arc::clone(&engine) });
        let writer = Writer {
            engine,
            number,
            highest: number,
            installing: None,
            retired: Vec::new(),
            cleared_below: crate::Revision::ZERO,
            recent: Recent::default(),
        };
        Ok(Self { home, writer: Mutex::new(writer), shown, held })
    }

    /// Renames the state directory, writes the reason into it and returns its
    /// new name, for the report. The state must not be open.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be renamed.
    pub fn set_aside(dir: &Path, reason: &str) -> std::io::Result<PathBuf> {
        home::set_aside(dir, reason)
    }

    /// Whether nothing was ever written: neither [`format`](State::format) nor
    /// a snapshot.
    pub fn is_fresh(&self) -> bool {
        self.current().head_ref() == &Head::genesis([0; 16])
    }

    /// Begins an empty state in the history of this name. All replicas of a
    /// cluster begin alike, so the name is the cluster's id. Does nothing if the
    /// state is not fresh.
    ///
    /// # Errors
    ///
    /// Fails if the engine does.
    pub fn format(&self, history: [u8; 16]) -> Result<(), StateError> {
        if !self.is_fresh() {
            return Ok(());
        }
        let writer = self.writer();
        let head = Head::genesis(history);
        self.commit(&writer, WriteBatch::default(), &head, &Applied::default())
    }

    /// Applies entries, in log order, each as one atomic batch. Their effects
    /// are visible to views on return, and not durable.
    ///
    /// # Errors
    ///
    /// The replica must stop: its state is that of some of the entries, and
    /// says of which.
    pub fn apply(&self, entries: &[(LogId, Payload)]) -> Result<Vec<AppliedEntry>, StateError> {
        entries.iter().map(|(id, payload)| self.apply_entry(*id, payload)).collect()
    }

    fn apply_entry(&self, id: LogId, payload: &Payload) -> Result<AppliedEntry, StateError> {
        // From the first read on: no snapshot may take the state's place between
        // what is read and what is written.
        let mut writer = self.writer();
        let view = self.current();
        let mut applied =
            Applied { id: Some(id), membership: view.applied_ref().membership.clone() };
        let mut batch = WriteBatch::default();
        let mut transition = Transition {
            head: view.head(),
            writes: Vec::new(),
            events: Vec::new(),
            replies: Vec::new(),
        };
        match payload {
            Payload::Blank => {}
            Payload::Membership(membership) => applied.membership = membership.clone(),
            Payload::Batch(bytes) => {
                let mut commands = machine::codec::decode_batch(bytes.clone())
                    .map_err(codec::undecodable("a log entry"))?;
                if planted::is(Bug::LeaseLocalTime) {
                    commands.now = planted::local_now();
                }
                let seen = Remembering { view: &view, recent: &writer.recent };
                transition = machine::apply(&seen, &commands)?;
                batch = commit::rows_of(&view, &transition)?;
            }
        }
        self.commit(&writer, batch, &transition.head, &applied)?;
        writer.recent.note(&transition.writes);
        let Transition { head, events, replies, .. } = transition;
        Ok(AppliedEntry { replies, events, head })
    }

    /// Writes a batch with the position that it leads to, and shows it.
    fn commit(
        &self,
        writer: &Writer,
        mut batch: WriteBatch,
        head: &Head,
        applied: &Applied,
    ) -> Result<(), StateError> {
        let before = self.current();
        put_position(&mut batch, head, applied, before.applied_ref());
        writer.engine.commit(batch)?;
        self.show(writer, head.clone(), applied.clone())
    }

    /// Makes what was committed visible to new views.
    fn show(&self, writer: &Writer, head: Head, applied: Applied) -> Result<(), StateError> {
        let view = StateView::new(writer.engine.view()?, head, applied, &self.held);
        let engine = Arc::clone(&writer.engine);
        *self.shown.write().expect("no holder of this lock panics") = Shown { view, engine };
        Ok(())
    }

    /// A consistent view of everything applied so far.
    ///
    /// # Errors
    ///
    /// Fails if the engine does.
    pub fn view(&self) -> Result<StateView, StateError> {
        Ok(self.current())
    }

    fn current(&self) -> StateView {
        self.shown.read().expect("no holder of this lock panics").view.clone()
    }

    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.shown.read().expect("no holder of this lock panics").engine)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().expect("no holder of this lock panics")
    }

    /// Makes everything applied so far durable, and returns how far that is at
    /// least: the log up to there may go.
    ///
    /// # Errors
    ///
    /// The replica must stop: nothing is known of what is durable.
    pub fn checkpoint(&self) -> Result<Applied, StateError> {
        let (engine, applied) = {
            let shown = self.shown.read().expect("no holder of this lock panics");
            (Arc::clone(&shown.engine), shown.view.applied())
        };
        // Beside apply, which does not wait for the disk.
        engine.checkpoint()?;
        Ok(applied)
    }

    /// Whether [`apply`](State::apply) would have to wait for the disk.
    pub fn is_behind(&self) -> bool {
        self.engine().is_behind()
    }

    /// About how many bytes of disk the state takes.
    ///
    /// # Errors
    ///
    /// Fails if the engine cannot tell.
    pub fn size_bytes(&self) -> Result<u64, StateError> {
        Ok(self.engine().size_bytes()?)
    }

    /// How many different moments are held by views, the newest included. One
    /// that is held for long keeps the engine from giving back what was
    /// superseded since, memory and disk.
    pub fn moments_held(&self) -> u64 {
        Arc::strong_count(&self.held) as u64 - 1
    }

    /// The engine's name: `fjall`, `sled` or `memory`.
    pub fn engine_name(&self) -> &'static str {
        self.engine().name()
    }
}

/// Adds the head and the applied position to a batch.
fn put_position(batch: &mut WriteBatch, head: &Head, applied: &Applied, before: &Applied) {
    if before.id.is_none() {
        batch.put(Table::Meta, rows::META_FORMAT, rows::FORMAT.to_le_bytes());
    }
    batch.put(Table::Meta, rows::META_HEAD, machine::codec::encode_head(head));
    if let Some(id) = applied.id {
        batch.put(Table::Meta, rows::META_APPLIED, codec::log_id_row(id));
    }
    if applied.membership != before.membership {
        let row = codec::membership_row(&applied.membership);
        batch.put(Table::Meta, rows::META_MEMBERSHIP, row);
    }
}

/// Reads where an engine's state stands.
fn read_view(engine: &dyn Engine, held: &Arc<()>) -> Result<StateView, StateError> {
    let view = engine.view()?;
    let head = view.get(Table::Meta, rows::META_HEAD)?;
    let head = match head {
        Some(row) => {
            let format = view.get(Table::Meta, rows::META_FORMAT)?;
            if format.as_deref() != Some(&rows::FORMAT.to_le_bytes()) {
                return Err(StateError::malformed(Table::Meta, "the format is unknown"));
            }
            codec::parse_head(row)?
        }
        None => Head::genesis([0; 16]),
    };
    let id = view.get(Table::Meta, rows::META_APPLIED)?.map(codec::parse_log_id).transpose()?;
    let membership = view.get(Table::Meta, rows::META_MEMBERSHIP)?;
    let membership = membership.map(codec::parse_membership).transpose()?.unwrap_or_default();
    Ok(StateView::new(view, head, Applied { id, membership }, held))
}
