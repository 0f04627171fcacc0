//! The layer over every state engine that notices damage.
//!
//! * Each row's value ends with a CRC32C over table, key and value, verified
//!   whenever it is read.
//! * Each table holds a stamp: the number of the last batch that wrote to it.
//!   The meta table holds the stamps of all tables. A table that has lost its
//!   newest rows, or come back as a whole from an earlier time, no longer
//!   agrees, and is refused at open. Stamps travel in the batches they count.
//!
//! It does not notice an engine that goes back as a whole to an earlier batch:
//! whether that is too early is told by the applied position and the log.

use super::batch::WriteBatch;
use super::engine::{Engine, EngineError, EngineView, Rows, Table};
use crate::planted::{self, Bug};
use bytes::{BufMut as _, Bytes};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

const CRC_BYTES: usize = 4;
/// The key of each table's stamp. Keys of nothing but zeros, the empty one among
/// them, are stored two zeros longer, which keeps the order and leaves this one
/// free.
const STAMP_KEY: &[u8] = &[0];
const ZEROS_ADDED: usize = 2;

/// What a row's key is stored behind.
fn stored_behind(key: &[u8]) -> &'static [u8] {
    if key.iter().any(|byte| *byte != 0) { &[] } else { &[0; ZEROS_ADDED] }
}

/// A row's key as it is stored.
fn stored(key: Bytes) -> Bytes {
    match stored_behind(&key) {
        [] => key,
        zeros => [zeros, &key].concat().into(),
    }
}

/// The row's key that is stored so.
fn restored(key: Bytes) -> Bytes {
    if key.iter().any(|byte| *byte != 0) { key } else { key.slice(ZEROS_ADDED..) }
}

type Stamps = [u64; Table::ALL.len()];

/// An engine whose rows carry checksums and whose tables carry stamps.
pub struct Checked {
    engine: Box<dyn Engine>,
    stamps: Mutex<Stamps>,
}

impl Checked {
    /// Puts the layer over `engine` and compares its stamps.
    ///
    /// # Errors
    ///
    /// Fails if the engine cannot be read or a table is not as new as the meta
    /// table says.
    pub fn open(engine: Box<dyn Engine>) -> Result<Self, EngineError> {
        let view = CheckedView { view: engine.view()? };
        let stamps = match view.get_stored(Table::Meta, STAMP_KEY)? {
            Some(row) => parse_stamps(&row)?,
            None => Stamps::default(),
        };
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Meta) {
            let found = match view.get_stored(table, STAMP_KEY)? {
                Some(row) => parse_number(table, &row)?,
                None => 0,
            };
            let expected = stamps[usize::from(table.number())];
            if found != expected {
                let detail = format!("it is at batch {found}, the meta table at {expected}");
                return Err(EngineError::Damaged { table, detail });
            }
        }
        Ok(Self { engine, stamps: Mutex::new(stamps) })
    }
}

fn parse_number(table: Table, row: &[u8]) -> Result<u64, EngineError> {
    let bytes = row.try_into().map_err(|_| EngineError::Damaged {
        table,
        detail: format!("its stamp has {} bytes", row.len()),
    })?;
    Ok(u64::from_le_bytes(bytes))
}

fn parse_stamps(row: &[u8]) -> Result<Stamps, EngineError> {
    let mut stamps = Stamps::default();
    if row.len() != stamps.len() * 8 {
        let detail = format!("the stamps have {} bytes", row.len());
        return Err(EngineError::Damaged { table: Table::Meta, detail });
    }
    for (stamp, bytes) in stamps.iter_mut().zip(row.chunks_exact(8)) {
        *stamp = parse_number(Table::Meta, bytes)?;
    }
    Ok(stamps)
}

impl Engine for Checked {
    fn view(&self) -> Result<Arc<dyn EngineView>, EngineError> {
        Ok(Arc::new(CheckedView { view: self.engine.view()? }))
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError> {
        if batch.is_empty() {
            return Ok(());
        }
        // Held across the commit, so that stamps are written in their order.
        let mut stamps = self.stamps.lock().expect("no holder of this lock panics");
        let mut next = *stamps;
        let number = next[usize::from(Table::Meta.number())] + 1;
        next[usize::from(Table::Meta.number())] = number;
        for row in batch.rows() {
            next[usize::from(row.table().number())] = number;
        }
        let rows = batch.len() + Table::ALL.len();
        let mut sealed = WriteBatch::with_capacity(rows, batch.bytes() + rows * SEAL_BYTES_MAX);
        let all: Vec<u8> = next.iter().flat_map(|stamp| stamp.to_le_bytes()).collect();
        put_sealed(&mut sealed, Table::Meta, STAMP, &all);
        // Stamps go before the rows of their tables: a batch that is in order
        // stays so.
        let mut stamped = Table::Meta;
        for row in batch.rows() {
            let table = row.table();
            if table != stamped && table != Table::Meta {
                put_sealed(&mut sealed, table, STAMP, &number.to_le_bytes());
                stamped = table;
            }
            let key = stored_parts(row.key());
            if let Some(value) = row.value {
                put_sealed(&mut sealed, table, key, value);
            } else {
                sealed.delete_with(table, |stored| put_key(stored, key));
            }
        }
        drop(batch);
        self.engine.commit(sealed)?;
        *stamps = next;
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        self.engine.checkpoint()
    }

    fn size_bytes(&self) -> Result<u64, EngineError> {
        self.engine.size_bytes()
    }

    fn name(&self) -> &'static str {
        self.engine.name()
    }
}

/// What a row takes besides its key and value, at most.
const SEAL_BYTES_MAX: usize = CRC_BYTES + ZEROS_ADDED + 1;

/// The key of a stamp, stored as it is.
const STAMP: Parts<'static> = [&[], STAMP_KEY];

/// A key in two parts.
type Parts<'a> = [&'a [u8]; 2];

fn stored_parts(key: &[u8]) -> Parts<'_> {
    [stored_behind(key), key]
}

fn put_sealed(sealed: &mut WriteBatch, table: Table, key: Parts<'_>, value: &[u8]) {
    let crc = crc(table, key, value);
    let put_value = |row: &mut Vec<u8>| {
        row.extend_from_slice(value);
        row.put_u32_le(crc);
    };
    sealed.put_with(table, |row| put_key(row, key), put_value);
}

fn put_key(row: &mut Vec<u8>, key: Parts<'_>) {
    for part in key {
        row.extend_from_slice(part);
    }
}

fn crc(table: Table, key: Parts<'_>, value: &[u8]) -> u32 {
    // The key's length keeps (ab, c) and (a, bc) apart.
    let length = u32::try_from(key[0].len() + key[1].len());
    let length = length.expect("a row's key is far below 4 GiB").to_le_bytes();
    let crc = crc32c::crc32c(&[table.number(), length[0], length[1], length[2], length[3]]);
    [key[0], key[1], value].iter().fold(crc, |crc, part| crc32c::crc32c_append(crc, part))
}

/// Verifies and takes off the checksum.
fn unseal(table: Table, key: &[u8], mut sealed: Bytes) -> Result<Bytes, EngineError> {
    let damaged = |detail: &str| EngineError::Damaged { table, detail: detail.to_owned() };
    let value_bytes =
        sealed.len().checked_sub(CRC_BYTES).ok_or_else(|| damaged("it has no checksum"))?;
    let stored = sealed.split_off(value_bytes);
    let sound = stored.as_ref() == crc(table, [&[], key], &sealed).to_le_bytes();
    if !sound && !planted::is(Bug::AcceptBadChecksum) {
        return Err(damaged("its checksum does not match"));
    }
    Ok(sealed)
}

struct CheckedView {
    view: Arc<dyn EngineView>,
}

impl CheckedView {
    fn get_stored(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.view.get(table, key)?.map(|sealed| unseal(table, key, sealed)).transpose()
    }
}

impl EngineView for CheckedView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match key.first() {
            Some(byte) if *byte != 0 => self.get_stored(table, key),
            _ => self.get_stored(table, &stored(Bytes::copy_from_slice(key))),
        }
    }

    fn scan(
        &self,
        table: Table,
        (from, until): (Bound<Bytes>, Bound<Bytes>),
        descending: bool,
    ) -> Rows<'_> {
        let range = (from.map(stored), until.map(stored));
        let rows = self.view.scan(table, range, descending).filter_map(move |row| match row {
            Ok((key, _)) if key.as_ref() == STAMP_KEY => None,
            Ok((key, sealed)) => {
                Some(unseal(table, &key, sealed).map(|value| (restored(key), value)))
            }
            Err(error) => Some(Err(error)),
        });
        Box::new(rows)
    }
}
