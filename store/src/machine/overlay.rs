//! The state as the commands of a batch see it: a view, and what the commands
//! before have changed.
//!
//! It keeps state and decides nothing: the rules are with the commands. Each key
//! is read from the view once, whether a compare, a check or a put asks first.

use super::halt::Halt;
use super::{Event, Head, Lease, Record, Remembered, Session, View, Write};
use crate::{Key, KeyRange, LeaseId, Revision, SessionId};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A view with a batch's changes over it.
pub(super) struct Overlay<'a, V: View> {
    view: &'a V,
    /// The view's revision: what is newer is in `keys` alone.
    base: Revision,
    /// The position after the commands so far.
    pub(super) head: Head,
    keys: BTreeMap<Key, Slot>,
    leases: BTreeMap<LeaseId, Option<Lease>>,
    /// Keys attached (`true`) to leases and detached from them.
    attached: BTreeMap<LeaseId, BTreeMap<Key, bool>>,
    sessions: BTreeMap<SessionId, Option<Session>>,
    remembered: BTreeMap<(SessionId, u64), Option<Remembered>>,
    /// What to keep, in order.
    pub(super) writes: Vec<Write>,
    /// What watchers are told, in order.
    pub(super) events: Vec<Event>,
}

/// A key that was read or changed.
struct Slot {
    /// The record in the view.
    base: Option<Record>,
    /// What the batch made of it, oldest first; `None` is a deletion. Kept in
    /// full, because a later command of the batch may read an earlier revision.
    changes: Vec<(Revision, Option<Record>)>,
}

impl Slot {
    fn newest(&self) -> Option<&Record> {
        match self.changes.last() {
            Some((_, record)) => record.as_ref(),
            None => self.base.as_ref(),
        }
    }

    /// The record as it was at a revision, or is now.
    fn at(&self, revision: Option<Revision>) -> Option<&Record> {
        let Some(revision) = revision else { return self.newest() };
        match self.changes.iter().rev().find(|(changed, _)| *changed <= revision) {
            Some((_, record)) => record.as_ref(),
            None => self.base.as_ref(),
        }
    }
}

impl<'a, V: View> Overlay<'a, V> {
    /// A view without changes.
    pub(super) fn new(view: &'a V) -> Self {
        let head = view.head();
        Self {
            view,
            base: head.revision,
            head,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            attached: BTreeMap::new(),
            sessions: BTreeMap::new(),
            remembered: BTreeMap::new(),
            writes: Vec::new(),
            events: Vec::new(),
        }
    }

    /// The newest record of a key.
    pub(super) fn get(&mut self, key: &Key) -> Result<Option<&Record>, Halt<V::Error>> {
        Ok(self.slot(key)?.newest())
    }

    fn slot(&mut self, key: &Key) -> Result<&mut Slot, Halt<V::Error>> {
        match self.keys.entry(key.clone()) {
            Entry::Occupied(slot) => Ok(slot.into_mut()),
            Entry::Vacant(slot) => {
                let base = self.view.get(key).map_err(Halt::Failed)?;
                Ok(slot.insert(Slot { base, changes: Vec::new() }))
            }
        }
    }

    /// Puts the record that `make` makes of the record before, and moves the
    /// key between leases if they differ. Returns the record before.
    pub(super) fn put(
        &mut self,
        key: &Key,
        revision: Revision,
        make: impl FnOnce(Option<&Record>) -> Record,
    ) -> Result<Option<Record>, Halt<V::Error>> {
        let slot = self.slot(key)?;
        let previous = slot.newest().cloned();
        let record = make(previous.as_ref());
        slot.changes.push((revision, Some(record.clone())));
        let lease_before = previous.as_ref().map_or(LeaseId::NONE, |record| record.lease);
        let lease = record.lease;
        self.events.push(Event {
            revision,
            key: key.clone(),
            record: Some(record.clone()),
            previous: previous.clone(),
        });
        self.writes.push(Write::Put { key: key.clone(), record, previous: previous.clone() });
        if lease != lease_before {
            self.attach(lease_before, key, false);
            self.attach(lease, key, true);
        }
        Ok(previous)
    }

    /// Deletes a key whose newest record is `previous`.
    pub(super) fn delete(&mut self, key: &Key, previous: Record, revision: Revision) {
        let slot = self.keys.entry(key.clone());
        // Without a slot the batch has not changed the key, so the caller has
        // the record from the view.
        let unchanged = || Slot { base: Some(previous.clone()), changes: Vec::new() };
        slot.or_insert_with(unchanged).changes.push((revision, None));
        self.events.push(Event {
            revision,
            key: key.clone(),
            record: None,
            previous: Some(previous.clone()),
        });
        let lease = previous.lease;
        self.writes.push(Write::Delete { key: key.clone(), previous, revision });
        self.attach(lease, key, false);
    }

    fn attach(&mut self, lease: LeaseId, key: &Key, attached: bool) {
        if lease == LeaseId::NONE {
            return;
        }
        self.attached.entry(lease).or_default().insert(key.clone(), attached);
        let write = if attached { Write::Attach } else { Write::Detach };
        self.writes.push(write(lease, key.clone()));
    }

    /// A lease.
    pub(super) fn lease(&mut self, id: LeaseId) -> Result<Option<Lease>, Halt<V::Error>> {
        match self.leases.entry(id) {
            Entry::Occupied(lease) => Ok(*lease.get()),
            Entry::Vacant(lease) => Ok(*lease.insert(self.view.lease(id).map_err(Halt::Failed)?)),
        }
    }

    /// Keeps a lease, new or changed.
    pub(super) fn set_lease(&mut self, lease: Lease) {
        self.leases.insert(lease.id, Some(lease));
        self.writes.push(Write::Lease(lease));
    }

    /// Removes a lease that exists.
    pub(super) fn remove_lease(&mut self, id: LeaseId) {
        self.leases.insert(id, None);
        self.writes.push(Write::LeaseGone(id));
    }

    /// The keys attached to a lease, in key order.
    pub(super) fn lease_keys(&self, id: LeaseId) -> Result<Vec<Key>, Halt<V::Error>> {
        let mut keys = self.view.lease_keys(id).map_err(Halt::Failed)?;
        if let Some(changed) = self.attached.get(&id) {
            keys.retain(|key| !changed.contains_key(key));
            let attached = changed.iter().filter(|(_, attached)| **attached);
            keys.extend(attached.map(|(key, _)| key.clone()));
            keys.sort_unstable();
        }
        Ok(keys)
    }

    /// A session.
    pub(super) fn session(&mut self, id: SessionId) -> Result<Option<Session>, Halt<V::Error>> {
        match self.sessions.entry(id) {
            Entry::Occupied(session) => Ok(*session.get()),
            Entry::Vacant(session) => {
                Ok(*session.insert(self.view.session(id).map_err(Halt::Failed)?))
            }
        }
    }

    /// Keeps a session, new or changed.
    pub(super) fn set_session(&mut self, session: Session) {
        self.sessions.insert(session.id, Some(session));
        self.writes.push(Write::Session(session));
    }

    /// Removes a session that exists.
    pub(super) fn remove_session(&mut self, id: SessionId) {
        self.sessions.insert(id, None);
        self.writes.push(Write::SessionGone(id));
    }

    /// What is remembered of a session's write.
    pub(super) fn remembered(
        &self,
        id: SessionId,
        sequence: u64,
    ) -> Result<Option<Remembered>, Halt<V::Error>> {
        match self.remembered.get(&(id, sequence)) {
            Some(remembered) => Ok(remembered.clone()),
            None => self.view.session_reply(id, sequence).map_err(Halt::Failed),
        }
    }

    /// Remembers a session's write.
    pub(super) fn remember(&mut self, id: SessionId, sequence: u64, remembered: Remembered) {
        self.remembered.insert((id, sequence), Some(remembered.clone()));
        self.writes.push(Write::Remember(id, sequence, remembered));
    }

    /// Forgets a session's write.
    pub(super) fn forget(&mut self, id: SessionId, sequence: u64) {
        self.remembered.insert((id, sequence), None);
        self.writes.push(Write::Forget(id, sequence));
    }

    /// Calls `visit` with the keys of a range as they are now, or were at a
    /// revision that can be read, in key order, until it returns `false`.
    pub(super) fn scan(
        &self,
        range: &KeyRange,
        revision: Option<Revision>,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), Halt<V::Error>> {
        if range.is_empty() {
            return Ok(());
        }
        match revision {
            Some(revision) if revision < self.base => self.view.scan_at(range, revision, visit),
            Some(revision) if revision == self.base => self.view.scan(range, visit),
            _ => self.scan_merged(range, revision, visit),
        }
        .map_err(Halt::Failed)
    }

    fn scan_merged(
        &self,
        range: &KeyRange,
        revision: Option<Revision>,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), V::Error> {
        let mut ours = self.changed(range).peekable();
        let mut wanted = true;
        self.view.scan(range, &mut |key, record| {
            while let Some((ours, slot)) = ours.next_if(|(ours, _)| **ours < key) {
                if let Some(record) = slot.at(revision) {
                    wanted = visit(ours.clone(), record.clone());
                    if !wanted {
                        return false;
                    }
                }
            }
            let record = match ours.next_if(|(ours, _)| **ours == key) {
                Some((_, slot)) => slot.at(revision).cloned(),
                None => Some(record),
            };
            if let Some(record) = record {
                wanted = visit(key, record);
            }
            wanted
        })?;
        while let Some((key, slot)) = ours.next_if(|_| wanted) {
            if let Some(record) = slot.at(revision) {
                wanted = visit(key.clone(), record.clone());
            }
        }
        Ok(())
    }

    /// How many keys of a range there are now, or were at a revision that can
    /// be read.
    pub(super) fn count(
        &self,
        range: &KeyRange,
        revision: Option<Revision>,
    ) -> Result<u64, Halt<V::Error>> {
        if range.is_empty() {
            return Ok(0);
        }
        let past = revision.filter(|revision| *revision < self.base);
        let mut count = self.view.count(range, past).map_err(Halt::Failed)?;
        if past.is_none() {
            for (_, slot) in self.changed(range) {
                count += u64::from(slot.at(revision).is_some());
                count = count.saturating_sub(u64::from(slot.base.is_some()));
            }
        }
        Ok(count)
    }

    /// The keys of a range that the batch has changed. The range is not empty.
    fn changed(&self, range: &KeyRange) -> impl Iterator<Item = (&Key, &Slot)> {
        let slots = self.keys.range::<[u8], _>(range.bounds());
        slots.filter(|(_, slot)| !slot.changes.is_empty())
    }
}
