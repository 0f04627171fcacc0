//! A look at fjall's journals before fjall reads them.
//!
//! fjall drops a last batch that was not written whole, but refuses to open
//! when a batch is whole in length and wrong in content. A power cut leaves
//! exactly that at times: of what was written after the last sync, some pages
//! reach the disk and others do not. Such a tail is worth nothing, since the
//! log still has it, so it is cut off and the state comes back as it was a few
//! batches earlier. If what was cut had been synced, the applied position or
//! the tables' stamps tell.
//!
//! The checksum of a batch does not cover its number. A batch with a wrong
//! number would hide newer rows, so the numbers are checked to rise.
//!
//! This knows the journal of exactly the version of fjall that `Cargo.toml`
//! pins: batches of `1 count:u32 number:u64`, items, and `3 checksum:u64 FJL\3`,
//! all little-endian.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: [u8; 4] = [b'F', b'J', b'L', 3];
/// An item's tag, type, compression, keyspace, and three lengths.
const ITEM_HEADER_BYTES: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;

/// What a look at the journals has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Journals {
    /// Nothing but whole batches, with rising numbers.
    Whole,
    /// The newest journal has something behind its last whole batch.
    Torn {
        /// Where that batch ends.
        at: u64,
    },
    /// What was synced is not as it was written.
    Damaged(&'static str),
}

/// Looks at the journals of the engine in `dir`.
pub(super) fn inspect(dir: &Path) -> io::Result<Journals> {
    let mut newest = 0;
    let mut found = Journals::Whole;
    for journal in journals(dir)? {
        match found {
            Journals::Whole => found = read_journal(&journal, &mut newest)?,
            // A journal is synced before the next one is begun.
            Journals::Torn { .. } => return Ok(Journals::Damaged("an older journal is torn")),
            Journals::Damaged(_) => break,
        }
    }
    Ok(found)
}

/// Writes what the newest journal holds to the disk, beside those who append to
/// it: fjall's own sync, which makes them wait, then finds little left to do.
pub(super) fn presync(dir: &Path) -> io::Result<()> {
    let Some(newest) = journals(dir)?.pop() else { return Ok(()) };
    match File::open(newest) {
        Ok(file) => file.sync_data(),
        // fjall has removed it meanwhile: its rows are durable in tables.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Cuts the newest journal at `at`.
pub(super) fn cut(dir: &Path, at: u64) -> io::Result<()> {
    let Some(newest) = journals(dir)?.pop() else { return Ok(()) };
    let file = File::options().write(true).open(newest)?;
    file.set_len(at)?;
    file.sync_all()
}

/// The journals, oldest first.
fn journals(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut journals = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.extension().is_some_and(|extension| extension == "jnl");
        let number = number.then(|| path.file_stem()?.to_str()?.parse::<u64>().ok()).flatten();
        journals.extend(number.map(|number| (number, path)));
    }
    journals.sort();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

fn read_journal(path: &Path, newest: &mut u64) -> io::Result<Journals> {
    let mut reader = Reader { file: BufReader::new(File::open(path)?), at: 0 };
    loop {
        let at = reader.at;
        let batch = match reader.tag()? {
            None => return Ok(Journals::Whole),
            // What the journal was preallocated with.
            Some(0) if reader.is_zero_to_the_end()? => return Ok(Journals::Whole),
            Some(START) => reader.batch(),
            Some(_) => Ok(None),
        };
        match batch {
            Ok(Some(number)) if number > *newest => *newest = number,
            Ok(Some(_)) => return Ok(Journals::Damaged("a batch has the wrong number")),
            Ok(None) => return Ok(Journals::Torn { at }),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Ok(Journals::Torn { at });
            }
            Err(error) => return Err(error),
        }
    }
}

struct Reader {
    file: BufReader<File>,
    at: u64,
}

impl Reader {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// The next byte; none at the end of the file.
    fn tag(&mut self) -> io::Result<Option<u8>> {
        match self.take::<1>() {
            Ok([tag]) => Ok(Some(tag)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of the batch behind its first tag; none if it is not whole.
    fn batch(&mut self) -> io::Result<Option<u64>> {
        let count = u32::from_le_bytes(self.take()?);
        // fjall numbers from 0 on; shifted, so that 0 is before the first.
        let number = u64::from_le_bytes(self.take()?).saturating_add(1);
        let mut checksum = Xxh3::new();
        for _ in 0..count {
            if !self.item(&mut checksum)? {
                return Ok(None);
            }
        }
        let is_end = self.take()? == [END]
            && u64::from_le_bytes(self.take()?) == checksum.digest()
            && self.take()? == MAGIC;
        Ok(is_end.then_some(number))
    }

    fn item(&mut self, checksum: &mut Xxh3) -> io::Result<bool> {
        let [tag] = self.take()?;
        checksum.update(&[tag]);
        if tag == CLEAR {
            checksum.update(&self.take::<8>()?);
            return Ok(true);
        }
        if tag != ITEM {
            return Ok(false);
        }
        let header: [u8; ITEM_HEADER_BYTES - 1] = self.take()?;
        checksum.update(&header);
        let key_bytes = u16::from_le_bytes([header[10], header[11]]);
        let value_bytes = u32::from_le_bytes(header[16..].try_into().expect("4 bytes"));
        self.body(u64::from(key_bytes) + u64::from(value_bytes), checksum)?;
        Ok(true)
    }

    fn body(&mut self, bytes: u64, checksum: &mut Xxh3) -> io::Result<()> {
        let mut buffer = [0; 8192];
        let mut left = bytes;
        while left > 0 {
            let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.file.read_exact(&mut buffer[..part])?;
            checksum.update(&buffer[..part]);
            left -= part as u64;
        }
        self.at += bytes;
        Ok(())
    }

    fn is_zero_to_the_end(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 8192];
        loop {
            let read = self.file.read(&mut buffer)?;
            if read == 0 {
                return Ok(true);
            }
            if buffer[..read] != [0; 8192][..read] {
                return Ok(false);
            }
        }
    }
}
