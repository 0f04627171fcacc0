//! A store in memory, for tests: it keeps transitions literally, as the real
//! state does in tables, and objects to those that do not fit.

use keelstone_store::machine::{
    Batch, Envelope, Head, Lease, Record, Remembered, Reply, Session, Transition, View, Write,
    apply,
};
use keelstone_store::{Key, KeyRange, LeaseId, Millis, Revision, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

/// Every record that each key ever had, and what else there is.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    pub head: Head,
    pub history: BTreeMap<Key, BTreeMap<Revision, Option<Record>>>,
    pub leases: BTreeMap<LeaseId, Lease>,
    pub attached: BTreeSet<(LeaseId, Key)>,
    pub sessions: BTreeMap<SessionId, Session>,
    pub replies: BTreeMap<(SessionId, u64), Remembered>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            head: Head::genesis([7; 16]),
            history: BTreeMap::new(),
            leases: BTreeMap::new(),
            attached: BTreeSet::new(),
            sessions: BTreeMap::new(),
            replies: BTreeMap::new(),
        }
    }
}

impl Memory {
    /// Applies a batch and keeps what it does.
    pub fn apply(&mut self, batch: &Batch) -> Transition {
        let Ok(transition) = apply(self, batch);
        assert_eq!(transition.replies.len(), batch.commands.len());
        self.keep(&transition);
        transition
    }

    /// Applies one command and returns the reply.
    pub fn run(&mut self, now: u64, envelope: Envelope) -> Reply {
        let batch = Batch { now: Millis(now), commands: vec![envelope] };
        self.apply(&batch).replies.remove(0)
    }

    /// The live keys.
    pub fn live(&self) -> BTreeMap<Key, Record> {
        let newest = |versions: &BTreeMap<_, Option<Record>>| versions.values().last()?.clone();
        self.history.iter().filter_map(|(k, v)| Some((k.clone(), newest(v)?))).collect()
    }

    /// The keys as they were at a revision.
    pub fn at(&self, revision: Revision) -> BTreeMap<Key, Record> {
        let then = |versions: &BTreeMap<_, Option<Record>>| {
            versions.range(..=revision).next_back()?.1.clone()
        };
        self.history.iter().filter_map(|(k, v)| Some((k.clone(), then(v)?))).collect()
    }

    fn newest(&self, key: &Key) -> Option<Record> {
        self.history.get(key)?.values().last()?.clone()
    }

    fn keep(&mut self, transition: &Transition) {
        let mut events = transition.events.iter();
        for write in &transition.writes {
            if let Write::Put { key, .. } | Write::Delete { key, .. } = write {
                let event = events.next().expect("each change of a key is an event");
                assert_eq!(&event.key, key);
                assert_eq!(event.previous, self.newest(key));
                assert!(event.revision > self.head.revision);
                assert!(event.revision <= transition.head.revision);
            }
            self.keep_write(write);
        }
        assert!(events.next().is_none(), "each event is a change of a key");
        assert!(transition.events.is_sorted_by_key(|event| event.revision));
        self.head = transition.head.clone();
        self.check();
    }

    fn keep_write(&mut self, write: &Write) {
        match write.clone() {
            Write::Put { key, record, previous } => {
                assert_eq!(self.newest(&key), previous);
                let versions = self.history.entry(key).or_default();
                assert!(versions.insert(record.modified, Some(record)).is_none());
            }
            Write::Delete { key, previous, revision } => {
                assert_eq!(self.newest(&key), Some(previous));
                let versions = self.history.entry(key).or_default();
                assert!(versions.insert(revision, None).is_none());
            }
            Write::Lease(lease) => drop(self.leases.insert(lease.id, lease)),
            Write::LeaseGone(id) => assert!(self.leases.remove(&id).is_some()),
            Write::Attach(id, key) => assert!(self.attached.insert((id, key))),
            Write::Detach(id, key) => assert!(self.attached.remove(&(id, key))),
            Write::Session(session) => drop(self.sessions.insert(session.id, session)),
            Write::SessionGone(id) => assert!(self.sessions.remove(&id).is_some()),
            Write::Remember(id, sequence, what) => {
                assert!(self.replies.insert((id, sequence), what).is_none());
            }
            Write::Forget(id, sequence) => drop(self.replies.remove(&(id, sequence))),
        }
    }

    /// What must hold between any two batches.
    fn check(&self) {
        assert_eq!(self.head.leases, self.leases.len() as u64);
        assert_eq!(self.head.sessions, self.sessions.len() as u64);
        let live = self.live();
        let leased = live.iter().filter(|(_, record)| record.lease != LeaseId::NONE);
        let leased: BTreeSet<_> = leased.map(|(key, record)| (record.lease, key.clone())).collect();
        assert_eq!(self.attached, leased, "attached are the keys whose records say so");
        assert!(leased.iter().all(|(id, _)| self.leases.contains_key(id)));
        for (id, sequence) in self.replies.keys() {
            let session = self.sessions.get(id).expect("replies go with their session");
            assert!((session.forgotten_below..=session.newest).contains(sequence));
            assert!(session.newest - session.forgotten_below < 256);
        }
    }
}

impl View for Memory {
    type Error = Infallible;

    fn head(&self) -> Head {
        self.head.clone()
    }

    fn get(&self, key: &Key) -> Result<Option<Record>, Infallible> {
        Ok(self.newest(key))
    }

    fn scan(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), Infallible> {
        for (key, versions) in self.history.iter().filter(|(key, _)| range.contains(&key.0)) {
            if let Some(record) = versions.values().last().cloned().flatten()
                && !visit(key.clone(), record)
            {
                break;
            }
        }
        Ok(())
    }

    fn scan_at(
        &self,
        range: &KeyRange,
        revision: Revision,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), Infallible> {
        assert!(revision <= self.head.revision);
        for (key, record) in self.at(revision) {
            if range.contains(&key.0) && !visit(key, record) {
                break;
            }
        }
        Ok(())
    }

    fn lease(&self, id: LeaseId) -> Result<Option<Lease>, Infallible> {
        Ok(self.leases.get(&id).copied())
    }

    fn lease_keys(&self, id: LeaseId) -> Result<Vec<Key>, Infallible> {
        let keys = self.attached.iter().filter(|(lease, _)| *lease == id);
        Ok(keys.map(|(_, key)| key.clone()).collect())
    }

    fn session(&self, id: SessionId) -> Result<Option<Session>, Infallible> {
        Ok(self.sessions.get(&id).copied())
    }

    fn session_reply(
        &self,
        id: SessionId,
        sequence: u64,
    ) -> Result<Option<Remembered>, Infallible> {
        Ok(self.replies.get(&(id, sequence)).cloned())
    }
}
