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

use super::engine::{Engine, EngineError, EngineView, Rows, Table, WriteBatch};
use crate::planted::{self, Bug};
use bytes::{BufMut as _, Bytes, BytesMut};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

const CRC_BYTES: usize = super::engine::ROW_SPARE_BYTES;
/// The key of each table's stamp. Keys of nothing but zeros, the empty one among
/// them, are stored two zeros longer, which keeps the order and leaves this one
/// free.
const STAMP_KEY: &[u8] = &[0];
const ZEROS_ADDED: usize = 2;

/// A row's key as it is stored.
fn stored(key: Bytes) -> Bytes {
    if key.iter().any(|byte| *byte != 0) { key } else { vec![0; key.len() + ZEROS_ADDED].into() }
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

    fn commit(&self, mut batch: WriteBatch) -> Result<(), EngineError> {
        if batch.is_empty() {
            return Ok(());
        }
        // Held across the commit, so that stamps are written in their order.
        let mut stamps = self.stamps.lock().expect("no holder of this lock panics");
        let mut next = *stamps;
        let number = next[usize::from(Table::Meta.number())] + 1;
        next[usize::from(Table::Meta.number())] = number;
        for (table, key, value) in &mut batch.rows {
            *key = stored(std::mem::take(key));
            next[usize::from(table.number())] = number;
            if let Some(value) = value {
                *value = seal(*table, key, std::mem::take(value));
            }
        }
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Meta) {
            if next[usize::from(table.number())] == number {
                batch.rows.push(stamp_row(table, &number.to_le_bytes()));
            }
        }
        let all: Vec<u8> = next.iter().flat_map(|stamp| stamp.to_le_bytes()).collect();
        batch.rows.push(stamp_row(Table::Meta, &all));
        self.engine.commit(batch)?;
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

fn stamp_row(table: Table, value: &[u8]) -> (Table, Bytes, Option<Bytes>) {
    let sealed = seal(table, STAMP_KEY, Bytes::copy_from_slice(value));
    (table, Bytes::from_static(STAMP_KEY), Some(sealed))
}

fn crc(table: Table, key: &[u8], value: &[u8]) -> u32 {
    // The key's length keeps (ab, c) and (a, bc) apart.
    let length = u32::try_from(key.len()).expect("a row's key is far below 4 GiB").to_le_bytes();
    let crc = crc32c::crc32c(&[table.number(), length[0], length[1], length[2], length[3]]);
    crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value)
}

/// Appends the checksum, in place if the value has room and no other owner.
fn seal(table: Table, key: &[u8], value: Bytes) -> Bytes {
    let crc = crc(table, key, &value);
    let mut sealed = value.try_into_mut().unwrap_or_else(|shared| {
        let mut copy = BytesMut::with_capacity(shared.len() + CRC_BYTES);
        copy.put_slice(&shared);
        copy
    });
    sealed.put_u32_le(crc);
    sealed.freeze()
}

/// Verifies and takes off the checksum.
fn unseal(table: Table, key: &[u8], mut sealed: Bytes) -> Result<Bytes, EngineError> {
    let damaged = |detail: &str| EngineError::Damaged { table, detail: detail.to_owned() };
    let value_bytes =
        sealed.len().checked_sub(CRC_BYTES).ok_or_else(|| damaged("it has no checksum"))?;
    let stored = sealed.split_off(value_bytes);
    let sound = stored.as_ref() == crc(table, key, &sealed).to_le_bytes();
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
