//! What engines make of damaged files: whatever they answer must be true.
//!
//! An engine may refuse to open, refuse to read, or go back to an earlier batch
//! (the journal's end is missing). It must not show what was never committed.

use super::{Checked, Engine, EngineError, EngineKind, EngineOptions, EngineView, MemoryEngine};
use super::{Table, WriteBatch, open_engine};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[test]
fn a_changed_row_is_noticed() {
    let memory = MemoryEngine::default();
    let engine = Checked::open(Box::new(memory.clone())).unwrap();
    let mut batch = WriteBatch::default();
    batch.put(Table::Latest, "key", "value");
    batch.put(Table::Latest, "other", "value");
    batch.put(Table::Past, "key", "value");
    engine.commit(batch).unwrap();
    let below = memory.view().unwrap();
    let row = below.get(Table::Latest, b"key").unwrap().unwrap();
    // Each bit, a cut, and rows in each other's places: the checksum covers
    // table and key too.
    for bit in 0..row.len() * 8 {
        let mut changed = row.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_damaged(&memory, &engine, changed.into());
    }
    for length in 0..row.len() {
        assert_damaged(&memory, &engine, row.slice(..length));
    }
    assert_damaged(&memory, &engine, below.get(Table::Latest, b"other").unwrap().unwrap());
    assert_damaged(&memory, &engine, below.get(Table::Past, b"key").unwrap().unwrap());
    replace(&memory, row);
    assert_eq!(engine.view().unwrap().get(Table::Latest, b"key").unwrap().unwrap(), "value");
}

fn replace(memory: &MemoryEngine, row: Bytes) {
    let mut batch = WriteBatch::default();
    batch.put(Table::Latest, "key", row);
    memory.commit(batch).unwrap();
}

fn assert_damaged(memory: &MemoryEngine, engine: &Checked, row: Bytes) {
    replace(memory, row);
    let view = engine.view().unwrap();
    let is_damaged = |error| matches!(error, EngineError::Damaged { table: Table::Latest, .. });
    assert!(view.get(Table::Latest, b"key").is_err_and(is_damaged));
    let mut rows = view.scan(Table::Latest, (Bound::Unbounded, Bound::Unbounded), false);
    assert!(rows.any(|row| row.is_err_and(is_damaged)));
}

#[test]
fn a_table_that_lost_its_newest_rows_is_noticed() {
    let memory = MemoryEngine::default();
    let engine = Checked::open(Box::new(memory.clone())).unwrap();
    let put = |table| {
        let mut batch = WriteBatch::default();
        batch.put(table, "key", "value");
        engine.commit(batch).unwrap();
    };
    put(Table::Latest);
    put(Table::Past);
    let before = memory.view().unwrap();
    put(Table::Latest);
    put(Table::Past);
    assert!(Checked::open(Box::new(memory.clone())).is_ok());
    // `Past` comes back as it was two batches ago.
    let mut batch = WriteBatch::default();
    for row in before.scan(Table::Past, (Bound::Unbounded, Bound::Unbounded), false) {
        let (key, value) = row.unwrap();
        batch.put(Table::Past, key, value);
    }
    memory.commit(batch).unwrap();
    let error = Checked::open(Box::new(memory)).err().unwrap();
    assert!(matches!(error, EngineError::Damaged { table: Table::Past, .. }), "{error}");
}

/// All rows of two tables after some batch.
type Rows = BTreeMap<(Table, Bytes), Bytes>;

const NUMBER: &[u8] = b"number";

/// The batches that the tests below write: small and large, overwrites and
/// deletions, over three tables.
fn batch(number: u32) -> WriteBatch {
    let mut batch = WriteBatch::default();
    let fill = |bytes: usize| Bytes::from(vec![number.to_le_bytes()[0]; bytes]);
    batch.put(Table::Meta, NUMBER, number.to_be_bytes());
    batch.put(Table::Latest, (number % 13).to_be_bytes(), fill(200));
    let bytes = if number.is_multiple_of(5) { 20_000 } else { 300 };
    batch.put(Table::Past, number.to_be_bytes(), fill(bytes));
    if number > 20 {
        batch.delete(Table::Past, (number - 20).to_be_bytes());
    }
    batch
}

/// The rows after each batch, from none on.
fn history(batches: u32) -> Vec<Rows> {
    let mut rows = Rows::new();
    let mut history = vec![rows.clone()];
    for number in 1..=batches {
        for row in batch(number).rows() {
            let place = (row.table(), Bytes::copy_from_slice(row.key()));
            match row.value {
                Some(value) => rows.insert(place, Bytes::copy_from_slice(value)),
                None => rows.remove(&place),
            };
        }
        history.push(rows.clone());
    }
    history
}

fn read_all(view: &dyn EngineView) -> Result<Rows, EngineError> {
    let mut rows = Rows::new();
    for table in Table::ALL {
        for row in view.scan(table, (Bound::Unbounded, Bound::Unbounded), false) {
            let (key, value) = row?;
            rows.insert((table, key), value);
        }
    }
    Ok(rows)
}

/// Opens what is left and returns the number of the batch it is at, or none if
/// the damage was noticed.
fn open_damaged(kind: EngineKind, dir: &Path, history: &[Rows]) -> Option<usize> {
    let read = || {
        let engine = open_engine(kind, dir, &options())?;
        let view = engine.view()?;
        let rows = read_all(view.as_ref())?;
        for ((table, key), value) in &rows {
            if view.get(*table, key)?.as_ref() != Some(value) {
                return Ok(Err("a get and a scan disagree"));
            }
        }
        Ok(Ok(rows))
    };
    // sled panics on some damage; a node that panics stops, which is right.
    let rows = match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(rows)) => rows.unwrap(),
        Ok(Err::<_, EngineError>(error)) => {
            println!("{kind}: noticed: {error}");
            return None;
        }
        Err(_) => return None,
    };
    let number = rows.get(&(Table::Meta, Bytes::from_static(NUMBER)));
    let number = number.map_or(0, |number| u32::from_be_bytes(number.as_ref().try_into().unwrap()));
    let number = number as usize;
    assert_eq!(rows, history[number], "what is shown was never committed");
    Some(number)
}

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
    files.sort();
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            copy_content(&entry.path(), &target);
        }
    }
}

/// Copies a file; a journal without the preallocated zeros at its end, for speed.
fn copy_content(from: &Path, to: &Path) {
    const BLOCK: usize = 8 * 1024;
    let mut bytes = fs::read(from).unwrap();
    if from.extension().is_some_and(|extension| extension == "jnl") {
        while bytes.len() > BLOCK && bytes[bytes.len() - BLOCK..] == [0; BLOCK] {
            bytes.truncate(bytes.len() - BLOCK);
        }
    }
    fs::write(to, bytes).unwrap();
}

const BATCHES: u32 = 120;

/// Small write buffers, so that there are several files, and blobs.
fn options() -> EngineOptions {
    EngineOptions { write_buffer_bytes: 64 * 1024, ..EngineOptions::default() }
}

/// An engine's files after some batches, the last ones not checkpointed.
fn write_engine(kind: EngineKind, dir: &Path) {
    let engine = open_engine(kind, dir, &options()).unwrap();
    for number in 1..=BATCHES {
        engine.commit(batch(number)).unwrap();
        if number == BATCHES / 2 {
            engine.checkpoint().unwrap();
        }
    }
}

/// A cheap sequence of numbers: the same places in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

fn flip_bits(kind: EngineKind, trials: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (intact, damaged) = (dir.path().join("intact"), dir.path().join("damaged"));
    write_engine(kind, &intact);
    let history = history(BATCHES);
    let number = open_damaged(kind, &intact, &history).expect("nothing is damaged");
    assert!(number >= BATCHES as usize / 2, "batch {number} is before the checkpoint");
    let mut noticed = 0;
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for trial in 0..trials {
        copy_tree(&intact, &damaged);
        let mut files = Vec::new();
        files_below(&damaged, &mut files);
        files.retain(|file| fs::metadata(file).unwrap().len() > 0);
        // Half of the trials in files that hold rows, the rest anywhere.
        let large = |file: &PathBuf| fs::metadata(file).unwrap().len() > 16 * 1024;
        if trial % 2 == 0 {
            files.retain(large);
        }
        let file = &files[random.below(files.len())];
        let mut bytes = fs::read(file).unwrap();
        let (place, bit) = (random.below(bytes.len()), random.below(8));
        bytes[place] ^= 1 << bit;
        fs::write(file, bytes).unwrap();
        println!("{kind}: bit {bit} of byte {place} of {}", file.display());
        match open_damaged(kind, &damaged, &history) {
            None => noticed += 1,
            // Not more than the journal's end may be lost without a word.
            Some(number) => println!("{kind}: opened at batch {number}"),
        }
        fs::remove_dir_all(&damaged).unwrap();
    }
    println!("{kind}: {noticed} of {trials} noticed");
}

#[cfg(feature = "fjall")]
#[test]
fn fjall_never_shows_what_was_not_committed() {
    flip_bits(EngineKind::Fjall, 60);
}

#[cfg(feature = "sled")]
#[test]
fn sled_never_shows_what_was_not_committed() {
    flip_bits(EngineKind::Sled, 30);
}
