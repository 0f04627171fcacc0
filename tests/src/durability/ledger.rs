//! What a writer has been promised, where neither its end nor that of its disk
//! can touch it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file outside of the subject's disk with the number of the newest
/// acknowledged operation.
pub struct Ledger {
    file: File,
    acknowledged: AtomicU64,
}

impl Ledger {
    /// Begins a ledger: nothing is acknowledged beyond `from`, and nobody has
    /// started.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn create(path: &Path, from: u64) -> io::Result<Self> {
        let ledger = Self::open_file(path)?;
        ledger.file.set_len(0)?;
        ledger.file.write_all_at(&from.to_le_bytes(), 0)?;
        ledger.acknowledged.store(from, Ordering::SeqCst);
        Ok(ledger)
    }

    /// The writer's side.
    ///
    /// # Errors
    ///
    /// Fails if there is no such file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let ledger = Self::open_file(path)?;
        let from = ledger.read()?;
        ledger.acknowledged.store(from, Ordering::SeqCst);
        Ok(ledger)
    }

    fn open_file(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, acknowledged: AtomicU64::new(0) })
    }

    /// Notes that everything up to this operation is acknowledged. To be called
    /// by one thread.
    pub fn acknowledge(&self, number: u64) {
        if number > self.acknowledged.load(Ordering::SeqCst) {
            // First the file: nothing may count as promised that is not there.
            self.file.write_all_at(&number.to_le_bytes(), 0).expect("the ledger can be written");
            self.acknowledged.store(number, Ordering::SeqCst);
        }
    }

    /// Up to where this process has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Notes that the writer has begun.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn start(&self) -> io::Result<()> {
        self.file.write_all_at(&[1], 8)
    }

    /// Whether the writer has begun.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read.
    pub fn started(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() > 8)
    }

    /// Up to where the writer has acknowledged, as the file says.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read.
    pub fn read(&self) -> io::Result<u64> {
        let mut number = [0; 8];
        self.file.read_exact_at(&mut number, 0)?;
        Ok(u64::from_le_bytes(number))
    }
}
