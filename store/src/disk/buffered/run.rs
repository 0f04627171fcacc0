//! Sorted rows that do not change, and what several of them show together.

use crate::disk::engine::{Rows, Table};
use bytes::Bytes;
use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::{Bound, Range};
use std::sync::Arc;

/// What a row takes besides its key and value: two allocations, their handles,
/// and its share of merged copies.
const ROW_BYTES: usize = 192;

/// A row of a batch: `None` deletes.
pub(crate) type BatchRow = (Table, Bytes, Option<Bytes>);

fn place(row: &BatchRow) -> (Table, &[u8]) {
    (row.0, &row.1)
}

/// Sorts the rows of a batch by table and key and keeps of each row the last
/// write.
pub(crate) fn sort(rows: &mut Vec<BatchRow>) {
    // Stable: the last write of a row stays the last.
    rows.sort_by(|a, b| place(a).cmp(&place(b)));
    rows.dedup_by(|later, kept| {
        let same = place(later) == place(kept);
        if same {
            kept.2 = later.2.take();
        }
        same
    });
}

/// Rows in the order of table and key, each once.
#[derive(Debug, Default)]
pub(super) struct Run {
    rows: Vec<BatchRow>,
    /// About how much memory they take.
    bytes: usize,
}

impl Run {
    pub(super) fn new(mut rows: Vec<BatchRow>) -> Self {
        sort(&mut rows);
        Self::of_sorted(rows)
    }

    fn of_sorted(rows: Vec<BatchRow>) -> Self {
        let bytes = rows.iter().map(row_bytes).sum();
        Self { rows, bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Both together; where both have a row, the newer's.
    pub(super) fn merge(older: &Self, newer: &Self) -> Self {
        let mut rows = Vec::with_capacity(older.len() + newer.len());
        let mut rest = older.rows.as_slice();
        for row in &newer.rows {
            let before = rest.partition_run(row);
            rows.extend_from_slice(&rest[..before]);
            rest = &rest[before..];
            if rest.first().is_some_and(|old| place(old) == place(row)) {
                rest = &rest[1..];
            }
            rows.push(row.clone());
        }
        rows.extend_from_slice(rest);
        Self::of_sorted(rows)
    }

    pub(super) fn into_rows(self) -> Vec<BatchRow> {
        self.rows
    }

    /// What this says of a row, if anything: its value, or that it is gone.
    fn get(&self, table: Table, key: &[u8]) -> Option<&Option<Bytes>> {
        let found = self.rows.binary_search_by(|row| place(row).cmp(&(table, key)));
        found.ok().map(|index| &self.rows[index].2)
    }

    fn within(&self, table: Table, (from, until): &(Bound<Bytes>, Bound<Bytes>)) -> &[BatchRow] {
        let start = self.rows.partition_point(|row| match from {
            Bound::Included(key) => place(row) < (table, key),
            Bound::Excluded(key) => place(row) <= (table, key),
            Bound::Unbounded => row.0 < table,
        });
        let end = self.rows.partition_point(|row| match until {
            Bound::Included(key) => place(row) <= (table, key),
            Bound::Excluded(key) => place(row) < (table, key),
            Bound::Unbounded => row.0 <= table,
        });
        self.rows.get(Range { start, end }).unwrap_or_default()
    }
}

fn row_bytes((_, key, value): &BatchRow) -> usize {
    ROW_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len)
}

trait PartitionRun {
    /// How many rows at the beginning come before `row`.
    fn partition_run(&self, row: &BatchRow) -> usize;
}

impl PartitionRun for [BatchRow] {
    /// Looks near the beginning first: merges go through both sides in step.
    fn partition_run(&self, row: &BatchRow) -> usize {
        let before = |other: &BatchRow| place(other) < place(row);
        let mut step = 1;
        let mut low = 0;
        while let Some(other) = self.get(low + step - 1) {
            if !before(other) {
                break;
            }
            low += step;
            step *= 2;
        }
        let high = self.len().min(low + step);
        low + self[low..high].partition_point(before)
    }
}

/// A row in the newest of the runs that know it; runs are newest first.
pub(super) fn get<'a>(runs: &'a [Arc<Run>], table: Table, key: &[u8]) -> Option<&'a Option<Bytes>> {
    runs.iter().find_map(|run| run.get(table, key))
}

/// The rows between two keys, in runs (newest first) over what is below them.
pub(super) fn scan<'a>(
    runs: &'a [Arc<Run>],
    below: Rows<'a>,
    table: Table,
    range: &(Bound<Bytes>, Bound<Bytes>),
    descending: bool,
) -> Rows<'a> {
    let slices = runs.iter().map(|run| run.within(table, range));
    let slices: Vec<_> = slices.filter(|slice| !slice.is_empty()).collect();
    if slices.is_empty() {
        return below;
    }
    let mut runs = Slices { slices, descending };
    let next = runs.next();
    Box::new(Scan { runs, next, below: below.peekable() })
}

/// The rows of several runs, in order, each from the newest that has it.
struct Slices<'a> {
    /// Newest first; none is empty.
    slices: Vec<&'a [BatchRow]>,
    descending: bool,
}

impl<'a> Slices<'a> {
    fn head(&self, slice: &'a [BatchRow]) -> &'a BatchRow {
        if self.descending { &slice[slice.len() - 1] } else { &slice[0] }
    }

    fn order(&self, a: &[u8], b: &[u8]) -> Ordering {
        if self.descending { b.cmp(a) } else { a.cmp(b) }
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a BatchRow;

    fn next(&mut self) -> Option<&'a BatchRow> {
        let heads = self.slices.iter().map(|slice| self.head(slice));
        // The first of equals, which is the newest.
        let next = heads.reduce(|best, head| {
            if self.order(&head.1, &best.1) == Ordering::Less { head } else { best }
        })?;
        let descending = self.descending;
        self.slices.retain_mut(|slice| {
            let head = if descending { slice.last() } else { slice.first() };
            if head.is_some_and(|head| head.1 == next.1) {
                *slice = if descending { &slice[..slice.len() - 1] } else { &slice[1..] };
            }
            !slice.is_empty()
        });
        Some(next)
    }
}

struct Scan<'a> {
    runs: Slices<'a>,
    next: Option<&'a BatchRow>,
    below: Peekable<Rows<'a>>,
}

impl<'a> Iterator for Scan<'a> {
    type Item = <Rows<'a> as Iterator>::Item;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(row) = self.next else { return self.below.next() };
            match self.below.peek() {
                Some(Ok((key, _))) => match self.runs.order(key, &row.1) {
                    Ordering::Less => return self.below.next(),
                    Ordering::Equal => drop(self.below.next()),
                    Ordering::Greater => {}
                },
                Some(Err(_)) => return self.below.next(),
                None => {}
            }
            self.next = self.runs.next();
            if let Some(value) = &row.2 {
                return Some(Ok((row.1.clone(), value.clone())));
            }
        }
    }
}
