//! Transactions.
//!
//! In this order, so that a refusal leaves no trace:
//!
//! 1. the form: no branch writes a key twice (the limits were checked before);
//! 2. the compares: of the outermost transaction, then of the nested ones in the
//!    branches that are taken. All of them see the state before any write;
//! 3. the checks, for each operation of those branches in order: its lease
//!    exists, its key exists if it keeps value or lease, its revision can be read;
//! 4. the operations, in order. A later range sees what was written before it,
//!    unless it names a revision: then it sees the store as it was at that
//!    revision, which is never that of the transaction itself.
//!
//! The revision advances by one if a key was put or deleted.

use super::halt::Halt;
use super::overlay::Overlay;
use super::read::{Budget, readable, select};
use super::{
    Compare, Delete, KeyRecord, Op, OpReply, Put, Record, Rejection, Relation, Target, Txn,
    TxnReply, View, duplicate,
};
use crate::planted::{self, Bug};
use crate::{Key, KeyRange, LeaseId, RangeEnd, Revision};
use std::cmp::Ordering;

/// Does a transaction that is within the limits.
pub(super) fn run<V: View>(
    overlay: &mut Overlay<'_, V>,
    txn: &Txn,
) -> Result<TxnReply, Halt<V::Error>> {
    duplicate::check(txn)?;
    let mut path = Vec::new();
    choose(overlay, txn, &mut path)?;
    permit(overlay, txn, &mut path.iter())?;
    let revision = overlay.head.revision.next();
    let events = overlay.events.len();
    let mut run = Run { overlay, revision, budget: Budget::default() };
    let reply = run.txn(txn, &mut path.iter())?;
    if overlay.events.len() > events {
        overlay.head.revision = revision;
    }
    Ok(reply)
}

/// Whether the compares of each transaction hold, in the order in which the
/// transactions are met.
type Path<'a> = std::slice::Iter<'a, bool>;

fn next(path: &mut Path<'_>) -> bool {
    *path.next().expect("every transaction that is met was decided")
}

fn branch(txn: &Txn, holds: bool) -> &[Op] {
    if holds { &txn.then } else { &txn.otherwise }
}

fn choose<V: View>(
    overlay: &mut Overlay<'_, V>,
    txn: &Txn,
    path: &mut Vec<bool>,
) -> Result<(), Halt<V::Error>> {
    let mut holds = true;
    for compare in &txn.compares {
        let late = written_first(overlay, txn, compare)?;
        if !late.map_or_else(|| compare_holds(overlay, compare), Ok)? {
            holds = false;
            break;
        }
    }
    path.push(holds);
    for op in branch(txn, holds) {
        if let Op::Txn(nested) = op {
            choose(overlay, nested, path)?;
        }
    }
    Ok(())
}

/// With [`Bug::CompareAfterWrite`]: whether a compare holds for the record that
/// the transaction's first put makes of its key.
fn written_first<V: View>(
    overlay: &mut Overlay<'_, V>,
    txn: &Txn,
    compare: &Compare,
) -> Result<Option<bool>, Halt<V::Error>> {
    if !planted::is(Bug::CompareAfterWrite) {
        return Ok(None);
    }
    let Some(Op::Put(put)) = txn.then.iter().find(|op| matches!(op, Op::Put(_))) else {
        return Ok(None);
    };
    if compare.range != KeyRange::single(&put.key) {
        return Ok(None);
    }
    let revision = overlay.head.revision.next();
    let before = overlay.get(&put.key)?;
    let record = Record {
        value: put.value.clone(),
        created: before.map_or(revision, |before| before.created),
        modified: revision,
        version: before.map_or(0, |before| before.version) + 1,
        lease: put.lease,
    };
    Ok(Some(compare.holds_for(Some(&record))))
}

fn compare_holds<V: View>(
    overlay: &mut Overlay<'_, V>,
    compare: &Compare,
) -> Result<bool, Halt<V::Error>> {
    let range = &compare.range;
    if range.end == RangeEnd::Single {
        let record = overlay.get(&Key(range.start.clone()))?;
        return Ok(compare.holds_for(record));
    }
    let (mut holds, mut absent) = (true, true);
    overlay.scan(range, None, &mut |_, record| {
        absent = false;
        holds = compare.holds_for(Some(&record));
        holds
    })?;
    Ok(if absent { compare.holds_for(None) } else { holds })
}

/// Whether a transaction that has just failed, and so has changed nothing,
/// fails whenever it is applied again.
pub(super) fn fails_for_good<V: View>(
    overlay: &mut Overlay<'_, V>,
    txn: &Txn,
) -> Result<bool, Halt<V::Error>> {
    if !txn.otherwise.is_empty() {
        return Ok(false);
    }
    let newest = overlay.head.revision;
    for compare in &txn.compares {
        let Target::Modified(revision) = compare.target else { continue };
        let left = compare.range.end == RangeEnd::Single
            && compare.relation == Relation::Equal
            && revision > Revision::ZERO
            && revision <= newest;
        if left && !compare_holds(overlay, compare)? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Compare {
    /// Whether the condition holds for a key's record, or for an absent key.
    fn holds_for(&self, record: Option<&Record>) -> bool {
        let absent = Record::default();
        let found = record.unwrap_or(&absent);
        let order = match &self.target {
            Target::Created(revision) => found.created.cmp(revision),
            Target::Modified(revision) => found.modified.cmp(revision),
            Target::Version(version) => found.version.cmp(version),
            Target::Lease(lease) => found.lease.cmp(lease),
            // An absent key has no value, not an empty one: no relation holds.
            Target::Value(_) if record.is_none() => return false,
            Target::Value(value) => found.value.cmp(value),
        };
        match self.relation {
            Relation::Equal => order == Ordering::Equal,
            Relation::Greater => order == Ordering::Greater,
            Relation::Less => order == Ordering::Less,
            Relation::NotEqual => order != Ordering::Equal,
        }
    }
}

fn permit<V: View>(
    overlay: &mut Overlay<'_, V>,
    txn: &Txn,
    path: &mut Path<'_>,
) -> Result<(), Halt<V::Error>> {
    for op in branch(txn, next(path)) {
        match op {
            Op::Put(put) => permit_put(overlay, put)?,
            Op::Range(range) => readable(&overlay.head, range.revision)?,
            Op::Txn(nested) => permit(overlay, nested, path)?,
            Op::Delete(_) => {}
        }
    }
    Ok(())
}

fn permit_put<V: View>(overlay: &mut Overlay<'_, V>, put: &Put) -> Result<(), Halt<V::Error>> {
    if (put.ignore_value || put.ignore_lease) && overlay.get(&put.key)?.is_none() {
        return Err(Rejection::KeyNotFound.into());
    }
    if put.lease != LeaseId::NONE && overlay.lease(put.lease)?.is_none() {
        return Err(Rejection::LeaseNotFound(put.lease).into());
    }
    Ok(())
}

/// A transaction's operations at work.
struct Run<'o, 'a, V: View> {
    overlay: &'o mut Overlay<'a, V>,
    /// The revision of what is written.
    revision: Revision,
    /// What the whole reply may take.
    budget: Budget,
}

impl<V: View> Run<'_, '_, V> {
    fn txn(&mut self, txn: &Txn, path: &mut Path<'_>) -> Result<TxnReply, Halt<V::Error>> {
        let succeeded = next(path);
        let ops = branch(txn, succeeded);
        let mut replies = Vec::with_capacity(ops.len());
        for op in ops {
            replies.push(match op {
                Op::Put(put) => self.put(put)?,
                Op::Delete(delete) => self.delete(delete)?,
                Op::Range(range) => OpReply::Range(select(self.overlay, range, &mut self.budget)?),
                Op::Txn(nested) => OpReply::Txn(self.txn(nested, path)?),
            });
        }
        Ok(TxnReply { succeeded, ops: replies })
    }

    fn put(&mut self, put: &Put) -> Result<OpReply, Halt<V::Error>> {
        let revision = self.revision;
        let previous = self.overlay.put(&put.key, revision, |before| Record {
            value: match before {
                Some(before) if put.ignore_value => before.value.clone(),
                _ => put.value.clone(),
            },
            created: before.map_or(revision, |before| before.created),
            modified: revision,
            version: before.map_or(0, |before| before.version) + 1,
            lease: match before {
                Some(before) if put.ignore_lease => before.lease,
                _ => put.lease,
            },
        })?;
        let previous = previous.filter(|record| put.previous && self.budget.take(&put.key, record));
        let previous = previous.map(|record| KeyRecord { key: put.key.clone(), record });
        Ok(OpReply::Put { previous })
    }

    fn delete(&mut self, delete: &Delete) -> Result<OpReply, Halt<V::Error>> {
        let found = self.live(delete)?;
        let deleted = found.len() as u64;
        let mut previous = Vec::new();
        for (key, record) in found {
            if delete.previous && self.budget.take(&key, &record) {
                previous.push(KeyRecord { key: key.clone(), record: record.clone() });
            }
            self.overlay.delete(&key, record, self.revision);
        }
        Ok(OpReply::Delete { deleted, previous })
    }

    /// The live keys that a delete names.
    fn live(&mut self, delete: &Delete) -> Result<Vec<(Key, Record)>, Halt<V::Error>> {
        let range = &delete.range;
        if range.end == RangeEnd::Single {
            let key = Key(range.start.clone());
            let record = self.overlay.get(&key)?.cloned();
            return Ok(record.map(|record| (key, record)).into_iter().collect());
        }
        let mut found = Vec::new();
        self.overlay.scan(range, None, &mut |key, record| {
            found.push((key, record));
            true
        })?;
        Ok(found)
    }
}
