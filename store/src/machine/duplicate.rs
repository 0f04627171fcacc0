//! The rule that one branch of a transaction writes each key at most once.
//!
//! It keeps a revision unambiguous: each key has at most one record, and
//! watchers see at most one event of it. As in etcd (`checkIntervals` of
//! `server/etcdserver/api/v3rpc/key.go`) two puts of a key, or a put and a delete
//! whose range has the key, exclude each other, also across nested transactions;
//! both branches of a nested transaction count, except against each other;
//! deletes may overlap. Unlike etcd the rule is symmetric: etcd lets a delete in
//! one nested transaction follow a put of the key in an earlier sibling, and
//! then has two changes of a key at one revision.

use super::{Op, Rejection, Txn};
use crate::KeyRange;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Checks both branches of a transaction.
pub(super) fn check(txn: &Txn) -> Result<(), Rejection> {
    for branch in [&txn.then, &txn.otherwise] {
        // The common case: a single operation has nothing to collide with.
        if !matches!(&branch[..], [] | [Op::Put(_) | Op::Delete(_) | Op::Range(_)]) {
            writes_of(branch)?;
        }
    }
    Ok(())
}

/// What a branch may write, and which of its operations does. Operations of
/// one number exclude each other: they are branches of one nested transaction.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeMap<&'a [u8], usize>,
    deletes: Vec<(&'a KeyRange, usize)>,
}

fn writes_of(ops: &[Op]) -> Result<Writes<'_>, Rejection> {
    let mut writes = Writes::default();
    for (number, op) in ops.iter().enumerate() {
        match op {
            Op::Put(put) => writes.put(put.key.as_bytes(), number)?,
            Op::Delete(delete) => writes.deletes.push((&delete.range, number)),
            Op::Range(_) => {}
            Op::Txn(nested) => {
                for branch in [&nested.then, &nested.otherwise] {
                    let branch = writes_of(branch)?;
                    for key in branch.puts.into_keys() {
                        writes.put(key, number)?;
                    }
                    writes.deletes.extend(branch.deletes.iter().map(|(range, _)| (*range, number)));
                }
            }
        }
    }
    writes.check_deletes()?;
    Ok(writes)
}

impl<'a> Writes<'a> {
    fn put(&mut self, key: &'a [u8], number: usize) -> Result<(), Rejection> {
        match self.puts.insert(key, number) {
            Some(other) if other != number => Err(Rejection::DuplicateKey),
            _ => Ok(()),
        }
    }

    fn check_deletes(&self) -> Result<(), Rejection> {
        for (range, number) in &self.deletes {
            if range.is_empty() || self.puts.is_empty() {
                continue;
            }
            let mut puts = self.puts.range::<[u8], (Bound<&[u8]>, Bound<&[u8]>)>(range.bounds());
            if puts.any(|(_, other)| other != number) {
                return Err(Rejection::DuplicateKey);
            }
        }
        Ok(())
    }
}
