//! The newest records of keys that were written lately, in memory.
//!
//! Apply reads the record that a put replaces, for its version and for watchers.
//! What is written often (heartbeats) is found here instead of in the engine's
//! sorted buffers, where each look costs a dozen cache misses and a checksum.
//! Two generations, of which the older is dropped as a whole: no clock, no
//! list, nothing that depends on what readers do, so that it is the same for
//! all replicas that applied the same entries since they started.

use super::{StateError, StateView};
use crate::machine::{Head, Lease, Record, Remembered, Session, View, Write};
use crate::{Key, KeyRange, LeaseId, Revision, SessionId};
use bytes::Bytes;

/// Bytes of keys and values in one generation.
const GENERATION_BYTES: usize = 4 * 1024 * 1024;
/// Larger values are left to the engine: a few of them would push out all else.
const VALUE_BYTES_MAX: usize = 64 * 1024;
/// What an entry takes besides key and value.
const ENTRY_BYTES: usize = 160;

/// `None`: the key was deleted.
#[expect(clippy::disallowed_types, reason = "never gone through: its order reaches nobody")]
type Generation = std::collections::HashMap<Key, Option<Record>>;

/// See the module.
pub(super) struct Recent {
    young: Generation,
    old: Generation,
    young_bytes: usize,
    generation_bytes: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self::new(GENERATION_BYTES)
    }
}

impl Recent {
    fn new(generation_bytes: usize) -> Self {
        Self { young: Generation::new(), old: Generation::new(), young_bytes: 0, generation_bytes }
    }

    /// Forgets everything: another state took the place of the one that this
    /// was about.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.generation_bytes);
    }

    /// The newest record of a key, if it is known here.
    fn get(&self, key: &Key) -> Option<&Option<Record>> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Takes over what was written. To be called when the engine has it.
    pub(super) fn note(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Put { key, record, .. } if record.value.len() > VALUE_BYTES_MAX => {
                    self.forget(key);
                }
                Write::Put { key, record, .. } => self.insert(key, Some(kept(record))),
                Write::Delete { key, .. } => self.insert(key, None),
                _ => {}
            }
        }
    }

    fn insert(&mut self, key: &Key, record: Option<Record>) {
        let value_bytes = record.as_ref().map_or(0, |record| record.value.len());
        if let Some(slot) = self.young.get_mut(key) {
            let before = slot.as_ref().map_or(0, |record| record.value.len());
            self.young_bytes = self.young_bytes - before + value_bytes;
            *slot = record;
        } else {
            self.young_bytes += ENTRY_BYTES + key.as_bytes().len() + value_bytes;
            self.young.insert(Key(Bytes::copy_from_slice(key.as_bytes())), record);
        }
        if self.young_bytes > self.generation_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(gone) = self.young.remove(key) {
            let value_bytes = gone.map_or(0, |record| record.value.len());
            self.young_bytes -= ENTRY_BYTES + key.as_bytes().len() + value_bytes;
        }
        self.old.remove(key);
    }
}

/// A record in memory of its own: it is a part of a log entry, which would stay
/// in memory as long.
fn kept(record: &Record) -> Record {
    Record { value: Bytes::copy_from_slice(&record.value), ..*record }
}

/// A view that looks here first. It is of the same moment as the view.
pub(super) struct Remembering<'a> {
    pub(super) view: &'a StateView,
    pub(super) recent: &'a Recent,
}

impl View for Remembering<'_> {
    type Error = StateError;

    fn head(&self) -> Head {
        self.view.head()
    }

    fn get(&self, key: &Key) -> Result<Option<Record>, StateError> {
        match self.recent.get(key) {
            Some(record) => Ok(record.clone()),
            None => self.view.get(key),
        }
    }

    fn scan(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), StateError> {
        self.view.scan(range, visit)
    }

    fn scan_at(
        &self,
        range: &KeyRange,
        revision: Revision,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), StateError> {
        self.view.scan_at(range, revision, visit)
    }

    fn lease(&self, id: LeaseId) -> Result<Option<Lease>, StateError> {
        self.view.lease(id)
    }

    fn lease_keys(&self, id: LeaseId) -> Result<Vec<Key>, StateError> {
        self.view.lease_keys(id)
    }

    fn session(&self, id: SessionId) -> Result<Option<Session>, StateError> {
        self.view.session(id)
    }

    fn session_reply(
        &self,
        id: SessionId,
        sequence: u64,
    ) -> Result<Option<Remembered>, StateError> {
        self.view.session_reply(id, sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key(Bytes::copy_from_slice(name.as_bytes()))
    }

    fn put(name: &str, version: u64, bytes: usize) -> Write {
        let record = Record {
            value: vec![7; bytes].into(),
            created: Revision::new(2),
            modified: Revision::new(1 + version),
            version,
            lease: LeaseId::NONE,
        };
        Write::Put { key: key(name), record, previous: None }
    }

    /// The version that is known; 0 if the key is known to be deleted.
    fn version(recent: &Recent, name: &str) -> Option<u64> {
        recent.get(&key(name)).map(|record| record.as_ref().map_or(0, |record| record.version))
    }

    #[test]
    fn the_newest_record_is_found_in_either_generation() {
        let mut recent = Recent::new(1000);
        recent.note(&[put("a", 1, 100), put("b", 1, 100)]);
        // Fills the generation: `a` and `b` are in the older one then.
        recent.note(&[put("c", 1, 600), put("a", 2, 10)]);
        assert!(!recent.old.is_empty());
        assert_eq!(version(&recent, "a"), Some(2));
        assert_eq!(version(&recent, "b"), Some(1));
    }

    #[test]
    fn what_was_written_last_hides_what_was_known() {
        let mut recent = Recent::new(1_000_000);
        recent.note(&[put("a", 1, 100)]);
        let (key, previous) = (key("a"), Record::default());
        recent.note(&[Write::Delete { key, previous, revision: Revision::new(3) }]);
        assert_eq!(version(&recent, "a"), Some(0));
        recent.note(&[put("a", 1, 100), put("a", 2, VALUE_BYTES_MAX + 1)]);
        assert_eq!(version(&recent, "a"), None, "too large: the engine has to be asked");
        assert_eq!(recent.young_bytes, 0);
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::new(10_000);
        for index in 0..1000 {
            recent.note(&[put(&format!("key-{index}"), 1, 100)]);
        }
        assert!(recent.young.len() + recent.old.len() <= 2 * 10_000 / 260);
        assert_eq!(version(&recent, "key-999"), Some(1));
        assert_eq!(version(&recent, "key-0"), None);
        recent.clear();
        assert_eq!(version(&recent, "key-999"), None);
    }
}
