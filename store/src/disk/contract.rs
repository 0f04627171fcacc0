//! What every state engine must do, run on each of them.

use super::{Engine, EngineKind, EngineOptions, EngineView, Table, WriteBatch, open_engine};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs a test on each engine of this build.
macro_rules! on_every_engine {
    ($($test:ident),* $(,)?) => {
        on_every_engine!(@ memory, Memory, $($test),*);
        #[cfg(feature = "fjall")]
        on_every_engine!(@ fjall, Fjall, $($test),*);
        #[cfg(feature = "sled")]
        on_every_engine!(@ sled, Sled, $($test),*);
    };
    (@ $name:ident, $kind:ident, $($test:ident),*) => {
        mod $name {
            use super::EngineKind;
            $(#[test] fn $test() { super::$test(EngineKind::$kind); })*
        }
    };
}

on_every_engine!(
    a_batch_is_written_as_a_whole,
    a_later_write_of_a_row_wins,
    tables_are_apart,
    scans_are_in_order_and_within_bounds,
    a_view_does_not_change,
    views_are_consistent_while_batches_are_committed,
    large_and_empty_values_come_back,
    odd_keys_are_keys_like_others,
    a_checkpoint_survives_a_restart,
    random_writes_and_reads_agree_with_a_map,
);

fn open(kind: EngineKind, dir: &Path) -> Arc<dyn Engine> {
    open_engine(kind, dir, &EngineOptions::default()).expect("the engine opens")
}

/// Runs a test with everything in the write buffer, and with one that is full
/// after every few batches.
fn with_engine(kind: EngineKind, test: impl Fn(&dyn Engine)) {
    for write_buffer_bytes in [EngineOptions::default().write_buffer_bytes, 1024] {
        let options = EngineOptions { write_buffer_bytes, ..EngineOptions::default() };
        let dir = tempfile::tempdir().unwrap();
        let engine = open_engine(kind, &dir.path().join("engine"), &options);
        test(engine.expect("the engine opens").as_ref());
    }
}

fn put(engine: &dyn Engine, rows: &[(Table, &str, &str)]) {
    let mut batch = WriteBatch::default();
    for (table, key, value) in rows {
        batch.put(*table, key.as_bytes(), value.as_bytes());
    }
    engine.commit(batch).unwrap();
}

fn get(view: &dyn EngineView, table: Table, key: &str) -> Option<String> {
    let value = view.get(table, key.as_bytes()).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn scan(
    view: &dyn EngineView,
    table: Table,
    bounds: (Bound<&str>, Bound<&str>),
    descending: bool,
) -> Vec<String> {
    let bound = |bound: Bound<&str>| bound.map(|key| Bytes::copy_from_slice(key.as_bytes()));
    let rows = view.scan(table, (bound(bounds.0), bound(bounds.1)), descending);
    rows.map(|row| String::from_utf8(row.unwrap().0.to_vec()).unwrap()).collect()
}

const ALL: (Bound<&str>, Bound<&str>) = (Bound::Unbounded, Bound::Unbounded);

fn a_batch_is_written_as_a_whole(kind: EngineKind) {
    with_engine(kind, |engine| {
        put(engine, &[(Table::Latest, "a", "1"), (Table::Past, "b", "2"), (Table::Meta, "c", "3")]);
        let view = engine.view().unwrap();
        assert_eq!(get(view.as_ref(), Table::Latest, "a").as_deref(), Some("1"));
        assert_eq!(get(view.as_ref(), Table::Past, "b").as_deref(), Some("2"));
        assert_eq!(get(view.as_ref(), Table::Meta, "c").as_deref(), Some("3"));
        let mut batch = WriteBatch::default();
        batch.delete(Table::Latest, "a");
        batch.delete(Table::Latest, "never there");
        batch.put(Table::Past, "b", "4");
        engine.commit(batch).unwrap();
        let view = engine.view().unwrap();
        assert_eq!(get(view.as_ref(), Table::Latest, "a"), None);
        assert_eq!(get(view.as_ref(), Table::Past, "b").as_deref(), Some("4"));
    });
}

fn a_later_write_of_a_row_wins(kind: EngineKind) {
    with_engine(kind, |engine| {
        let mut batch = WriteBatch::default();
        batch.put(Table::Latest, "a", "1");
        batch.put(Table::Latest, "a", "2");
        batch.put(Table::Latest, "b", "1");
        batch.delete(Table::Latest, "b");
        batch.delete(Table::Latest, "c");
        batch.put(Table::Latest, "c", "3");
        engine.commit(batch).unwrap();
        let view = engine.view().unwrap();
        assert_eq!(get(view.as_ref(), Table::Latest, "a").as_deref(), Some("2"));
        assert_eq!(get(view.as_ref(), Table::Latest, "b"), None);
        assert_eq!(get(view.as_ref(), Table::Latest, "c").as_deref(), Some("3"));
        assert_eq!(scan(view.as_ref(), Table::Latest, ALL, false), ["a", "c"]);
    });
}

fn tables_are_apart(kind: EngineKind) {
    with_engine(kind, |engine| {
        let rows = Table::ALL.map(|table| (table, "same", table.name()));
        put(engine, &rows);
        let view = engine.view().unwrap();
        for table in Table::ALL {
            assert_eq!(get(view.as_ref(), table, "same").as_deref(), Some(table.name()));
            assert_eq!(scan(view.as_ref(), table, ALL, false), ["same"]);
            assert_eq!(scan(view.as_ref(), table, ALL, true), ["same"]);
        }
    });
}

fn scans_are_in_order_and_within_bounds(kind: EngineKind) {
    use Bound::{Excluded, Included, Unbounded};
    with_engine(kind, |engine| {
        let rows = ["b", "a", "ab", "c", "a\0"].map(|key| (Table::Latest, key, "v"));
        put(engine, &rows);
        put(engine, &[(Table::Meta, "z", "v"), (Table::Past, "0", "v")]);
        let view = engine.view().unwrap();
        let check = |bounds, expected: &[&str]| {
            assert_eq!(scan(view.as_ref(), Table::Latest, bounds, false), expected);
            let reversed: Vec<_> = expected.iter().rev().copied().collect();
            assert_eq!(scan(view.as_ref(), Table::Latest, bounds, true), reversed);
        };
        check((Unbounded, Unbounded), &["a", "a\0", "ab", "b", "c"]);
        check((Included("a"), Excluded("b")), &["a", "a\0", "ab"]);
        check((Excluded("a"), Included("b")), &["a\0", "ab", "b"]);
        check((Included("aa"), Unbounded), &["ab", "b", "c"]);
        check((Unbounded, Excluded("a\0")), &["a"]);
        check((Included("b"), Included("b")), &["b"]);
        check((Included("b"), Excluded("b")), &[]);
        check((Excluded("b"), Excluded("b")), &[]);
        check((Included("c"), Included("a")), &[]);
        check((Included("x"), Unbounded), &[]);
        check((Included(""), Unbounded), &["a", "a\0", "ab", "b", "c"]);
    });
}

fn a_view_does_not_change(kind: EngineKind) {
    with_engine(kind, |engine| {
        put(engine, &[(Table::Latest, "a", "1"), (Table::Latest, "b", "1")]);
        let before = engine.view().unwrap();
        let mut rows = before.scan(Table::Latest, (Bound::Unbounded, Bound::Unbounded), false);
        let first = rows.next().unwrap().unwrap();
        assert_eq!(first.0, "a");
        let mut batch = WriteBatch::default();
        batch.put(Table::Latest, "a", "2");
        batch.delete(Table::Latest, "b");
        batch.put(Table::Latest, "c", "2");
        engine.commit(batch).unwrap();
        let between = engine.view().unwrap();
        put(engine, &[(Table::Latest, "a", "3"), (Table::Latest, "b", "3")]);
        assert_eq!(rows.map(|row| row.unwrap().0).collect::<Vec<_>>(), ["b"]);
        assert_eq!(get(before.as_ref(), Table::Latest, "a").as_deref(), Some("1"));
        assert_eq!(get(before.as_ref(), Table::Latest, "c"), None);
        assert_eq!(scan(before.as_ref(), Table::Latest, ALL, false), ["a", "b"]);
        assert_eq!(get(between.as_ref(), Table::Latest, "a").as_deref(), Some("2"));
        assert_eq!(scan(between.as_ref(), Table::Latest, ALL, true), ["c", "a"]);
        let after = engine.view().unwrap();
        assert_eq!(get(after.as_ref(), Table::Latest, "a").as_deref(), Some("3"));
        assert_eq!(scan(after.as_ref(), Table::Latest, ALL, false), ["a", "b", "c"]);
    });
}

/// A writer moves all rows of two tables from one number to the next; every
/// view must show one number everywhere.
fn views_are_consistent_while_batches_are_committed(kind: EngineKind) {
    const ROWS: u32 = 300;
    let write = |engine: &dyn Engine, number: u32| {
        let mut batch = WriteBatch::default();
        for row in 0..ROWS {
            let table = if row.is_multiple_of(2) { Table::Latest } else { Table::Past };
            // Some rows come and go.
            if row.is_multiple_of(7) && number.is_multiple_of(2) {
                batch.delete(table, row.to_be_bytes());
            } else {
                batch.put(table, row.to_be_bytes(), number.to_be_bytes());
            }
        }
        engine.commit(batch).unwrap();
    };
    with_engine(kind, |engine| {
        write(engine, 0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..200 {
                    write(engine, number);
                }
                stop.store(true, Ordering::Relaxed);
            });
            while !stop.load(Ordering::Relaxed) {
                let view = engine.view().unwrap();
                let mut numbers = BTreeMap::new();
                for (table, descending) in [(Table::Latest, false), (Table::Past, true)] {
                    for row in view.scan(table, (Bound::Unbounded, Bound::Unbounded), descending) {
                        *numbers.entry(row.unwrap().1).or_insert(0) += 1;
                    }
                }
                assert_eq!(numbers.len(), 1, "a view shows rows of several batches");
                let (number, count) = numbers.pop_first().unwrap();
                let is_even = number.last().unwrap().is_multiple_of(2);
                let gone = if is_even { ROWS.div_ceil(7) } else { 0 };
                assert_eq!(count, ROWS - gone, "a view lacks rows");
                let row = view.get(Table::Past, &1_u32.to_be_bytes()).unwrap();
                assert_eq!(row, Some(number), "a get disagrees with the scans");
            }
        });
    });
}

fn large_and_empty_values_come_back(kind: EngineKind) {
    let large = Bytes::from(vec![0xA5; 1536 * 1024]);
    let dir = tempfile::tempdir().unwrap();
    let engine = open(kind, dir.path());
    let mut batch = WriteBatch::default();
    batch.put(Table::Latest, "large", large.clone());
    batch.put(Table::Latest, "empty", Bytes::new());
    batch.put(Table::Past, "large", large.clone());
    batch.put(Table::Leases, vec![7; 4096], Bytes::new());
    engine.commit(batch).unwrap();
    // Shared with nobody, with room for the checksum: the way without a copy.
    let mut value = bytes::BytesMut::with_capacity(104);
    value.resize(100, 9);
    let mut batch = WriteBatch::default();
    batch.put(Table::Latest, "in place", value.freeze());
    engine.commit(batch).unwrap();
    let check = |engine: &dyn Engine| {
        let view = engine.view().unwrap();
        assert_eq!(view.get(Table::Latest, b"large").unwrap(), Some(large.clone()));
        assert_eq!(view.get(Table::Past, b"large").unwrap(), Some(large.clone()));
        assert_eq!(view.get(Table::Latest, b"empty").unwrap(), Some(Bytes::new()));
        assert_eq!(view.get(Table::Leases, &[7; 4096]).unwrap(), Some(Bytes::new()));
        assert_eq!(view.get(Table::Latest, b"in place").unwrap(), Some(vec![9; 100].into()));
    };
    check(engine.as_ref());
    engine.checkpoint().unwrap();
    if kind != EngineKind::Memory {
        drop(engine);
        check(open(kind, dir.path()).as_ref());
    }
}

fn odd_keys_are_keys_like_others(kind: EngineKind) {
    let keys = ["", "\0", "\0\0", "\0\0\0", "\0\0\u{1}", "\0\u{1}", "\0a", "\u{1}"];
    with_engine(kind, |engine| {
        let rows: Vec<_> = keys.iter().rev().map(|key| (Table::Latest, *key, *key)).collect();
        put(engine, &rows);
        let view = engine.view().unwrap();
        let view = view.as_ref();
        for key in keys {
            assert_eq!(get(view, Table::Latest, key).as_deref(), Some(key));
            assert_eq!(get(view, Table::Past, key), None);
        }
        assert_eq!(scan(view, Table::Latest, ALL, false), keys);
        for (place, key) in keys.iter().enumerate() {
            let until = (Bound::Unbounded, Bound::Excluded(*key));
            assert_eq!(scan(view, Table::Latest, until, false), keys[..place]);
            let from = (Bound::Included(*key), Bound::Unbounded);
            assert_eq!(scan(view, Table::Latest, from, false), keys[place..]);
        }
        let mut batch = WriteBatch::default();
        batch.delete(Table::Latest, "");
        batch.delete(Table::Latest, "\0");
        engine.commit(batch).unwrap();
        let view = engine.view().unwrap();
        assert_eq!(scan(view.as_ref(), Table::Latest, ALL, false), keys[2..]);
    });
}

fn a_checkpoint_survives_a_restart(kind: EngineKind) {
    if kind == EngineKind::Memory {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5_u8 {
        let engine = open(kind, dir.path());
        let view = engine.view().unwrap();
        for before in 0..round {
            assert_eq!(view.get(Table::Latest, &[1, before]).unwrap(), Some(vec![before].into()));
            assert_eq!(view.get(Table::Past, &[2, before]).unwrap(), None);
        }
        let mut batch = WriteBatch::default();
        batch.put(Table::Latest, vec![1, round], vec![round]);
        batch.put(Table::Past, vec![2, round], vec![round]);
        engine.commit(batch).unwrap();
        let mut batch = WriteBatch::default();
        batch.delete(Table::Past, vec![2, round]);
        engine.commit(batch).unwrap();
        engine.checkpoint().unwrap();
        assert!(engine.size_bytes().unwrap() > 0);
    }
}

/// What random tests do to an engine and to a map.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(usize, u8, Option<u8>)>),
    Scan(usize, Option<u8>, Option<u8>, bool),
    View,
    CloseView,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (0..2_usize, 1..12_u8, prop::option::weighted(0.7, any::<u8>()));
    let bound = || prop::option::of(0..13_u8);
    let step = prop_oneof![
        4 => prop::collection::vec(row, 1..6).prop_map(Step::Commit),
        4 => (0..2_usize, bound(), bound(), any::<bool>())
            .prop_map(|(table, from, until, descending)| Step::Scan(table, from, until, descending)),
        1 => Just(Step::View),
        1 => Just(Step::CloseView),
    ];
    prop::collection::vec(step, 1..60)
}

type Model = BTreeMap<(usize, u8), u8>;

fn random_writes_and_reads_agree_with_a_map(kind: EngineKind) {
    let cases = if kind == EngineKind::Memory { 64 } else { 12 };
    proptest!(ProptestConfig::with_cases(cases), |(steps in steps())| {
        with_engine(kind, |engine| run_steps(engine, &steps));
    });
}

fn run_steps(engine: &dyn Engine, steps: &[Step]) {
    const TABLES: [Table; 2] = [Table::Latest, Table::Past];
    let mut model = Model::new();
    let mut views = std::collections::VecDeque::new();
    for step in steps {
        match step {
            Step::Commit(rows) => {
                let mut batch = WriteBatch::default();
                for (table, key, value) in rows {
                    if let Some(value) = value {
                        batch.put(TABLES[*table], [*key], [*value]);
                        model.insert((*table, *key), *value);
                    } else {
                        batch.delete(TABLES[*table], [*key]);
                        model.remove(&(*table, *key));
                    }
                }
                engine.commit(batch).unwrap();
            }
            Step::View => views.push_back((engine.view().unwrap(), model.clone())),
            Step::CloseView => drop(views.pop_front()),
            Step::Scan(table, from, until, descending) => {
                let now = (engine.view().unwrap(), model.clone());
                for (view, model) in views.iter().chain([&now]) {
                    let bound = |key: &u8| Bytes::from(vec![*key]);
                    let bounds = (
                        from.as_ref().map_or(Bound::Unbounded, |key| Bound::Included(bound(key))),
                        until.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(bound(key))),
                    );
                    let found: Vec<(u8, u8)> = view
                        .scan(TABLES[*table], bounds, *descending)
                        .map(|row| row.map(|(key, value)| (key[0], value[0])).unwrap())
                        .collect();
                    let within = |key: u8| {
                        from.is_none_or(|from| key >= from) && until.is_none_or(|until| key < until)
                    };
                    let mut expected: Vec<(u8, u8)> = model
                        .iter()
                        .filter(|((of, key), _)| of == table && within(*key))
                        .map(|((_, key), value)| (*key, *value))
                        .collect();
                    if *descending {
                        expected.reverse();
                    }
                    assert_eq!(found, expected);
                }
            }
        }
    }
}
