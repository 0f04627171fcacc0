//! Sorted rows that do not change, and what several of them show together.

use crate::disk::batch::{Packed, Place, WriteBatch};
use crate::disk::engine::{Rows, Table};
use bytes::Bytes;
use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::{Bound, Range};
use std::sync::Arc;

/// Rows in the order of table and key, each once.
#[derive(Debug, Default)]
pub(super) struct Run {
    packed: Packed,
    /// What the rows take, without what was overwritten in their arenas.
    live_bytes: usize,
    bytes: usize,
}

impl Run {
    pub(super) fn new(batch: WriteBatch) -> Self {
        let packed = batch.into_sorted();
        let live_bytes = packed.rows.iter().map(|place| place.bytes()).sum();
        Self::of(packed, live_bytes)
    }

    fn of(packed: Packed, live_bytes: usize) -> Self {
        let bytes = packed.bytes();
        Self { packed, live_bytes, bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.packed.rows.len()
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Both together; where both have a row, the newer's. They get an arena of
    /// their own if they are no more than `small_bytes`, so that a run has few,
    /// and if more than half of what there is was overwritten.
    pub(super) fn merge(older: &Self, newer: &Self, small_bytes: usize) -> Self {
        let (old, new) = (&older.packed, &newer.packed);
        let mut merged = Packed::over(old.arenas_and(new), older.len() + newer.len());
        let mut live_bytes = older.live_bytes + newer.live_bytes;
        let mut rest = old.rows.as_slice();
        for place in &new.rows {
            let key = new.numbered(*place);
            let before = partition_run(old, rest, key);
            merged.rows.extend_from_slice(&rest[..before]);
            rest = &rest[before..];
            if let Some((first, behind)) = rest.split_first()
                && old.numbered(*first) == key
            {
                live_bytes -= first.bytes();
                rest = behind;
            }
            merged.rows.push(Packed::behind(old, *place));
        }
        merged.rows.extend_from_slice(rest);
        let run = Self::of(merged, live_bytes);
        if run.bytes <= small_bytes || run.bytes > 2 * live_bytes {
            Self::of(run.packed.repacked(), live_bytes)
        } else {
            run
        }
    }

    pub(super) fn into_batch(self) -> WriteBatch {
        self.packed.into()
    }

    fn compare(&self, place: Place, table: Table, key: &[u8]) -> Ordering {
        let row = self.packed.row(place);
        row.numbered()[0].cmp(&table.number()).then_with(|| row.key().cmp(key))
    }

    /// A row, if this says anything of it.
    fn get(&self, table: Table, key: &[u8]) -> Option<Found<'_>> {
        let rows = &self.packed.rows;
        let found = rows.binary_search_by(|place| self.compare(*place, table, key));
        found.ok().map(|index| Found::of(self, rows[index]))
    }

    fn within(&self, table: Table, (from, until): &(Bound<Bytes>, Bound<Bytes>)) -> &[Place] {
        let rows = &self.packed.rows;
        let number = |place: &Place| self.packed.numbered(*place)[0];
        let start = rows.partition_point(|place| match from {
            Bound::Included(key) => self.compare(*place, table, key).is_lt(),
            Bound::Excluded(key) => self.compare(*place, table, key).is_le(),
            Bound::Unbounded => number(place) < table.number(),
        });
        let end = rows.partition_point(|place| match until {
            Bound::Included(key) => self.compare(*place, table, key).is_le(),
            Bound::Excluded(key) => self.compare(*place, table, key).is_lt(),
            Bound::Unbounded => number(place) <= table.number(),
        });
        rows.get(Range { start, end }).unwrap_or_default()
    }
}

/// How many of `rows` come before the row with this numbered key. Looks near the
/// beginning first: merges go through both sides in step.
fn partition_run(packed: &Packed, rows: &[Place], key: &[u8]) -> usize {
    let before = |other: &Place| packed.numbered(*other) < key;
    let mut step = 1;
    let mut low = 0;
    while let Some(other) = rows.get(low + step - 1) {
        if !before(other) {
            break;
        }
        low += step;
        step *= 2;
    }
    let high = rows.len().min(low + step);
    low + rows[low..high].partition_point(before)
}

/// A row in the newest of the runs that know it; runs are newest first.
pub(super) fn get<'a>(runs: &'a [Arc<Run>], table: Table, key: &[u8]) -> Option<Found<'a>> {
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
    let slices = runs.iter().map(|run| Slice { run, rows: run.within(table, range) });
    let slices: Vec<_> = slices.filter(|slice| !slice.rows.is_empty()).collect();
    if slices.is_empty() {
        return below;
    }
    let mut runs = Slices { slices, descending };
    let next = runs.next();
    Box::new(Scan { runs, next, below: below.peekable() })
}

/// Rows of one table of a run.
#[derive(Clone, Copy)]
struct Slice<'a> {
    run: &'a Run,
    rows: &'a [Place],
}

/// A row of a run.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    key: &'a [u8],
    run: &'a Run,
    place: Place,
}

impl<'a> Found<'a> {
    fn of(run: &'a Run, place: Place) -> Self {
        Self { key: run.packed.row(place).key(), run, place }
    }

    /// Its value; none if the row is gone.
    pub(super) fn value(&self) -> Option<Bytes> {
        self.run.packed.value(self.place)
    }
}

impl<'a> Slice<'a> {
    fn head(&self, descending: bool) -> Option<Found<'a>> {
        let place = if descending { self.rows.last() } else { self.rows.first() };
        place.map(|place| Found::of(self.run, *place))
    }

    fn advance(&mut self, descending: bool) {
        let rest = if descending {
            self.rows.split_last().map(|(_, rest)| rest)
        } else {
            self.rows.split_first().map(|(_, rest)| rest)
        };
        self.rows = rest.unwrap_or_default();
    }
}

/// The rows of several runs, in order, each from the newest that has it.
struct Slices<'a> {
    /// Newest first; none is empty.
    slices: Vec<Slice<'a>>,
    descending: bool,
}

impl Slices<'_> {
    fn order(&self, a: &[u8], b: &[u8]) -> Ordering {
        if self.descending { b.cmp(a) } else { a.cmp(b) }
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let descending = self.descending;
        let heads = self.slices.iter().filter_map(|slice| slice.head(descending));
        // The first of equals, which is the newest.
        let next = heads.reduce(|best, head| {
            if self.order(head.key, best.key) == Ordering::Less { head } else { best }
        })?;
        self.slices.retain_mut(|slice| {
            if slice.head(descending).is_some_and(|head| head.key == next.key) {
                slice.advance(descending);
            }
            !slice.rows.is_empty()
        });
        Some(next)
    }
}

struct Scan<'a> {
    runs: Slices<'a>,
    next: Option<Found<'a>>,
    below: Peekable<Rows<'a>>,
}

impl<'a> Iterator for Scan<'a> {
    type Item = <Rows<'a> as Iterator>::Item;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(row) = self.next else { return self.below.next() };
            match self.below.peek() {
                Some(Ok((key, _))) => match self.runs.order(key, row.key) {
                    Ordering::Less => return self.below.next(),
                    Ordering::Equal => drop(self.below.next()),
                    Ordering::Greater => {}
                },
                Some(Err(_)) => return self.below.next(),
                None => {}
            }
            self.next = self.runs.next();
            if let Some(value) = row.value() {
                return Some(Ok((Bytes::copy_from_slice(row.key), value)));
            }
        }
    }
}
