//! A disk in memory that forgets what a power cut would have lost.
//!
//! Deterministic: all chance comes from the seed. It has no clock; whoever wants
//! a slow disk waits before calling it.
//!
//! What it models, because each of these has lost somebody's data:
//! * a write is durable only after `sync_data` of its file; in a power cut each
//!   sector (512 bytes) of what was not synced keeps its old contents or gets
//!   any of those written since, independently of its neighbours;
//! * a name is durable only after `sync_dir`; in a power cut any number of the
//!   oldest unsynced changes of names have happened;
//! * a file that was never synced may be found empty;
//! * after a failed sync the cache shows what is not on the disk, and the next
//!   sync succeeds;
//! * bits rot.

use super::{SECTOR_BYTES, Storage, StorageFile, check_name};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A simulated disk with one directory. Clones share it, so a test can keep one
/// while the log works on another, and reopen it after a [`crash`](Self::crash).
#[derive(Clone)]
pub struct SimDisk {
    disk: Arc<Mutex<Disk>>,
}

/// What goes wrong at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine loses power: this operation and all after it fail until
    /// [`SimDisk::crash`].
    PowerCut,
    /// The process is killed: this operation is done in part, and all after it
    /// fail until [`SimDisk::restart`]. Of a write some first sectors are done:
    /// the kernel copies page by page, and a page is whole.
    Killed,
    /// The operation fails with EIO. A failed sync loses what it should have
    /// made durable, while it stays readable from the cache.
    Eio,
    /// The operation fails with ENOSPC and does nothing.
    Enospc,
}

struct Disk {
    random: u64,
    capacity: u64,
    files: BTreeMap<u64, Contents>,
    next_file: u64,
    /// The names as programs see them.
    names: BTreeMap<String, u64>,
    /// The names as they are on the disk, and what was not synced since.
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    /// Counts the operations that change something.
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    off: bool,
    /// Handles of another generation were opened by a process that is gone.
    generation: u64,
    syncs: u64,
}

#[derive(Clone)]
enum NameChange {
    Set(String, u64),
    Remove(String),
    Rename(String, String),
}

#[derive(Clone)]
struct Contents {
    /// Says whether a handle is open.
    handle: Arc<()>,
    /// As programs see it.
    cached: Vec<u8>,
    /// As it is on the disk.
    durable: Vec<u8>,
    /// Versions of each sector that was written and not synced, oldest first.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Whether the length is durable.
    synced_once: bool,
}

impl SimDisk {
    /// An empty disk of `capacity` bytes, whose chance is drawn from `seed`.
    pub fn new(seed: u64, capacity: u64) -> Self {
        let disk = Disk {
            random: seed,
            capacity,
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            operations: 0,
            faults: BTreeMap::new(),
            off: false,
            generation: 0,
            syncs: 0,
        };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        // The disk is consistent between calls, whoever panicked.
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many operations have changed something: creations, writes, syncs,
    /// renames, removals.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// How many times a file's contents were synced.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Lets the operation with this number (see [`operations`](Self::operations);
    /// the first is number 1) go wrong.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.lock().faults.insert(operation, fault);
    }

    /// Takes back all faults that have not happened yet.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Changes the capacity; files that are there stay.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Cuts the power and turns it on again: what was not synced is lost, in
    /// whole or in part. Handles that were open before are dead.
    pub fn crash(&self) {
        self.lock().crash();
    }

    /// Starts another process on the same machine: all that was written is still
    /// in the cache, synced or not. Handles that were open before are dead.
    pub fn restart(&self) {
        let mut disk = self.lock();
        disk.off = false;
        disk.faults.clear();
        disk.generation += 1;
    }

    /// Whether a [`Fault::PowerCut`] or [`Fault::Killed`] has happened and neither
    /// [`crash`](Self::crash) nor [`restart`](Self::restart) was called since.
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// Flips one bit of a file, on the disk and in the cache.
    ///
    /// # Errors
    ///
    /// Fails if there is no such file or byte.
    pub fn flip_bit(&self, name: &str, offset: usize, bit: u8) -> io::Result<()> {
        let mut disk = self.lock();
        let file = disk.file_of(name)?;
        for bytes in [&mut file.cached, &mut file.durable] {
            *bytes.get_mut(offset).ok_or(io::ErrorKind::UnexpectedEof)? ^= 1 << (bit & 7);
        }
        Ok(())
    }

    /// Replaces the contents of a file, on the disk and in the cache.
    ///
    /// # Errors
    ///
    /// Fails if there is no such file.
    pub fn overwrite(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        let file = disk.file_of(name)?;
        file.cached = contents.to_vec();
        file.durable = contents.to_vec();
        file.unsynced.clear();
        file.synced_once = true;
        Ok(())
    }

    /// What programs would read of a file.
    ///
    /// # Errors
    ///
    /// Fails if there is no such file.
    pub fn contents(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.lock().file_of(name)?.cached.clone())
    }

    /// An independent disk with the same durable and cached state, no faults,
    /// and another seed: to try several ends of one story.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let disk = self.lock();
        let copy = Self::new(seed, disk.capacity);
        {
            let mut into = copy.lock();
            into.files.clone_from(&disk.files);
            into.next_file = disk.next_file;
            into.names.clone_from(&disk.names);
            into.durable_names.clone_from(&disk.durable_names);
            into.unsynced_names.clone_from(&disk.unsynced_names);
        }
        copy
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Set(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

impl Disk {
    /// A number below `bound`, by splitmix64.
    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        usize::try_from(z % bound as u64).expect("below a usize")
    }

    fn file_of(&mut self, name: &str) -> io::Result<&mut Contents> {
        let id = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.files.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Counts an operation and tells what goes wrong with it.
    fn operation(&mut self) -> io::Result<Option<Fault>> {
        self.power()?;
        self.operations += 1;
        let fault = self.faults.remove(&self.operations);
        match fault {
            Some(Fault::PowerCut | Fault::Killed) => self.off = true,
            Some(Fault::Enospc) => return Err(enospc()),
            Some(Fault::Eio) | None => {}
        }
        Ok(fault)
    }

    /// As [`operation`](Self::operation), for those that simply fail or happen.
    fn plain_operation(&mut self) -> io::Result<()> {
        match self.operation()? {
            None => Ok(()),
            Some(Fault::PowerCut | Fault::Killed) => Err(power_is_off()),
            Some(_) => Err(eio()),
        }
    }

    fn power(&self) -> io::Result<()> {
        if self.off { Err(power_is_off()) } else { Ok(()) }
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn allocated(&self) -> u64 {
        self.names.values().filter_map(|id| self.files.get(id)).map(|f| f.cached.len() as u64).sum()
    }

    /// Frees files that have neither a name nor a handle.
    fn forget_unreachable(&mut self) {
        let names = &self.names;
        self.files.retain(|id, file| {
            names.values().any(|named| named == id) || Arc::strong_count(&file.handle) > 1
        });
    }

    fn handle(&self, id: u64, disk: &SimDisk) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.files.get(&id).ok_or(io::ErrorKind::NotFound)?;
        let handle = Arc::clone(&file.handle);
        Ok(Arc::new(SimFile {
            disk: disk.clone(),
            id,
            generation: self.generation,
            _handle: handle,
        }))
    }

    fn write(&mut self, id: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        let fault = self.operation()?;
        if fault == Some(Fault::Eio) {
            return Err(eio());
        }
        let length = match fault {
            Some(Fault::Killed) => {
                let within = usize::try_from(offset).map_err(io::Error::other)? % SECTOR_BYTES;
                let sectors = (within + bytes.len()).div_ceil(SECTOR_BYTES);
                (self.below(sectors + 1) * SECTOR_BYTES).saturating_sub(within).min(bytes.len())
            }
            _ => bytes.len(),
        };
        let file = self.files.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        file.write(&bytes[..length], offset)?;
        if fault.is_some() { Err(power_is_off()) } else { Ok(()) }
    }

    fn sync(&mut self, id: u64) -> io::Result<()> {
        self.syncs += 1;
        let fault = self.operation()?;
        if matches!(fault, Some(Fault::PowerCut | Fault::Killed)) {
            return Err(power_is_off());
        }
        let file = self.files.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        if fault == Some(Fault::Eio) {
            // The kernel marks the pages clean all the same.
            file.unsynced.clear();
            return Err(eio());
        }
        file.sync();
        Ok(())
    }

    fn crash(&mut self) {
        self.off = false;
        self.faults.clear();
        self.generation += 1;
        let happened = self.below(self.unsynced_names.len() + 1);
        let changes = std::mem::take(&mut self.unsynced_names);
        for change in &changes[..happened] {
            change.apply(&mut self.durable_names);
        }
        self.names = self.durable_names.clone();
        let mut files = std::mem::take(&mut self.files);
        files.retain(|id, _| self.durable_names.values().any(|named| named == id));
        for file in files.values_mut() {
            file.crash(|bound| self.below(bound));
        }
        self.files = files;
    }
}

impl Contents {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + bytes.len();
        if end > self.cached.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "write past the end"));
        }
        self.cached[start..end].copy_from_slice(bytes);
        for sector in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let version = sector_of(&self.cached, sector).to_vec();
            self.unsynced.entry(sector).or_default().push(version);
        }
        Ok(())
    }

    fn sync(&mut self) {
        self.synced_once = true;
        self.durable.resize(self.cached.len(), 0);
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            let newest = versions.last().expect("a written sector has a version");
            sector_of_mut(&mut self.durable, sector).copy_from_slice(newest);
        }
    }

    fn drop_cache(&mut self) {
        let mut fresh = self.durable.clone();
        fresh.resize(self.cached.len(), 0);
        for (sector, versions) in &self.unsynced {
            let newest = versions.last().expect("a written sector has a version");
            sector_of_mut(&mut fresh, *sector).copy_from_slice(newest);
        }
        self.cached = fresh;
    }

    fn crash(&mut self, mut below: impl FnMut(usize) -> usize) {
        let unsynced = std::mem::take(&mut self.unsynced);
        if !self.synced_once {
            let length = if below(2) == 0 { 0 } else { self.cached.len() };
            self.durable = vec![0; length];
        }
        if !self.durable.is_empty() {
            for (sector, versions) in unsynced {
                // One more choice than there are versions: the old contents.
                if let Some(version) = versions.get(below(versions.len() + 1)) {
                    sector_of_mut(&mut self.durable, sector).copy_from_slice(version);
                }
            }
        }
        self.cached = self.durable.clone();
    }
}

fn sector_of(bytes: &[u8], sector: usize) -> &[u8] {
    let start = sector * SECTOR_BYTES;
    &bytes[start..bytes.len().min(start + SECTOR_BYTES)]
}

fn sector_of_mut(bytes: &mut [u8], sector: usize) -> &mut [u8] {
    let start = sector * SECTOR_BYTES;
    let end = bytes.len().min(start + SECTOR_BYTES);
    &mut bytes[start..end]
}

fn power_is_off() -> io::Error {
    io::Error::other("the simulated process or machine is no more")
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

fn enospc() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())
}

impl Storage for SimDisk {
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        check_name(name)?;
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let mut disk = self.lock();
        disk.plain_operation()?;
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if disk.allocated() + bytes > disk.capacity {
            return Err(enospc());
        }
        let id = disk.next_file;
        disk.next_file += 1;
        let contents = Contents {
            handle: Arc::default(),
            cached: vec![0; length],
            durable: Vec::new(),
            unsynced: BTreeMap::new(),
            synced_once: false,
        };
        disk.files.insert(id, contents);
        disk.change_name(NameChange::Set(name.to_owned(), id));
        disk.handle(id, self)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let disk = self.lock();
        disk.power()?;
        let id = *disk.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        disk.handle(id, self)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.lock();
        disk.plain_operation()?;
        if !disk.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change_name(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(to)?;
        let mut disk = self.lock();
        disk.plain_operation()?;
        disk.file_of(from)?;
        disk.change_name(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let disk = self.lock();
        disk.power()?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.lock();
        disk.plain_operation()?;
        disk.unsynced_names.clear();
        disk.durable_names = disk.names.clone();
        disk.forget_unreachable();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = self.lock();
        disk.power()?;
        Ok(disk.capacity.saturating_sub(disk.allocated()))
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
    generation: u64,
    _handle: Arc<()>,
}

impl SimFile {
    fn lock(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk.lock();
        disk.power()?;
        if disk.generation != self.generation {
            return Err(io::Error::other("this handle died with its process"));
        }
        Ok(disk)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Contents) -> T) -> io::Result<T> {
        let mut disk = self.lock()?;
        disk.files.get_mut(&self.id).map(f).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl StorageFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|file| file.cached.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|file| {
            let found =
                file.cached.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(found);
            Ok(())
        })?
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.lock()?.write(self.id, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.lock()?.sync(self.id)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.with(Contents::drop_cache)
    }
}
