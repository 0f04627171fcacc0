//! Sorted rows that do not change, and what several of them show together.

use crate::disk::batch::{Place, Span, WriteBatch, number};
use crate::disk::engine::{Rows, Table};
use bytes::Bytes;
use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::{Bound, Range};
use std::sync::Arc;

/// In place of a value's length: the row is gone.
const GONE: u32 = u32::MAX;

/// A row: the end of its key among the keys, and where its value is.
#[derive(Clone, Copy, Debug)]
struct Slot {
    key_end: u32,
    arena: u32,
    start: u32,
    bytes: u32,
}

impl Slot {
    fn value(self) -> Option<Span> {
        let Self { arena, start, bytes, .. } = self;
        (bytes != GONE).then_some(Span { arena, start, bytes })
    }

    fn value_bytes(self) -> usize {
        self.value().map_or(0, |value| value.bytes as usize)
    }
}

/// Rows in the order of table and key, each once.
///
/// Their keys lie one behind the other, in order, for they are compared over and
/// over: a merge goes through memory as it lies there. Values are where they
/// were written.
#[derive(Debug, Default)]
pub(super) struct Run {
    keys: Vec<u8>,
    slots: Vec<Slot>,
    arenas: Vec<Bytes>,
    /// What the values take, without what was overwritten.
    live_bytes: usize,
    arena_bytes: usize,
}

impl Run {
    pub(super) fn new(batch: WriteBatch) -> Self {
        let (arenas, rows) = batch.into_sorted();
        let keys = rows.iter().map(|place| place.key.bytes as usize).sum();
        let mut run = Self::over(arenas, rows.len(), keys);
        for Place { key, value } in rows {
            run.keys.extend_from_slice(key.of(&run.arenas[key.arena as usize]));
            let key_end = number(run.keys.len());
            let gone = Span { arena: 0, start: 0, bytes: GONE };
            let Span { arena, start, bytes } = value.unwrap_or(gone);
            let slot = Slot { key_end, arena, start, bytes };
            run.live_bytes += slot.value_bytes();
            run.slots.push(slot);
        }
        run
    }

    /// No rows yet, of these arenas.
    fn over(arenas: Vec<Bytes>, slots: usize, keys: usize) -> Self {
        let arena_bytes = arenas.iter().map(Bytes::len).sum();
        let (keys, slots) = (Vec::with_capacity(keys), Vec::with_capacity(slots));
        Self { keys, slots, arenas, live_bytes: 0, arena_bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.keys.len() + self.slots.len() * size_of::<Slot>() + self.arena_bytes
    }

    /// Both together; where both have a row, the newer's. They get an arena of
    /// their own if they are no more than `small_bytes`, so that a run has few,
    /// and if more than half of what there is was overwritten.
    pub(super) fn merge(older: &Self, newer: &Self, small_bytes: usize) -> Self {
        let arenas = older.arenas.iter().chain(&newer.arenas).cloned().collect();
        let (slots, keys) = (older.len() + newer.len(), older.keys.len() + newer.keys.len());
        let mut merged = Self::over(arenas, slots, keys);
        merged.live_bytes = older.live_bytes + newer.live_bytes;
        let behind = number(older.arenas.len());
        let mut rest = 0;
        for (index, slot) in newer.slots.iter().enumerate() {
            let key = newer.numbered(index);
            let until = older.first_not_before(key, rest);
            merged.append(older, rest..until);
            rest = until;
            if rest < older.len() && older.numbered(rest) == key {
                merged.live_bytes -= older.slots[rest].value_bytes();
                rest += 1;
            }
            merged.keys.extend_from_slice(key);
            let key_end = number(merged.keys.len());
            merged.slots.push(Slot { key_end, arena: slot.arena + behind, ..*slot });
        }
        merged.append(older, rest..older.len());
        if merged.bytes() <= small_bytes || merged.arena_bytes > 2 * merged.live_bytes {
            merged.repack();
        }
        merged
    }

    /// Appends rows of a run whose arenas come first.
    fn append(&mut self, other: &Self, rows: Range<usize>) {
        let Some(last) = rows.end.checked_sub(1).filter(|last| *last >= rows.start) else {
            return;
        };
        let from = other.key_start(rows.start);
        let moved = number(self.keys.len());
        self.keys.extend_from_slice(&other.keys[from..other.slots[last].key_end as usize]);
        let from = number(from);
        let slots = other.slots[rows].iter();
        self.slots.extend(slots.map(|slot| Slot { key_end: slot.key_end - from + moved, ..*slot }));
    }

    /// Puts all values into an arena with nothing else in it.
    fn repack(&mut self) {
        let mut arena = Vec::with_capacity(self.live_bytes);
        for slot in &mut self.slots {
            if let Some(value) = slot.value() {
                (slot.arena, slot.start) = (0, number(arena.len()));
                arena.extend_from_slice(value.of(&self.arenas[value.arena as usize]));
            }
        }
        debug_assert_eq!(arena.len(), self.live_bytes, "what is live was counted");
        self.arena_bytes = arena.len();
        self.arenas = vec![arena.into()];
    }

    /// The same rows as a batch.
    pub(super) fn into_batch(self) -> WriteBatch {
        let Self { keys, slots, mut arenas, .. } = self;
        let arena = number(arenas.len());
        let mut start = 0;
        let place = |slot: Slot| {
            let key = Span { arena, start, bytes: slot.key_end - start };
            start = slot.key_end;
            Place { key, value: slot.value() }
        };
        let rows = slots.into_iter().map(place).collect();
        arenas.push(keys.into());
        WriteBatch::of_sorted(arenas, rows)
    }

    fn key_start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.slots[before].key_end as usize)
    }

    /// The number of a row's table and its key.
    fn numbered(&self, index: usize) -> &[u8] {
        &self.keys[self.key_start(index)..self.slots[index].key_end as usize]
    }

    fn compare(&self, index: usize, table: Table, key: &[u8]) -> Ordering {
        let numbered = self.numbered(index);
        numbered[0].cmp(&table.number()).then_with(|| numbered[1..].cmp(key))
    }

    /// The first row from `from` on that does not come before this numbered key.
    /// Looks near `from` first: merges go through both sides in step.
    fn first_not_before(&self, key: &[u8], from: usize) -> usize {
        let before = |index: usize| self.numbered(index) < key;
        let (mut low, mut step) = (from, 1);
        while low + step <= self.len() && before(low + step - 1) {
            low += step;
            step *= 2;
        }
        partition(low..self.len().min(low + step), before)
    }

    /// A row, if this says anything of it.
    fn get(&self, table: Table, key: &[u8]) -> Option<Found<'_>> {
        let at = partition(0..self.len(), |index| self.compare(index, table, key).is_lt());
        let found = at < self.len() && self.compare(at, table, key).is_eq();
        found.then(|| Found::of(self, at))
    }

    fn within(&self, table: Table, (from, until): &(Bound<Bytes>, Bound<Bytes>)) -> Range<usize> {
        let number = |index: usize| self.numbered(index)[0];
        let start = partition(0..self.len(), |index| match from {
            Bound::Included(key) => self.compare(index, table, key).is_lt(),
            Bound::Excluded(key) => self.compare(index, table, key).is_le(),
            Bound::Unbounded => number(index) < table.number(),
        });
        let end = partition(0..self.len(), |index| match until {
            Bound::Included(key) => self.compare(index, table, key).is_le(),
            Bound::Excluded(key) => self.compare(index, table, key).is_lt(),
            Bound::Unbounded => number(index) <= table.number(),
        });
        start..end.max(start)
    }
}

/// The first of `rows` that `is_before` is not true of; it is of none that
/// follows.
fn partition(rows: Range<usize>, is_before: impl Fn(usize) -> bool) -> usize {
    let Range { start: mut low, end: mut high } = rows;
    while low < high {
        let middle = low.midpoint(high);
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
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
struct Slice<'a> {
    run: &'a Run,
    rows: Range<usize>,
}

/// A row of a run.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    key: &'a [u8],
    run: &'a Run,
    index: usize,
}

impl<'a> Found<'a> {
    fn of(run: &'a Run, index: usize) -> Self {
        Self { key: &run.numbered(index)[1..], run, index }
    }

    /// Its value; none if the row is gone.
    pub(super) fn value(&self) -> Option<Bytes> {
        let value = self.run.slots[self.index].value()?;
        Some(value.share_or_copy(&self.run.arenas[value.arena as usize]))
    }
}

impl<'a> Slice<'a> {
    fn head(&self, descending: bool) -> Option<Found<'a>> {
        let index = if descending { self.rows.end.checked_sub(1)? } else { self.rows.start };
        self.rows.contains(&index).then(|| Found::of(self.run, index))
    }

    fn advance(&mut self, descending: bool) {
        if descending {
            self.rows.end -= 1;
        } else {
            self.rows.start += 1;
        }
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
