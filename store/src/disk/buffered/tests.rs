//! What the buffer promises, over engines that wait, fail and panic.

use super::*;
use crate::disk::MemoryEngine;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::mpsc;

const ALL: (Bound<Bytes>, Bound<Bytes>) = (Bound::Unbounded, Bound::Unbounded);

/// An engine in memory whose commits wait for a word each, fail at "no", and
/// panic when there are no more words to come.
struct Gated {
    memory: MemoryEngine,
    words: Mutex<mpsc::Receiver<bool>>,
}

impl Engine for Gated {
    fn view(&self) -> Result<Arc<dyn EngineView>, EngineError> {
        self.memory.view()
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let word = self.words.lock().unwrap().recv();
        if !word.expect("a word") {
            return Err(EngineError::Engine("the disk is gone".to_owned()));
        }
        self.memory.commit(batch)
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        self.memory.checkpoint()
    }

    fn size_bytes(&self) -> Result<u64, EngineError> {
        self.memory.size_bytes()
    }

    fn name(&self) -> &'static str {
        "gated"
    }
}

fn gated(buffer_bytes: usize) -> (Buffered, MemoryEngine, mpsc::SyncSender<bool>) {
    let (say, words) = mpsc::sync_channel(1024);
    let memory = MemoryEngine::default();
    let engine = Gated { memory: memory.clone(), words: Mutex::new(words) };
    (Buffered::new(Box::new(engine), buffer_bytes, Flushing::Beside).unwrap(), memory, say)
}

fn batch(number: u64, bytes: usize) -> WriteBatch {
    let mut batch = WriteBatch::default();
    batch.put(Table::Meta, "number", number.to_be_bytes());
    batch.put(Table::Latest, number.to_be_bytes(), vec![7; bytes]);
    batch
}

fn number_in(view: &dyn EngineView) -> Option<u64> {
    let row = view.get(Table::Meta, b"number").unwrap()?;
    Some(u64::from_be_bytes(row.as_ref().try_into().unwrap()))
}

#[test]
fn commits_wait_only_for_a_disk_that_is_two_buffers_behind() {
    let (buffered, memory, say) = gated(8 * 1024);
    let mut number = 0;
    // Twice: the thread may take what is there after it was looked at, once.
    for _ in 0..2 {
        while !buffered.is_behind() {
            number += 1;
            buffered.commit(batch(number, 1000)).unwrap();
            assert_eq!(number_in(buffered.view().unwrap().as_ref()), Some(number));
            assert!(number < 1000, "memory is not bounded");
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(buffered.is_behind());
    assert_eq!(number_in(memory.view().unwrap().as_ref()), None, "the disk has nothing yet");
    while !buffered.shared.is_full(&buffered.shared.lock()) {
        number += 1;
        buffered.commit(batch(number, 1000)).unwrap();
    }
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| buffered.commit(batch(number + 1, 1000)));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiting.is_finished(), "a commit goes on beyond the bound");
        for _ in 0..100 {
            say.send(true).unwrap();
        }
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(number_in(buffered.view().unwrap().as_ref()), Some(number + 1));
    buffered.checkpoint().unwrap();
    assert_eq!(number_in(memory.view().unwrap().as_ref()), Some(number + 1));
}

#[test]
fn a_failed_disk_fails_all_that_follows() {
    let (buffered, memory, say) = gated(1 << 20);
    buffered.commit(batch(1, 10)).unwrap();
    say.send(false).unwrap();
    let is_told = |error: &EngineError| error.to_string().contains("the disk is gone");
    assert!(buffered.checkpoint().is_err_and(|error| is_told(&error)));
    assert!(buffered.commit(batch(2, 10)).is_err_and(|error| is_told(&error)));
    assert!(buffered.checkpoint().is_err_and(|error| is_told(&error)));
    assert!(buffered.view().is_err_and(|error| is_told(&error)));
    drop(buffered);
    assert_eq!(number_in(memory.view().unwrap().as_ref()), None);
}

#[test]
fn a_panic_below_fails_those_who_wait() {
    let (buffered, _memory, say) = gated(1 << 20);
    buffered.commit(batch(1, 10)).unwrap();
    drop(say);
    let is_told = |error: &EngineError| error.to_string().contains("panicked");
    assert!(buffered.checkpoint().is_err_and(|error| is_told(&error)));
    assert!(buffered.commit(batch(2, 10)).is_err_and(|error| is_told(&error)));
}

#[test]
fn what_no_checkpoint_saw_is_gone_at_the_end() {
    let (buffered, memory, say) = gated(1 << 20);
    buffered.commit(batch(1, 10)).unwrap();
    say.send(true).unwrap();
    buffered.checkpoint().unwrap();
    buffered.commit(batch(2, 10)).unwrap();
    drop(buffered);
    assert_eq!(number_in(memory.view().unwrap().as_ref()), Some(1));
}

#[test]
fn there_are_few_runs() {
    let engine = Box::new(MemoryEngine::default());
    let buffered = Buffered::new(engine, usize::MAX / 4, Flushing::Within).unwrap();
    for number in 1_u64..=4096 {
        let mut batch = WriteBatch::default();
        batch.put(Table::Latest, number.to_be_bytes(), "v");
        buffered.commit(batch).unwrap();
    }
    let layers = buffered.shared.lock();
    assert!(layers.bytes() < 4096 * 100, "{}", layers.bytes());
    let lengths: Vec<usize> = layers.runs.iter().map(|run| run.len()).collect();
    assert_eq!(lengths.iter().sum::<usize>(), 4096);
    assert!(lengths.windows(2).all(|pair| pair[0] >= 2 * pair[1]), "{lengths:?}");
}

#[test]
fn what_is_overwritten_does_not_stay_in_memory() {
    let engine = Box::new(MemoryEngine::default());
    let buffered = Buffered::new(engine, 1 << 20, Flushing::Within).unwrap();
    for number in 0..10_000_u64 {
        let mut batch = WriteBatch::default();
        batch.put(Table::Latest, "key", vec![7; 1000]);
        batch.put(Table::Past, (number % 8).to_be_bytes(), vec![7; 1000]);
        buffered.commit(batch).unwrap();
        let bytes = buffered.shared.lock().bytes();
        assert!(bytes < 60_000, "{bytes} bytes of 9 rows");
    }
}

/// Rows of two tables, as a batch leaves them.
type Model = BTreeMap<(Table, u8), u8>;

fn batches() -> impl Strategy<Value = Vec<Vec<(bool, u8, Option<u8>)>>> {
    let row = (any::<bool>(), 0..16_u8, prop::option::weighted(0.7, any::<u8>()));
    prop::collection::vec(prop::collection::vec(row, 1..8), 1..80)
}

proptest! {
    /// Whatever moment the engine is looked at, it is that after some batch, and
    /// never an earlier one than before.
    #[test]
    fn the_engine_has_a_prefix_of_the_batches(
        batches in batches(),
        buffer_bytes in 200..4000_usize,
    ) {
        let memory = MemoryEngine::default();
        let engine = Box::new(memory.clone());
        let buffered = Buffered::new(engine, buffer_bytes, Flushing::Within).unwrap();
        let (mut model, mut history) = (Model::new(), vec![Model::new()]);
        let mut at = 0;
        for rows in &batches {
            let mut batch = WriteBatch::default();
            for (past, key, value) in rows {
                let table = if *past { Table::Past } else { Table::Latest };
                if let Some(value) = value {
                    batch.put(table, [*key], [*value]);
                    model.insert((table, *key), *value);
                } else {
                    batch.delete(table, [*key]);
                    model.remove(&(table, *key));
                }
            }
            buffered.commit(batch).unwrap();
            history.push(model.clone());
            prop_assert_eq!(read(buffered.view().unwrap().as_ref()), model.clone());
            let below = read(memory.view().unwrap().as_ref());
            let found = history.iter().skip(at).position(|then| *then == below);
            prop_assert!(found.is_some(), "the engine shows what never was, or went back");
            at += found.unwrap_or_default();
        }
        buffered.checkpoint().unwrap();
        prop_assert_eq!(read(memory.view().unwrap().as_ref()), model);
    }
}

fn read(view: &dyn EngineView) -> Model {
    let mut rows = Model::new();
    for table in [Table::Latest, Table::Past] {
        for row in view.scan(table, ALL, false) {
            let (key, value) = row.unwrap();
            rows.insert((table, key[0]), value[0]);
        }
    }
    rows
}
