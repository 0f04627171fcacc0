//! The state engine that keeps everything in memory, and the disk that it
//! stands on in simulation.
//!
//! A view is a clone of persistent maps. "Durable" is what the last checkpoint
//! saw: [`MemoryDisk::crash`] goes back to it, as a power cut would.

use super::batch::WriteBatch;
use super::engine::{Engine, EngineError, EngineView, Rows, Table};
use bytes::Bytes;
use imbl::OrdMap;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

type Tables = [OrdMap<Bytes, Bytes>; Table::ALL.len()];

#[derive(Default)]
struct Content {
    live: Tables,
    durable: Tables,
}

/// An engine in memory. Clones share their content.
#[derive(Clone, Default)]
pub struct MemoryEngine {
    content: Arc<Mutex<Content>>,
}

impl MemoryEngine {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no holder of this lock panics")
    }
}

impl Engine for MemoryEngine {
    fn view(&self) -> Result<Arc<dyn EngineView>, EngineError> {
        Ok(Arc::new(MemoryView { tables: self.lock().live.clone() }))
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let mut content = self.lock();
        for row in batch.rows() {
            let rows = &mut content.live[usize::from(row.table().number())];
            let copy = Bytes::copy_from_slice;
            match row.value {
                Some(value) => rows.insert(copy(row.key()), copy(value)),
                None => rows.remove(row.key()),
            };
        }
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        let mut content = self.lock();
        let Content { live, durable } = &mut *content;
        durable.clone_from(live);
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, EngineError> {
        let rows = |table: &OrdMap<Bytes, Bytes>| {
            table.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>()
        };
        Ok(self.lock().live.iter().map(rows).sum())
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

struct MemoryView {
    tables: Tables,
}

impl EngineView for MemoryView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.tables[usize::from(table.number())].get(key).cloned())
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
        let rows = self.tables[usize::from(table.number())]
            .range(range)
            .map(|(key, value)| Ok((key.clone(), value.clone())));
        if descending { Box::new(rows.rev()) } else { Box::new(rows) }
    }
}

/// Whether no key can lie between the bounds. Maps panic on some such ranges.
pub(super) fn is_empty(range: &(Bound<Bytes>, Bound<Bytes>)) -> bool {
    match range {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(until)) => from > until,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(until) | Bound::Excluded(until),
        ) => from >= until,
    }
}

/// What a node in simulation has instead of a state directory: engines by name,
/// and which of them is in use. Clones share their content, so that a node that
/// is built anew finds what the one before it left.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Default)]
struct Shelf {
    engines: BTreeMap<String, MemoryEngine>,
    current: Option<String>,
}

impl MemoryDisk {
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().expect("no holder of this lock panics")
    }

    /// The engine of this name, empty if it is new.
    pub fn engine(&self, name: &str) -> MemoryEngine {
        self.lock().engines.entry(name.to_owned()).or_default().clone()
    }

    /// The name of the engine in use.
    pub fn current(&self) -> Option<String> {
        self.lock().current.clone()
    }

    /// Names the engine in use, durably.
    pub fn switch(&self, name: &str) {
        self.lock().current = Some(name.to_owned());
    }

    /// Forgets an engine.
    pub fn remove(&self, name: &str) {
        self.lock().engines.remove(name);
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        self.lock().engines.keys().cloned().collect()
    }

    /// Loses what no checkpoint has seen, as a power cut would. Engines and
    /// views in use elsewhere must be dropped: they belong to a process that is
    /// gone.
    pub fn crash(&self) {
        for engine in self.lock().engines.values() {
            let mut content = engine.lock();
            let Content { live, durable } = &mut *content;
            live.clone_from(durable);
        }
    }
}
