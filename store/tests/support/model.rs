//! What commands mean, written a second time: as plainly as possible, with the
//! whole history kept as a list of states, nothing shared with the real one but
//! the types and the form check, which has tests of its own.

use keelstone_store::machine::{
    Command, Compare, Delete, Envelope, KeyRecord, Lease, Op, OpReply, Outcome, Put, Range,
    RangeReply, Record, Rejection, Relation, Remembered, Reply, Session, Target, Txn, TxnReply,
    check,
};
use keelstone_store::{Key, LeaseId, Millis, RangeEnd, Revision, SessionId};
use std::collections::BTreeMap;

pub type Keys = BTreeMap<Key, Record>;

/// The store, naively.
#[derive(Clone, Debug)]
pub struct Model {
    /// The keys at each revision.
    pub states: Vec<Keys>,
    pub compacted: u64,
    pub now: Millis,
    pub feature_level: u32,
    pub leases: BTreeMap<LeaseId, Lease>,
    pub sessions: BTreeMap<SessionId, Session>,
    pub replies: BTreeMap<(SessionId, u64), Remembered>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            states: vec![Keys::new(), Keys::new()],
            compacted: 0,
            now: Millis(0),
            feature_level: 0,
            leases: BTreeMap::new(),
            sessions: BTreeMap::new(),
            replies: BTreeMap::new(),
        }
    }
}

impl Model {
    pub fn revision(&self) -> Revision {
        Revision::new(self.states.len() as u64 - 1)
    }

    pub fn live(&self) -> &Keys {
        self.states.last().expect("there is always a state")
    }

    /// Time only moves forward.
    pub fn pass_time(&mut self, now: Millis) {
        self.now = self.now.max(now);
    }

    /// Runs a command at a time.
    pub fn run(&mut self, now: Millis, envelope: &Envelope) -> Reply {
        self.pass_time(now);
        let Some(id) = envelope.write_id else { return self.command(&envelope.command) };
        let harmless = Command::FeatureLevel { level: 0 };
        let form = Envelope { write_id: Some(id), command: harmless };
        if let Err(violation) = check::envelope(&form) {
            return self.rejected(violation.into());
        }
        let Some(session) = self.sessions.get(&id.session).copied() else {
            return self.rejected(Rejection::SessionNotFound(id.session));
        };
        let (sequence, oldest) = (id.sequence, session.forgotten_below);
        if sequence < oldest {
            return self.rejected(Rejection::ReplyForgotten { sequence, oldest });
        }
        let known = self.replies.get(&(id.session, sequence)).cloned();
        let reply = match &known {
            Some(Remembered::Reply(reply)) => reply.clone(),
            Some(Remembered::AppliedAt(revision)) => {
                Reply { revision: *revision, outcome: Outcome::Applied }
            }
            None => self.command(&envelope.command),
        };
        let kept = known.is_some() || !self.fails_for_good(&envelope.command, &reply);
        let Some(session) = self.sessions.get_mut(&id.session) else { return reply };
        session.expires = self.now.plus(session.ttl_ms);
        if kept {
            session.newest = session.newest.max(sequence);
        }
        let floor = id.acked_below.max(session.newest.saturating_sub(255));
        session.forgotten_below = session.forgotten_below.max(floor);
        let floor = session.forgotten_below;
        if known.is_none() && kept {
            let large = size(&reply.outcome) > 4096;
            let what = if large {
                Remembered::AppliedAt(reply.revision)
            } else {
                Remembered::Reply(reply.clone())
            };
            self.replies.insert((id.session, sequence), what);
        }
        self.replies.retain(|(of, sequence), _| *of != id.session || *sequence >= floor);
        reply
    }

    /// Whether a transaction can never succeed: one of its compares names a
    /// revision that its key has left.
    fn fails_for_good(&self, command: &Command, reply: &Reply) -> bool {
        let Command::Txn(txn) = command else { return false };
        let failed = matches!(&reply.outcome, Outcome::Txn(answer) if !answer.succeeded);
        failed
            && txn.otherwise.is_empty()
            && txn.compares.iter().any(|compare| {
                let Target::Modified(asked) = compare.target else { return false };
                let single = compare.range.end == RangeEnd::Single;
                let past = Revision::ZERO < asked && asked <= self.revision();
                let key = Key(compare.range.start.clone());
                let at = self.live().get(&key).map_or(Revision::ZERO, |record| record.modified);
                single && past && compare.relation == Relation::Equal && at != asked
            })
    }

    fn rejected(&self, rejection: Rejection) -> Reply {
        Reply { revision: self.revision(), outcome: Outcome::Rejected(rejection) }
    }

    fn command(&mut self, command: &Command) -> Reply {
        let form = Envelope { write_id: None, command: command.clone() };
        if let Err(violation) = check::envelope(&form) {
            return self.rejected(violation.into());
        }
        let mut next = self.clone();
        match next.perform(command) {
            Ok(outcome) => {
                *self = next;
                Reply { revision: self.revision(), outcome }
            }
            Err(rejection) => self.rejected(rejection),
        }
    }

    fn perform(&mut self, command: &Command) -> Result<Outcome, Rejection> {
        let now = self.now;
        match command {
            Command::Txn(txn) => return self.txn(txn).map(Outcome::Txn),
            Command::LeaseGrant { id, ttl_ms } => {
                if self.leases.contains_key(id) {
                    return Err(Rejection::LeaseExists(*id));
                }
                let (id, ttl_ms) = (*id, (*ttl_ms).max(2000));
                self.leases.insert(id, Lease { id, ttl_ms, expires: now.plus(ttl_ms) });
                return Ok(Outcome::Lease { id, ttl_ms });
            }
            Command::LeaseRenew { ids } => {
                let mut renewed = Vec::new();
                for id in ids {
                    let lease = self.leases.get_mut(id);
                    renewed.push((
                        *id,
                        lease.map_or(0, |lease| {
                            lease.expires = now.plus(lease.ttl_ms);
                            lease.ttl_ms
                        }),
                    ));
                }
                return Ok(Outcome::Renewed(renewed));
            }
            Command::LeaseRevoke { id } => {
                if !self.leases.contains_key(id) {
                    return Err(Rejection::LeaseNotFound(*id));
                }
                self.end_leases(&[*id]);
            }
            Command::LeaseExpire { leases } => {
                let due = |(id, seen): &&(LeaseId, Millis)| {
                    self.leases.get(id).is_some_and(|l| l.expires == *seen && *seen <= now)
                };
                let due: Vec<_> = leases.iter().filter(due).map(|(id, _)| *id).collect();
                self.end_leases(&due);
            }
            Command::Compact { revision } => {
                if revision.get() <= self.compacted {
                    let compacted = Revision::new(self.compacted);
                    return Err(Rejection::Compacted { asked: *revision, compacted });
                }
                if *revision > self.revision() {
                    let current = self.revision();
                    return Err(Rejection::FutureRevision { asked: *revision, current });
                }
                self.compacted = revision.get();
            }
            Command::SessionOpen { id, ttl_ms } => {
                if self.sessions.contains_key(id) {
                    return Err(Rejection::SessionExists(*id));
                }
                let (id, ttl_ms) = (*id, (*ttl_ms).max(2000));
                let expires = now.plus(ttl_ms);
                let session = Session { id, ttl_ms, expires, forgotten_below: 1, newest: 0 };
                self.sessions.insert(id, session);
            }
            Command::SessionClose { id } => {
                self.sessions.remove(id).ok_or(Rejection::SessionNotFound(*id))?;
                self.replies.retain(|(session, _), _| session != id);
            }
            Command::SessionExpire { sessions } => {
                for (id, seen) in sessions {
                    if self.sessions.get(id).is_some_and(|s| s.expires == *seen && *seen <= now) {
                        self.sessions.remove(id);
                        self.replies.retain(|(session, _), _| session != id);
                    }
                }
            }
            Command::FeatureLevel { level } => {
                self.feature_level = self.feature_level.max(*level);
            }
        }
        Ok(Outcome::Done)
    }

    fn end_leases(&mut self, ended: &[LeaseId]) {
        let mut keys = self.live().clone();
        keys.retain(|_, record| !ended.contains(&record.lease));
        if keys.len() < self.live().len() {
            self.states.push(keys);
        }
        self.leases.retain(|id, _| !ended.contains(id));
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnReply, Rejection> {
        if collides(&txn.then) || collides(&txn.otherwise) {
            return Err(Rejection::DuplicateKey);
        }
        let mut keys = self.live().clone();
        let mut changes = 0;
        let reply = self.branch(txn, &mut keys, &mut changes)?;
        if changes > 0 {
            self.states.push(keys);
        }
        Ok(reply)
    }

    fn branch(&self, txn: &Txn, keys: &mut Keys, changes: &mut u64) -> Result<TxnReply, Rejection> {
        let succeeded = txn.compares.iter().all(|compare| holds(compare, self.live()));
        let mut ops = Vec::new();
        for op in if succeeded { &txn.then } else { &txn.otherwise } {
            ops.push(match op {
                Op::Put(put) => self.put(put, keys, changes)?,
                Op::Delete(delete) => remove(delete, keys, changes),
                Op::Range(range) => OpReply::Range(self.range(range, keys)?),
                Op::Txn(nested) => OpReply::Txn(self.branch(nested, keys, changes)?),
            });
        }
        Ok(TxnReply { succeeded, ops })
    }

    fn put(&self, put: &Put, keys: &mut Keys, changes: &mut u64) -> Result<OpReply, Rejection> {
        let before = keys.get(&put.key).cloned();
        if before.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(Rejection::KeyNotFound);
        }
        if put.lease != LeaseId::NONE && !self.leases.contains_key(&put.lease) {
            return Err(Rejection::LeaseNotFound(put.lease));
        }
        let revision = self.revision().next();
        let old = before.clone().unwrap_or(Record { created: revision, ..Record::default() });
        let record = Record {
            value: if put.ignore_value { old.value } else { put.value.clone() },
            created: old.created,
            modified: revision,
            version: old.version + 1,
            lease: if put.ignore_lease { old.lease } else { put.lease },
        };
        keys.insert(put.key.clone(), record);
        *changes += 1;
        let before = before.filter(|_| put.previous);
        let previous = before.map(|record| KeyRecord { key: put.key.clone(), record });
        Ok(OpReply::Put { previous })
    }

    /// A range over `keys`, or over the state at the revision that it names.
    pub fn range(&self, range: &Range, keys: &Keys) -> Result<RangeReply, Rejection> {
        let (asked, current) = (range.revision, self.revision());
        let mut keys = keys;
        if asked != Revision::ZERO {
            if asked > current {
                return Err(Rejection::FutureRevision { asked, current });
            }
            if asked.get() < self.compacted {
                let compacted = Revision::new(self.compacted);
                return Err(Rejection::Compacted { asked, compacted });
            }
            keys = &self.states[usize::try_from(asked.get()).expect("it is small")];
        }
        let found: Vec<_> = keys.iter().filter(|(key, _)| range.range.contains(&key.0)).collect();
        let count = found.len() as u64;
        if range.count_only {
            return Ok(RangeReply { records: Vec::new(), count, more: false });
        }
        let limit = if range.limit == 0 { u64::MAX } else { range.limit };
        let mut records = Vec::new();
        for (key, record) in found {
            if (records.len() as u64) < limit {
                let mut record = record.clone();
                if range.keys_only {
                    record.value.clear();
                }
                records.push(KeyRecord { key: key.clone(), record });
            }
        }
        let more = (records.len() as u64) < count;
        Ok(RangeReply { records, count, more })
    }
}

fn remove(delete: &Delete, keys: &mut Keys, changes: &mut u64) -> OpReply {
    let mut previous = Vec::new();
    for (key, record) in keys.clone() {
        if delete.range.contains(&key.0) {
            keys.remove(&key);
            previous.push(KeyRecord { key, record });
        }
    }
    let deleted = previous.len() as u64;
    *changes += deleted;
    if !delete.previous {
        previous.clear();
    }
    OpReply::Delete { deleted, previous }
}

fn holds(compare: &Compare, keys: &Keys) -> bool {
    let found: Vec<_> = keys.iter().filter(|(key, _)| compare.range.contains(&key.0)).collect();
    if found.is_empty() {
        if matches!(compare.target, Target::Value(_)) {
            return false;
        }
        return holds_for(compare, &Record::default());
    }
    found.iter().all(|(_, record)| holds_for(compare, record))
}

fn holds_for(compare: &Compare, record: &Record) -> bool {
    fn relates<T: PartialOrd>(found: &T, relation: Relation, target: &T) -> bool {
        match relation {
            Relation::Equal => found == target,
            Relation::NotEqual => found != target,
            Relation::Greater => found > target,
            Relation::Less => found < target,
        }
    }
    let relation = compare.relation;
    match &compare.target {
        Target::Created(target) => relates(&record.created, relation, target),
        Target::Modified(target) => relates(&record.modified, relation, target),
        Target::Version(target) => relates(&record.version, relation, target),
        Target::Value(target) => relates(&record.value, relation, target),
        Target::Lease(target) => relates(&record.lease, relation, target),
    }
}

/// The way to a write: for each level the number of the operation, and which
/// branch of it (0 or 1; 2 for the write itself).
type Place = Vec<(usize, u8)>;

/// Whether any two writes meet, other than in the two branches of one nested
/// transaction.
fn collides(ops: &[Op]) -> bool {
    let mut writes = Vec::new();
    list(ops, &mut Vec::new(), &mut writes);
    let meet = |a: &Op, b: &Op| match (a, b) {
        (Op::Put(a), Op::Put(b)) => a.key == b.key,
        (Op::Put(put), Op::Delete(delete)) | (Op::Delete(delete), Op::Put(put)) => {
            delete.range.contains(&put.key.0)
        }
        _ => false,
    };
    let exclusive = |a: &Place, b: &Place| {
        let fork = a.iter().zip(b).find(|(a, b)| a != b);
        fork.is_some_and(|(a, b)| a.0 == b.0)
    };
    writes.iter().enumerate().any(|(number, (at, a))| {
        writes[..number].iter().any(|(other, b)| meet(a, b) && !exclusive(at, other))
    })
}

fn list<'a>(ops: &'a [Op], at: &mut Place, writes: &mut Vec<(Place, &'a Op)>) {
    for (number, op) in ops.iter().enumerate() {
        if let Op::Txn(nested) = op {
            for (branch, ops) in [(0, &nested.then), (1, &nested.otherwise)] {
                at.push((number, branch));
                list(ops, at, writes);
                at.pop();
            }
        } else {
            let mut place = at.clone();
            place.push((number, 2));
            writes.push((place, op));
        }
    }
}

/// What a reply counts towards the limit of what a session remembers.
fn size(outcome: &Outcome) -> usize {
    fn records(records: &[KeyRecord]) -> usize {
        records.iter().map(|pair| 64 + pair.key.0.len() + pair.record.value.len()).sum()
    }
    fn ops(reply: &TxnReply) -> usize {
        let op = |op: &OpReply| match op {
            OpReply::Put { previous } => records(previous.as_slice()),
            OpReply::Delete { previous, .. } => records(previous),
            OpReply::Range(range) => records(&range.records),
            OpReply::Txn(nested) => ops(nested),
        };
        reply.ops.iter().map(|reply| 8 + op(reply)).sum()
    }
    match outcome {
        Outcome::Txn(txn) => ops(txn),
        Outcome::Renewed(leases) => 16 * leases.len(),
        _ => 0,
    }
}

impl Model {
    /// The session's own view of what a client would send next.
    pub fn next_sequence(&self, id: SessionId) -> u64 {
        self.sessions.get(&id).map_or(1, |session| session.newest + 1)
    }
}
