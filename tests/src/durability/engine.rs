//! A state engine as a subject: an operation is an atomic batch, a checkpoint
//! acknowledges all batches before it.

use super::{Ledger, Loss, Random};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use keelstone_store::disk::{
    Engine, EngineError, EngineKind, EngineOptions, Table, WriteBatch, open_engine,
};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

/// The row with the number of the newest batch.
const COUNT: &[u8] = b"count";
const KEYS: u64 = 400;

/// A change of a row: the key, and where its value comes from, or none.
type Change = (Table, u64, Option<(u64, u64)>);

fn open(dir: &Path, kind: EngineKind, without_fsync: bool) -> Result<Arc<dyn Engine>, EngineError> {
    let options = EngineOptions {
        // Small: buffers shall be written and merged all the time.
        write_buffer_bytes: 1024 * 1024,
        sled_without_fsync: without_fsync,
        ..EngineOptions::default()
    };
    open_engine(kind, dir, &options)
}

/// What batch `number` does.
fn changes(seed: u64, number: u64) -> Vec<Change> {
    let mut random = Random::of(seed, number);
    let tables = [Table::Latest, Table::Past, Table::Changes, Table::Leases];
    (0..=random.below(5))
        .map(|at| {
            let table = tables[random.below_usize(tables.len())];
            let value = (random.below(6) > 0).then_some((number, at));
            (table, random.below(KEYS), value)
        })
        .collect()
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key-{number:04}"))
}

fn value(seed: u64, (number, at): (u64, u64)) -> Bytes {
    let mut random = Random::of(seed ^ 0xFACE, number << 3 | at);
    let bound = if random.below(50) == 0 { 20_000 } else { 800 };
    let length = random.below_usize(bound);
    Bytes::from(random.bytes(length))
}

fn batch(seed: u64, number: u64) -> WriteBatch {
    let mut batch = WriteBatch::default();
    batch.put(Table::Meta, COUNT, Bytes::copy_from_slice(&number.to_le_bytes()));
    for (table, row, from) in changes(seed, number) {
        match from {
            Some(from) => batch.put(table, key(row), value(seed, from)),
            None => batch.delete(table, key(row)),
        }
    }
    batch
}

fn count(engine: &dyn Engine) -> Result<u64, EngineError> {
    let row = engine.view()?.get(Table::Meta, COUNT)?;
    Ok(row.map_or(0, |row| row.as_ref().try_into().map_or(0, u64::from_le_bytes)))
}

pub(super) fn write(
    dir: &Path,
    kind: EngineKind,
    without_fsync: bool,
    seed: u64,
    from: u64,
    ledger: &Ledger,
) -> Result<()> {
    let engine = open(dir, kind, without_fsync)?;
    let found = count(engine.as_ref())?;
    ensure!(found == from, "found batch {found}, expected {from}");
    // What was found is not durable before a checkpoint.
    engine.checkpoint()?;
    ledger.acknowledge(from);
    ledger.start().context("start the ledger")?;
    for number in from + 1.. {
        engine.commit(batch(seed, number))?;
        if Random::of(!seed, number).below(12) == 0 {
            engine.checkpoint()?;
            ledger.acknowledge(number);
        }
    }
    Ok(())
}

pub(super) fn verify(
    dir: &Path,
    kind: EngineKind,
    without_fsync: bool,
    seed: u64,
    acknowledged: u64,
) -> Result<u64, Loss> {
    let unreadable = |error: EngineError| Loss::Unreadable(error.to_string());
    let engine = open(dir, kind, without_fsync).map_err(unreadable)?;
    let found = count(engine.as_ref()).map_err(unreadable)?;
    if found < acknowledged {
        return Err(Loss::Wrong(format!("acknowledged {acknowledged}, found {found}")));
    }
    let mut rows: BTreeMap<(Table, Bytes), (u64, u64)> = BTreeMap::new();
    for number in 1..=found {
        for (table, row, from) in changes(seed, number) {
            match from {
                Some(from) => drop(rows.insert((table, key(row)), from)),
                None => drop(rows.remove(&(table, key(row)))),
            }
        }
    }
    let view = engine.view().map_err(unreadable)?;
    for table in Table::ALL {
        let mut expected: BTreeMap<Bytes, Bytes> = rows
            .iter()
            .filter(|((of, _), _)| *of == table)
            .map(|((_, key), from)| (key.clone(), value(seed, *from)))
            .collect();
        for row in view.scan(table, (Bound::Unbounded, Bound::Unbounded), false) {
            let (key, value) = row.map_err(unreadable)?;
            let right = key == COUNT || expected.remove(&key) == Some(value);
            if table != Table::Meta && !right {
                return Err(Loss::Wrong(format!("a row of {} after {found}", table.name())));
            }
        }
        if !expected.is_empty() {
            let missing = expected.len();
            return Err(Loss::Wrong(format!("{missing} rows of {} after {found}", table.name())));
        }
    }
    Ok(found)
}
