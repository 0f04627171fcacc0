//! Reads: the answer to a range, and reads that do not go through the log.

use super::check::{self, text};
use super::halt::Halt;
use super::overlay::Overlay;
use super::txn;
use super::{Head, KeyRecord, Range, RangeReply, Record, Rejection, Txn, TxnReply, View};
use crate::limits::{RANGE_BYTES_MAX, RANGE_RECORD_OVERHEAD};
use crate::{Key, KeyRange, RangeEnd, Revision};
use bytes::Bytes;

/// Reads a range, now or at a revision, without going through the log.
///
/// The answer is cut at `range.limit` records and at [`RANGE_BYTES_MAX`] bytes,
/// whichever comes first; then `more` is set, and the next page begins after
/// the last key. `count` tells all keys of the range in any case.
///
/// # Errors
///
/// The outer error is the view's. The inner one says that the range is malformed,
/// or that its revision is compacted or in the future.
pub fn read_range<V: View>(
    view: &V,
    range: &Range,
) -> Result<Result<RangeReply, Rejection>, V::Error> {
    let read = || {
        check::key_range(&range.range).map_err(Rejection::from)?;
        let mut overlay = Overlay::new(view);
        readable(&overlay.head, range.revision)?;
        select(&mut overlay, range, &mut Budget::default())
    };
    Halt::part(read())
}

/// Answers a transaction that only reads, without going through the log.
///
/// # Errors
///
/// The outer error is the view's. The inner one is what apply would reply, or
/// that the transaction could write.
pub fn read_txn<V: View>(view: &V, txn: &Txn) -> Result<Result<TxnReply, Rejection>, V::Error> {
    let read = || {
        check::txn(txn).map_err(Rejection::from)?;
        if !txn.is_read_only() {
            return Err(Rejection::Invalid(text::NOT_READ_ONLY).into());
        }
        txn::run(&mut Overlay::new(view), txn)
    };
    Halt::part(read())
}

/// Whether a range may ask for `revision`; zero stands for now.
pub(super) fn readable(head: &Head, revision: Revision) -> Result<(), Rejection> {
    let (current, compacted) = (head.revision, head.compacted);
    if revision == Revision::ZERO {
        Ok(())
    } else if revision > current {
        Err(Rejection::FutureRevision { asked: revision, current })
    } else if revision < compacted {
        Err(Rejection::Compacted { asked: revision, compacted })
    } else {
        Ok(())
    }
}

/// The bytes that a response may still take.
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(RANGE_BYTES_MAX)
    }
}

impl Budget {
    /// Takes what a record counts, or nothing if that is more than is left.
    pub(super) fn take(&mut self, key: &Key, record: &Record) -> bool {
        let bytes = key.as_bytes().len() + record.value.len() + RANGE_RECORD_OVERHEAD;
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// The answer to a range whose revision can be read.
pub(super) fn select<V: View>(
    overlay: &mut Overlay<'_, V>,
    range: &Range,
    budget: &mut Budget,
) -> Result<RangeReply, Halt<V::Error>> {
    let revision = (range.revision != Revision::ZERO).then_some(range.revision);
    if range.count_only {
        let count = overlay.count(&range.range, revision)?;
        return Ok(RangeReply { count, ..RangeReply::default() });
    }
    let mut page = Page { range, budget, records: Vec::new(), rest: None };
    if range.range.end == RangeEnd::Single && revision.is_none() {
        let key = Key(range.range.start.clone());
        if let Some(record) = overlay.get(&key)?.cloned() {
            page.add(key, record);
        }
    } else {
        overlay.scan(&range.range, revision, &mut |key, record| page.add(key, record))?;
    }
    let Page { records, rest, .. } = page;
    let taken = records.len() as u64;
    let left_out = match rest {
        Some(key) => {
            overlay.count(&KeyRange { start: key.0, end: range.range.end.clone() }, revision)?
        }
        None => 0,
    };
    Ok(RangeReply { records, count: taken + left_out, more: left_out > 0 })
}

/// The records of one response.
struct Page<'a> {
    range: &'a Range,
    budget: &'a mut Budget,
    records: Vec<KeyRecord>,
    /// The first key that had no room.
    rest: Option<Key>,
}

impl Page<'_> {
    /// Adds a record, and returns whether the next one is wanted.
    fn add(&mut self, key: Key, mut record: Record) -> bool {
        if self.range.keys_only {
            record.value = Bytes::new();
        }
        let within = self.range.limit == 0 || (self.records.len() as u64) < self.range.limit;
        if within && self.budget.take(&key, &record) {
            self.records.push(KeyRecord { key, record });
            return true;
        }
        self.rest = Some(key);
        false
    }
}
