//! Reads of the state as it was.
//!
//! A key's record at a revision is the newest one, if that is old enough, or
//! else the newest of its past that is. Both tables are in key order, so a
//! range is a merge of two scans.

use super::{StateError, rows};
use crate::disk::{EngineView, Rows, Table};
use crate::machine::Record;
use crate::{Key, KeyRange, Revision};
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::Bound;

/// Calls `visit` with the keys of `range` that were live at `revision`.
pub(super) fn scan_at(
    view: &dyn EngineView,
    range: &KeyRange,
    revision: Revision,
    visit: &mut dyn FnMut(Key, Record) -> bool,
) -> Result<(), StateError> {
    let mut latest = view.scan(Table::Latest, rows::latest_bounds(range), false);
    let mut past = PastKeys::new(view, range, revision);
    let mut newest = next_latest(&mut latest)?;
    let mut before = past.next()?;
    loop {
        let order = match (&newest, &before) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((new, _)), Some((old, _))) => new.cmp(old),
        };
        let found = match order {
            Ordering::Less => newest.take().filter(|(_, record)| record.modified <= revision),
            Ordering::Greater => before.take().and_then(|(key, record)| Some((key, record?))),
            Ordering::Equal => {
                let old = before.take().and_then(|(key, record)| Some((key, record?)));
                newest.take().filter(|(_, record)| record.modified <= revision).or(old)
            }
        };
        if found.is_some_and(|(key, record)| !visit(key, record)) {
            return Ok(());
        }
        if newest.is_none() {
            newest = next_latest(&mut latest)?;
        }
        if before.is_none() {
            before = past.next()?;
        }
    }
}

fn next_latest(rows: &mut Rows<'_>) -> Result<Option<(Key, Record)>, StateError> {
    let Some(row) = rows.next() else { return Ok(None) };
    let (key, row) = row?;
    Ok(Some((Key(key), rows::parse_record(Table::Latest, row)?)))
}

/// Rows of one key that are read one after the other before the scan jumps
/// over the rest: a document that is patched every few seconds has thousands.
const ROWS_BEFORE_JUMP: usize = 8;

/// The keys in `Past`, each with its newest record at or before a revision.
struct PastKeys<'a> {
    view: &'a dyn EngineView,
    revision: Revision,
    until: Bound<Bytes>,
    rows: Rows<'a>,
    pending: Option<(Key, Revision, Bytes)>,
}

impl<'a> PastKeys<'a> {
    fn new(view: &'a dyn EngineView, range: &KeyRange, revision: Revision) -> Self {
        let (from, until) = rows::past_bounds(range);
        let rows = view.scan(Table::Past, (from, until.clone()), false);
        Self { view, revision, until, rows, pending: None }
    }

    /// The next key; without a record if all of its past is newer, or if it was
    /// deleted.
    fn next(&mut self) -> Result<Option<(Key, Option<Record>)>, StateError> {
        let Some((key, first, row)) = self.next_row()? else { return Ok(None) };
        let mut newest = (first <= self.revision).then_some(row);
        for _ in 0..ROWS_BEFORE_JUMP {
            match self.next_row()? {
                Some((next, revision, row)) if next == key => {
                    if revision <= self.revision {
                        newest = Some(row);
                    }
                }
                other => {
                    self.pending = other;
                    return Ok(Some((key, parse(newest)?)));
                }
            }
        }
        let newest = newest_at(self.view, &key, self.revision)?;
        let after = rows::past_key(key.as_bytes(), Revision::new(u64::MAX));
        let rest = (Bound::Excluded(after), self.until.clone());
        self.rows = self.view.scan(Table::Past, rest, false);
        Ok(Some((key, parse(newest.map(|(_, row)| row))?)))
    }

    fn next_row(&mut self) -> Result<Option<(Key, Revision, Bytes)>, StateError> {
        if let Some(pending) = self.pending.take() {
            return Ok(Some(pending));
        }
        let Some(row) = self.rows.next() else { return Ok(None) };
        let (row_key, row) = row?;
        let (key, revision) = rows::parse_past_key(&row_key)?;
        Ok(Some((key, revision, row)))
    }
}

fn parse(row: Option<Bytes>) -> Result<Option<Record>, StateError> {
    match row {
        Some(row) if !row.is_empty() => rows::parse_record(Table::Past, row).map(Some),
        _ => Ok(None),
    }
}

/// The newest row of `key` in `Past` at or before `revision`.
fn newest_at(
    view: &dyn EngineView,
    key: &Key,
    revision: Revision,
) -> Result<Option<(Revision, Bytes)>, StateError> {
    past_rows(view, key, revision).next().transpose()
}

/// The rows of `key` in `Past` at or before `revision`, newest first. An empty
/// one is a tombstone.
pub(super) fn past_rows<'a>(
    view: &'a dyn EngineView,
    key: &Key,
    revision: Revision,
) -> impl Iterator<Item = Result<(Revision, Bytes), StateError>> + use<'a> {
    let from = rows::past_key(key.as_bytes(), Revision::ZERO);
    let until = rows::past_key(key.as_bytes(), revision);
    let bounds = (Bound::Included(from), Bound::Included(until));
    view.scan(Table::Past, bounds, true).map(|row| {
        let (row_key, row) = row?;
        Ok((rows::parse_past_key(&row_key)?.1, row))
    })
}
