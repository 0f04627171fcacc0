//! Rows that are written together, and how they lie in memory.
//!
//! A row has no allocation of its own: the bytes of many lie one behind the
//! other in an arena, and a row is a few numbers that say where. Rows are sorted
//! and merged by moving those; an arena is given back as a whole.

use super::engine::Table;
use bytes::Bytes;

/// A part of an arena.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) arena: u32,
    pub(super) start: u32,
    pub(super) bytes: u32,
}

impl Span {
    pub(super) fn of(self, arena: &[u8]) -> &[u8] {
        &arena[self.start as usize..][..self.bytes as usize]
    }

    pub(super) fn share(self, arena: &Bytes) -> Bytes {
        let start = self.start as usize;
        arena.slice(start..start + self.bytes as usize)
    }

    /// Like [`share`](Self::share), but a small part of a large arena is copied:
    /// who keeps it should not keep all of that.
    pub(super) fn share_or_copy(self, arena: &Bytes) -> Bytes {
        if self.bytes as usize >= arena.len() / 4 {
            self.share(arena)
        } else {
            Bytes::copy_from_slice(self.of(arena))
        }
    }
}

/// Where a row is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The number of its table, and its key behind it: the order of rows.
    pub(super) key: Span,
    /// Its value; none if it is to be deleted.
    pub(super) value: Option<Span>,
}

/// A row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    numbered: &'a [u8],
    /// Its value; none if it is to be deleted.
    pub value: Option<&'a [u8]>,
}

impl<'a> Row<'a> {
    /// Its table.
    pub fn table(&self) -> Table {
        Table::ALL[usize::from(self.numbered[0])]
    }

    /// Its key.
    pub fn key(&self) -> &'a [u8] {
        &self.numbered[1..]
    }

    /// The number of its table and its key: the order of rows.
    #[cfg(feature = "sled")]
    pub(super) fn numbered(&self) -> &'a [u8] {
        self.numbered
    }
}

/// Rows to put and to delete together, or not at all.
#[derive(Clone, Debug)]
pub struct WriteBatch {
    /// Arenas that rows were taken over with.
    arenas: Vec<Bytes>,
    /// The arena of the other rows; its number is that behind the others.
    arena: Vec<u8>,
    rows: Vec<Place>,
    /// Each row comes after the one before, by table and key.
    sorted: bool,
}

impl Default for WriteBatch {
    fn default() -> Self {
        Self::with_capacity(0, 0)
    }
}

impl WriteBatch {
    /// An empty batch with room for so many rows and bytes of keys and values.
    pub fn with_capacity(rows: usize, bytes: usize) -> Self {
        let (arena, rows) = (Vec::with_capacity(bytes), Vec::with_capacity(rows));
        Self { arenas: Vec::new(), arena, rows, sorted: true }
    }

    /// Rows of `arenas` that are sorted.
    pub(super) fn of_sorted(arenas: Vec<Bytes>, rows: Vec<Place>) -> Self {
        Self { arenas, arena: Vec::new(), rows, sorted: true }
    }

    /// Puts a row. A later write of the same row wins.
    ///
    /// # Panics
    ///
    /// Panics if the batch grows to 4 GiB.
    pub fn put(&mut self, table: Table, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let append = |bytes: &[u8], row: &mut Vec<u8>| row.extend_from_slice(bytes);
        let (key, value) = (key.as_ref(), value.as_ref());
        self.put_with(table, |row| append(key, row), |row| append(value, row));
    }

    /// Puts a row whose key and value are written in place. They may only be
    /// appended.
    ///
    /// # Panics
    ///
    /// Panics if the batch grows to 4 GiB.
    pub fn put_with(
        &mut self,
        table: Table,
        key: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(&mut Vec<u8>),
    ) {
        let key = self.append_key(table, key);
        let start = self.arena.len();
        value(&mut self.arena);
        let value = Some(self.since(start));
        self.rows.push(Place { key, value });
    }

    /// Deletes a row, if it is there.
    ///
    /// # Panics
    ///
    /// Panics if the batch grows to 4 GiB.
    pub fn delete(&mut self, table: Table, key: impl AsRef<[u8]>) {
        self.delete_with(table, |row| row.extend_from_slice(key.as_ref()));
    }

    /// Deletes a row whose key is written in place.
    ///
    /// # Panics
    ///
    /// Panics if the batch grows to 4 GiB.
    pub fn delete_with(&mut self, table: Table, key: impl FnOnce(&mut Vec<u8>)) {
        let key = self.append_key(table, key);
        self.rows.push(Place { key, value: None });
    }

    fn append_key(&mut self, table: Table, key: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.arena.len();
        self.arena.push(table.number());
        key(&mut self.arena);
        let key = self.since(start);
        if self.sorted
            && let Some(before) = self.rows.last()
        {
            self.sorted = self.part(before.key) < self.part(key);
        }
        key
    }

    /// What was appended to the arena behind `start`.
    fn since(&self, start: usize) -> Span {
        Span {
            arena: number(self.arenas.len()),
            start: number(start),
            bytes: number(self.arena.len() - start),
        }
    }

    fn part(&self, span: Span) -> &[u8] {
        let arena = self.arenas.get(span.arena as usize);
        span.of(arena.map_or(&self.arena, |arena| arena))
    }

    /// Writes and deletions so far.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// About how many bytes its keys and values are.
    pub fn bytes(&self) -> usize {
        let bytes = |place: &Place| place.key.bytes + place.value.map_or(0, |value| value.bytes);
        self.rows.iter().map(|place| bytes(place) as usize).sum()
    }

    /// The rows, in the order in which they were written.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|place| {
            let value = place.value.map(|value| self.part(value));
            Row { numbered: self.part(place.key), value }
        })
    }

    /// The rows by table and key, of each the last write, and their arenas.
    pub(super) fn into_sorted(mut self) -> (Vec<Bytes>, Vec<Place>) {
        let mut rows = std::mem::take(&mut self.rows);
        if !self.sorted {
            // Stable: the last write of a row stays the last.
            rows.sort_by(|a, b| self.part(a.key).cmp(self.part(b.key)));
            rows.dedup_by(|later, kept| {
                let same = self.part(later.key) == self.part(kept.key);
                if same {
                    *kept = *later;
                }
                same
            });
        }
        let Self { mut arenas, mut arena, .. } = self;
        if arena.capacity() - arena.len() > arena.len() / 4 {
            arena.shrink_to_fit();
        }
        arenas.push(arena.into());
        (arenas, rows)
    }
}

/// A length or place as rows keep it.
pub(super) fn number(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a batch of rows stays far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = (Table, &'static str, Option<&'static str>);

    fn sorted(batch: WriteBatch) -> Vec<(Table, String, Option<String>)> {
        let (arenas, rows) = batch.into_sorted();
        let batch = WriteBatch::of_sorted(arenas, rows);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        batch.rows().map(|row| (row.table(), text(row.key()), row.value.map(text))).collect()
    }

    fn assert_sorted(batch: WriteBatch, expected: &[Found]) {
        let found = sorted(batch);
        let found: Vec<_> =
            found.iter().map(|(table, key, value)| (*table, &**key, value.as_deref())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn rows_are_sorted_and_the_last_write_of_each_is_kept() {
        let mut batch = WriteBatch::default();
        batch.put(Table::Past, "a", "1");
        batch.put(Table::Latest, "b", "2");
        batch.delete(Table::Latest, "a");
        batch.put(Table::Latest, "b", "3");
        batch.put(Table::Latest, "a", "");
        batch.delete(Table::Past, "a");
        assert_eq!(batch.len(), 6);
        let expected = [
            (Table::Latest, "a", Some("")),
            (Table::Latest, "b", Some("3")),
            (Table::Past, "a", None),
        ];
        assert_sorted(batch, &expected);
    }

    #[test]
    fn equal_neighbours_are_one_row() {
        let mut batch = WriteBatch::default();
        batch.put(Table::Latest, "a", "1");
        batch.put(Table::Latest, "a", "2");
        assert_sorted(batch, &[(Table::Latest, "a", Some("2"))]);
    }

    #[test]
    fn rows_are_added_to_rows_that_were_taken_over() {
        let mut batch = WriteBatch::default();
        batch.put(Table::Latest, "a", "1");
        batch.put(Table::Latest, "b", "1");
        let (arenas, rows) = batch.into_sorted();
        let mut batch = WriteBatch::of_sorted(arenas, rows);
        batch.put(Table::Latest, "a", "2");
        let values: Vec<_> = batch.rows().map(|row| row.value.unwrap()).collect();
        assert_eq!(values, [b"1", b"1", b"2"]);
        let expected = [(Table::Latest, "a", Some("2")), (Table::Latest, "b", Some("1"))];
        assert_sorted(batch, &expected);
    }

    #[test]
    fn a_small_value_does_not_keep_a_large_arena() {
        let arena = Bytes::from(vec![7; 1000]);
        let lies_in = |bytes| {
            let part = Span { arena: 0, start: 0, bytes }.share_or_copy(&arena);
            arena.as_ptr_range().contains(&part.as_ptr())
        };
        assert!(lies_in(900));
        assert!(!lies_in(10));
    }
}
