//! The naive store that samples are made with.

use crate::history::{
    Action, ActionReply, Change, ChangeKind, Compare, KeyValue, Op, Operand, Relation, Target, Txn,
    TxnReply, spans,
};
use std::collections::BTreeMap;

/// All that the store has.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    pub(super) keys: BTreeMap<String, KeyValue>,
    /// The changes of each revision from 1 on.
    pub(super) log: Vec<Vec<Change>>,
    pub(super) compacted: u64,
    /// Time to live and time of expiry, in nanoseconds.
    pub(super) leases: BTreeMap<u64, (u64, u64)>,
    pub(super) counters: BTreeMap<String, u64>,
    /// Holder, lease, token.
    pub(super) locks: BTreeMap<String, (String, u64, u64)>,
    /// The harness's resources: the greatest token, and the value.
    pub(super) resources: BTreeMap<String, (u64, String)>,
    /// Jobs: the claim's token, worker and lease.
    pub(super) jobs: BTreeMap<String, Option<(u64, String, u64)>>,
    pub(super) documents: BTreeMap<String, (u64, BTreeMap<String, String>)>,
    pub(super) settings: BTreeMap<String, (u64, String)>,
}

impl Store {
    pub(super) fn revision(&self) -> u64 {
        self.log.len() as u64
    }

    /// The keys at a revision.
    pub(super) fn at(&self, revision: u64) -> BTreeMap<String, KeyValue> {
        let mut keys = BTreeMap::new();
        let end = usize::try_from(revision).unwrap_or(usize::MAX);
        for change in self.log.iter().take(end).flatten() {
            match &change.kv {
                Some(kv) => keys.insert(change.key.clone(), kv.clone()),
                None => keys.remove(&change.key),
            };
        }
        keys
    }

    /// A revision for something that is not among the keys of the history.
    fn note(&mut self, what: &str) -> u64 {
        let revision = self.revision() + 1;
        let key = format!("~{what}");
        let before = self.put(revision, &key, "", 0);
        let change = self.change(revision, &key, before);
        self.log.push(vec![change]);
        revision
    }

    fn put(&mut self, revision: u64, key: &str, value: &str, lease: u64) -> Option<KeyValue> {
        let before = self.keys.get(key).cloned();
        let kv = KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
            create: before.as_ref().map_or(revision, |before| before.create),
            modified: revision,
            version: before.as_ref().map_or(0, |before| before.version) + 1,
            lease,
        };
        self.keys.insert(key.to_owned(), kv);
        before
    }

    fn change(&self, revision: u64, key: &str, prev: Option<KeyValue>) -> Change {
        let kv = self.keys.get(key).cloned();
        let kind = if kv.is_some() { ChangeKind::Put } else { ChangeKind::Delete };
        Change { revision, kind, key: key.to_owned(), kv, prev }
    }

    pub(super) fn holds(keys: &BTreeMap<String, KeyValue>, compare: &Compare) -> bool {
        let found = keys.get(&compare.key);
        let of = |number: fn(&KeyValue) -> u64| found.map_or(0, number);
        let order = match (compare.target, &compare.operand) {
            (Target::Value, Operand::Text(text)) => match found {
                None => return false,
                Some(kv) => kv.value.cmp(text),
            },
            (Target::Version, Operand::Number(number)) => of(|kv| kv.version).cmp(number),
            (Target::Create, Operand::Number(number)) => of(|kv| kv.create).cmp(number),
            (Target::Mod, Operand::Number(number)) => of(|kv| kv.modified).cmp(number),
            (Target::Lease, Operand::Number(number)) => of(|kv| kv.lease).cmp(number),
            _ => return false,
        };
        match compare.op {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Less => order.is_lt(),
            Relation::Greater => order.is_gt(),
        }
    }

    /// Does a transaction; `force` decides the compares.
    pub(super) fn txn(&mut self, txn: &Txn, force: Option<bool>) -> TxnReply {
        let hold = txn.compares.iter().all(|compare| Self::holds(&self.keys, compare));
        let succeeded = force.unwrap_or(hold);
        let revision = self.revision() + 1;
        let mut changes = Vec::new();
        let mut results = Vec::new();
        for action in txn.branch(succeeded) {
            results.push(match action {
                Action::Put { key, value, lease, prev } => {
                    let before = self.put(revision, key, value, *lease);
                    changes.push(self.change(revision, key, before.clone()));
                    ActionReply::Put { prev: before.filter(|_| *prev) }
                }
                Action::Delete { key, end, prev } => {
                    let gone: Vec<KeyValue> = self.span(key, end.as_deref());
                    for kv in &gone {
                        self.keys.remove(&kv.key);
                        changes.push(self.change(revision, &kv.key, Some(kv.clone())));
                    }
                    let deleted = gone.len() as u64;
                    ActionReply::Delete { deleted, prev: if *prev { gone } else { Vec::new() } }
                }
                Action::Range { key, end, limit } => read(&self.keys, key, end.as_deref(), *limit),
            });
        }
        if !changes.is_empty() {
            self.log.push(changes);
        }
        TxnReply { revision: self.revision(), succeeded, results }
    }

    fn span(&self, key: &str, end: Option<&str>) -> Vec<KeyValue> {
        if end.is_none() {
            return self.keys.get(key).cloned().into_iter().collect();
        }
        let from = self.keys.range(key.to_owned()..);
        from.filter(|(name, _)| spans(key, end, name)).map(|(_, kv)| kv.clone()).collect()
    }

    /// A read of keys as they are somewhere or were at some time.
    pub(super) fn read(keys: &BTreeMap<String, KeyValue>, txn: &Txn, revision: u64) -> TxnReply {
        let succeeded = txn.compares.iter().all(|compare| Self::holds(keys, compare));
        let results = txn.branch(succeeded).iter().filter_map(|action| match action {
            Action::Range { key, end, limit } => Some(read(keys, key, end.as_deref(), *limit)),
            Action::Put { .. } | Action::Delete { .. } => None,
        });
        TxnReply { revision, succeeded, results: results.collect() }
    }

    /// Ends a lease: its keys go at one revision, all but `keep`.
    pub(super) fn end_lease(&mut self, lease: u64, keep: usize) -> Option<u64> {
        self.leases.remove(&lease);
        self.locks.retain(|_, (_, with, _)| *with != lease);
        for claim in self.jobs.values_mut() {
            if claim.as_ref().is_some_and(|(_, _, with)| *with == lease) {
                *claim = None;
            }
        }
        let attached = self.keys.values().filter(|kv| kv.lease == lease);
        let gone: Vec<KeyValue> = attached.skip(keep).cloned().collect();
        if gone.is_empty() {
            return None;
        }
        let revision = self.revision() + 1;
        let changes = gone.into_iter().map(|kv| {
            self.keys.remove(&kv.key);
            self.change(revision, &kv.key, Some(kv.clone()))
        });
        let changes = changes.collect();
        self.log.push(changes);
        Some(revision)
    }

    /// Does any operation; the error is a definite failure.
    pub(super) fn answer(&mut self, op: &Op, now: u64) -> Result<Op, String> {
        let mut op = op.clone();
        match &mut op {
            Op::Txn(txn) => self.answer_txn(txn)?,
            Op::Compact { revision } => {
                if *revision <= self.compacted || *revision > self.revision() {
                    return Err("out of range".to_owned());
                }
                self.compacted = *revision;
            }
            Op::LeaseGrant(grant) => {
                let ttl = grant.ttl_ms * 1_000_000;
                self.leases.insert(grant.lease, (ttl, now + ttl));
                grant.granted_ms = Some(grant.ttl_ms);
            }
            Op::LeaseRenew(renew) => {
                let lease = self.leases.get_mut(&renew.lease);
                renew.ttl_ms = Some(lease.map_or(0, |(ttl, expires)| {
                    *expires = now + *ttl;
                    *ttl / 1_000_000
                }));
            }
            Op::LeaseRevoke(revoke) => {
                if !self.leases.contains_key(&revoke.lease) {
                    return Err("no such lease".to_owned());
                }
                let own = self.end_lease(revoke.lease, 0);
                revoke.revision = Some(own.unwrap_or(self.revision()));
            }
            Op::LeaseTtl(ttl) => {
                let lease = self.leases.get(&ttl.lease);
                ttl.found = Some(lease.is_some());
                ttl.remaining_ms = lease.map(|(_, at)| at.saturating_sub(now) / 1_000_000);
            }
            op => self.answer_other(op)?,
        }
        Ok(op)
    }

    fn answer_txn(&mut self, txn: &mut Txn) -> Result<(), String> {
        if let Some(revision) = txn.revision {
            if revision < self.compacted {
                return Err("compacted".to_owned());
            }
            if revision > self.revision() {
                return Err("future".to_owned());
            }
            let keys = self.at(revision);
            txn.reply = Some(Self::read(&keys, txn, self.revision()));
            return Ok(());
        }
        let leases = txn.success.iter().filter_map(|action| match action {
            Action::Put { lease, .. } if *lease != 0 => Some(*lease),
            _ => None,
        });
        for lease in leases {
            if !self.leases.contains_key(&lease) {
                return Err("no such lease".to_owned());
            }
        }
        txn.reply = Some(self.txn(txn, None));
        Ok(())
    }

    fn answer_other(&mut self, op: &mut Op) -> Result<(), String> {
        match op {
            Op::LockAcquire(acquire) => {
                if self.locks.contains_key(&acquire.lock) {
                    return Err("held".to_owned());
                }
                if !self.leases.contains_key(&acquire.lease) {
                    return Err("no such lease".to_owned());
                }
                let token = self.note("lock");
                let held = (acquire.owner.clone(), acquire.lease, token);
                self.locks.insert(acquire.lock.clone(), held);
                acquire.token = Some(token);
            }
            Op::LockRelease(release) => {
                let own = |(owner, _, token): &(String, u64, u64)| {
                    *owner == release.owner && *token == release.token
                };
                if !self.locks.get(&release.lock).is_some_and(own) {
                    return Err("not held".to_owned());
                }
                self.locks.remove(&release.lock);
                self.note("lock");
            }
            Op::ResourceWrite(write) => {
                let slot = self.resources.entry(write.resource.clone()).or_default();
                let fits = write.token >= slot.0 && write.seen.as_deref() == Some(&slot.1);
                if fits {
                    *slot = (write.token, write.value.clone());
                }
                write.accepted = Some(fits);
            }
            Op::ResourceRead(read) => {
                let value = self.resources.get(&read.resource).map(|(_, value)| value.clone());
                read.value = Some(value.unwrap_or_default());
            }
            Op::CounterAdd(add) => {
                add.revision = Some(self.note("counter"));
                let total = self.counters.entry(add.counter.clone()).or_default();
                *total += add.delta;
                add.total = Some(*total);
            }
            Op::CounterRead(read) => {
                read.total = Some(self.counters.get(&read.counter).copied().unwrap_or(0));
                read.revision = Some(self.revision());
            }
            op => return self.answer_documents(op),
        }
        Ok(())
    }

    fn answer_documents(&mut self, op: &mut Op) -> Result<(), String> {
        match op {
            Op::Enqueue(enqueue) => {
                self.jobs.insert(enqueue.job.clone(), None);
                enqueue.revision = Some(self.note("job"));
            }
            Op::Claim(claim) => {
                if !self.leases.contains_key(&claim.lease) {
                    return Err("no such lease".to_owned());
                }
                let free = self.jobs.iter().find(|(_, held)| held.is_none());
                let Some(job) = free.map(|(job, _)| job.clone()) else {
                    return Err("empty".to_owned());
                };
                let token = self.note("claim");
                self.jobs.insert(job.clone(), Some((token, claim.worker.clone(), claim.lease)));
                (claim.job, claim.token) = (Some(job), Some(token));
            }
            Op::Finish(finish) => {
                let held = self.jobs.get(&finish.job).and_then(Option::as_ref);
                let own = held.is_some_and(|(token, ..)| *token == finish.token);
                finish.accepted = Some(own);
                if own {
                    self.jobs.remove(&finish.job);
                    finish.revision = Some(self.note("finish"));
                }
            }
            Op::EntityPatch(patch) => {
                let revision = self.note("entity");
                let document = self.documents.entry(patch.entity.clone()).or_default();
                document.0 = revision;
                document.1.insert(patch.section.clone(), patch.content.clone());
                patch.revision = Some(revision);
            }
            Op::EntityRead(read) => {
                let document = self.documents.get(&read.entity).cloned().unwrap_or_default();
                (read.revision, read.sections) = (Some(document.0), Some(document.1));
            }
            Op::ConfigSet(set) => {
                let at = self.settings.get(&set.path).map_or(0, |(at, _)| *at);
                if set.if_revision.is_some_and(|expected| expected != at) {
                    return Err("conflict".to_owned());
                }
                let revision = self.note("config");
                self.settings.insert(set.path.clone(), (revision, set.value.clone()));
                set.revision = Some(revision);
            }
            Op::ConfigGet(get) => {
                let setting = self.settings.get(&get.path).cloned();
                get.found = Some(setting.is_some());
                get.revision = setting.as_ref().map(|(at, _)| *at);
                get.value = setting.map(|(_, value)| value);
            }
            Op::Backup(backup) => {
                backup.revision = Some(self.revision());
                backup.state_root = Some(format!("root-{}", self.revision()));
            }
            _ => return Err("not known to the sample store".to_owned()),
        }
        Ok(())
    }
}

fn read(
    keys: &BTreeMap<String, KeyValue>,
    key: &str,
    end: Option<&str>,
    limit: u64,
) -> ActionReply {
    if end.is_none() {
        let kvs: Vec<_> = keys.get(key).cloned().into_iter().collect();
        let count = kvs.len() as u64;
        return ActionReply::Range { kvs, count, more: false };
    }
    let all = keys.range(key.to_owned()..).filter(|(name, _)| spans(key, end, name));
    let mut kvs: Vec<KeyValue> = all.map(|(_, kv)| kv.clone()).collect();
    let count = kvs.len() as u64;
    if limit > 0 {
        kvs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    let more = count > kvs.len() as u64;
    ActionReply::Range { kvs, count, more }
}
