//! Rows that are written together, and how they lie in memory.
//!
//! A row has no allocation of its own: the bytes of many lie one behind the
//! other in an arena, and a row is sixteen bytes that say where. Rows are sorted
//! and merged by moving those; an arena is given back as a whole.

use super::engine::Table;
use bytes::Bytes;

/// Says of a row that it is deleted, in place of its value's length.
const GONE: u32 = u32::MAX;

/// Where a row is: the number of its table, its key and its value, one behind
/// the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    arena: u32,
    start: u32,
    /// Bytes of the key, with the number before it.
    key: u32,
    /// Bytes of the value, or [`GONE`].
    value: u32,
}

impl Place {
    /// Bytes that the row takes, with its place.
    pub(super) fn bytes(self) -> usize {
        let value = if self.value == GONE { 0 } else { self.value };
        size_of::<Self>() + self.key as usize + value as usize
    }

    fn is_gone(self) -> bool {
        self.value == GONE
    }
}

/// A row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    numbered: &'a [u8],
    /// Its value; none if it is to be deleted.
    pub value: Option<&'a [u8]>,
}

impl<'a> Row<'a> {
    fn at(arena: &'a [u8], place: Place) -> Self {
        let (start, key) = (place.start as usize, place.key as usize);
        let (numbered, rest) = arena[start..].split_at(key);
        let value = (!place.is_gone()).then(|| &rest[..place.value as usize]);
        Self { numbered, value }
    }

    /// Its table.
    pub fn table(&self) -> Table {
        Table::ALL[usize::from(self.numbered[0])]
    }

    /// Its key.
    pub fn key(&self) -> &'a [u8] {
        &self.numbered[1..]
    }

    /// The number of its table and its key: the order of rows.
    pub(super) fn numbered(&self) -> &'a [u8] {
        self.numbered
    }
}

/// Rows to put and to delete together, or not at all.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// Those of the rows that were there before.
    packed: Packed,
    /// That of the others, which are last.
    arena: Vec<u8>,
}

impl WriteBatch {
    /// An empty batch with room for so many rows and bytes of keys and values.
    pub fn with_capacity(rows: usize, bytes: usize) -> Self {
        let rows = Vec::with_capacity(rows);
        let packed = Packed { arenas: Vec::new(), rows };
        Self { packed, arena: Vec::with_capacity(bytes) }
    }

    /// Puts a row. A later write of the same row wins.
    ///
    /// # Panics
    ///
    /// Panics if the batch grows to 4 GiB.
    pub fn put(&mut self, table: Table, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.put_with(
            table,
            |row| row.extend_from_slice(key.as_ref()),
            |row| row.extend_from_slice(value),
        );
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
        self.delete_with(table, key);
        let before = self.arena.len();
        value(&mut self.arena);
        let bytes = offset(self.arena.len() - before);
        if let Some(place) = self.packed.rows.last_mut() {
            place.value = bytes;
        }
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
        let start = self.arena.len();
        self.arena.push(table.number());
        key(&mut self.arena);
        let place = Place {
            arena: offset(self.packed.arenas.len()),
            start: offset(start),
            key: offset(self.arena.len() - start),
            value: GONE,
        };
        self.packed.rows.push(place);
    }

    /// Writes and deletions so far.
    pub fn len(&self) -> usize {
        self.packed.rows.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.packed.rows.is_empty()
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.packed.bytes() + self.arena.len()
    }

    /// The rows, in the order in which they were written.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.packed.rows.iter().map(|place| {
            let arena = self.packed.arenas.get(place.arena as usize);
            Row::at(arena.map_or(&self.arena, |arena| arena), *place)
        })
    }

    /// The rows by table and key, of each the last write.
    pub(super) fn into_sorted(self) -> Packed {
        let Self { mut packed, mut arena } = self;
        if arena.capacity() - arena.len() > arena.len() / 4 {
            arena.shrink_to_fit();
        }
        packed.arenas.push(Bytes::from(arena));
        packed.sort();
        packed
    }
}

impl From<Packed> for WriteBatch {
    fn from(packed: Packed) -> Self {
        Self { packed, arena: Vec::new() }
    }
}

fn offset(bytes: usize) -> u32 {
    let fits = u32::try_from(bytes).ok().filter(|bytes| *bytes < GONE);
    fits.expect("a batch of rows stays far below 4 GiB")
}

/// Rows that do not change any more, and their arenas.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed {
    arenas: Vec<Bytes>,
    pub(super) rows: Vec<Place>,
}

impl Packed {
    /// Room for rows of `arenas`: whatever a place says of its arena is about
    /// its position here.
    pub(super) fn over(arenas: Vec<Bytes>, rows: usize) -> Self {
        Self { arenas, rows: Vec::with_capacity(rows) }
    }

    /// The arenas of two, those of `self` first.
    pub(super) fn arenas_and(&self, others: &Self) -> Vec<Bytes> {
        self.arenas.iter().chain(&others.arenas).cloned().collect()
    }

    /// A place of these rows, among the rows of `self` and others whose arenas
    /// come first.
    pub(super) fn behind(others: &Self, place: Place) -> Place {
        Place { arena: place.arena + offset(others.arenas.len()), ..place }
    }

    pub(super) fn row(&self, place: Place) -> Row<'_> {
        Row::at(&self.arenas[place.arena as usize], place)
    }

    /// The number of a row's table and its key.
    pub(super) fn numbered(&self, place: Place) -> &[u8] {
        self.row(place).numbered
    }

    /// A row's numbered key and its value, as parts of their arena.
    pub(super) fn parts(&self, place: Place) -> (Bytes, Option<Bytes>) {
        let arena = &self.arenas[place.arena as usize];
        let (start, key) = (place.start as usize, place.key as usize);
        let value = start + key;
        let part = |value_bytes: u32| arena.slice(value..value + value_bytes as usize);
        (arena.slice(start..value), (!place.is_gone()).then(|| part(place.value)))
    }

    /// A row's value, if it has one. A small part of a large arena is copied:
    /// who keeps it should not keep all of that.
    pub(super) fn value(&self, place: Place) -> Option<Bytes> {
        let value = self.row(place).value?;
        let arena = &self.arenas[place.arena as usize];
        let shares = value.len() >= arena.len() / 4;
        Some(if shares { arena.slice_ref(value) } else { Bytes::copy_from_slice(value) })
    }

    /// Bytes of the arenas, and of the places in them.
    pub(super) fn bytes(&self) -> usize {
        let arenas: usize = self.arenas.iter().map(|arena| size_of::<Bytes>() + arena.len()).sum();
        arenas + self.rows.len() * size_of::<Place>()
    }

    /// The same rows in one arena with nothing else in it.
    pub(super) fn repacked(&self) -> Self {
        let bytes = self.rows.iter().map(|place| place.bytes() - size_of::<Place>()).sum();
        let mut arena = Vec::with_capacity(bytes);
        let mut rows = Vec::with_capacity(self.rows.len());
        for place in &self.rows {
            let row = self.row(*place);
            rows.push(Place { arena: 0, start: offset(arena.len()), ..*place });
            arena.extend_from_slice(row.numbered);
            arena.extend_from_slice(row.value.unwrap_or_default());
        }
        Self { arenas: vec![arena.into()], rows }
    }

    fn sort(&mut self) {
        let Self { arenas, rows } = self;
        let numbered = |place: &Place| Row::at(&arenas[place.arena as usize], *place).numbered;
        // Stable: the last write of a row stays the last.
        rows.sort_by(|a, b| numbered(a).cmp(numbered(b)));
        rows.dedup_by(|later, kept| {
            let same = numbered(later) == numbered(kept);
            if same {
                *kept = *later;
            }
            same
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(packed: &Packed) -> Vec<Row<'_>> {
        packed.rows.iter().map(|place| packed.row(*place)).collect()
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
        let packed = batch.into_sorted();
        let found: Vec<_> =
            rows(&packed).iter().map(|row| (row.table(), row.key(), row.value)).collect();
        let value = |text: &'static str| Some(text.as_bytes());
        let expected: [(_, &[u8], _); 3] = [
            (Table::Latest, b"a", value("")),
            (Table::Latest, b"b", value("3")),
            (Table::Past, b"a", None),
        ];
        assert_eq!(found, expected);
        assert_eq!(rows(&packed.repacked()), rows(&packed));
        assert!(packed.repacked().bytes() < packed.bytes());
    }

    #[test]
    fn rows_are_added_to_rows_that_were_packed() {
        let mut batch = WriteBatch::default();
        batch.put(Table::Latest, "a", "1");
        batch.put(Table::Latest, "b", "1");
        let mut batch = WriteBatch::from(batch.into_sorted());
        batch.put(Table::Latest, "a", "2");
        let values: Vec<_> = batch.rows().map(|row| row.value.unwrap()).collect();
        assert_eq!(values, [b"1", b"1", b"2"]);
        let packed = batch.into_sorted();
        let values: Vec<_> = rows(&packed).iter().map(|row| row.value.unwrap()).collect();
        assert_eq!(values, [b"2", b"1"]);
    }

    #[test]
    fn a_small_value_does_not_keep_a_large_arena() {
        let mut batch = WriteBatch::default();
        batch.put(Table::Latest, "large", vec![1; 1000]);
        batch.put(Table::Latest, "small", vec![2; 10]);
        let packed = batch.into_sorted();
        let arena = packed.arenas[0].as_ptr_range();
        let lies_in = |place| arena.contains(&packed.value(place).unwrap().as_ptr());
        assert!(lies_in(packed.rows[0]));
        assert!(!lies_in(packed.rows[1]));
    }
}
