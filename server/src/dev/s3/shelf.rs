//! Where the development server keeps its objects: a map in memory, and a
//! directory behind it if there is one.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::sync::Mutex;

/// Bytes of all objects together.
const TOTAL_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// An object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) md5: String,
    pub(super) modified: SystemTime,
}

impl Object {
    fn new(bytes: Bytes, modified: SystemTime) -> Self {
        use s3s::crypto::Checksum as _;
        use std::fmt::Write as _;
        let mut md5 = String::with_capacity(32);
        for byte in s3s::crypto::Md5::checksum(&bytes).as_ref() {
            let written = write!(md5, "{byte:02x}");
            written.expect("writing to a string cannot fail");
        }
        Self { bytes, md5, modified }
    }
}

/// Why an object was not written.
#[derive(Debug)]
pub(super) enum NotWritten {
    NoBucket,
    Exists,
    Full,
    Io(io::Error),
}

type Objects = BTreeMap<String, Object>;

/// All buckets and their objects.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: Option<PathBuf>,
    buckets: Mutex<BTreeMap<String, Objects>>,
}

impl Shelf {
    pub(super) fn in_memory() -> Self {
        Self { dir: None, buckets: Mutex::default() }
    }

    /// Reads all objects below `dir`.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let mut buckets = BTreeMap::new();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().filter(|_| entry.path().is_dir()) {
                buckets.insert(name.to_owned(), read_objects(&entry.path())?);
            }
        }
        Ok(Self { dir: Some(dir), buckets: Mutex::new(buckets) })
    }

    pub(super) async fn create_bucket(&self, name: &str) -> io::Result<()> {
        let mut buckets = self.buckets.lock().await;
        if let Some(dir) = &self.dir {
            tokio::fs::create_dir_all(dir.join(name)).await?;
        }
        buckets.entry(name.to_owned()).or_default();
        Ok(())
    }

    pub(super) async fn bucket_names(&self) -> Vec<String> {
        self.buckets.lock().await.keys().cloned().collect()
    }

    pub(super) async fn has_bucket(&self, name: &str) -> bool {
        self.buckets.lock().await.contains_key(name)
    }

    /// Writes an object; looking whether it is there and writing are one step.
    pub(super) async fn put(
        &self,
        bucket: &str,
        key: &str,
        bytes: Bytes,
        if_absent: bool,
    ) -> Result<Object, NotWritten> {
        let mut buckets = self.buckets.lock().await;
        let total: u64 = buckets.values().flat_map(BTreeMap::values).map(size).sum();
        let objects = buckets.get_mut(bucket).ok_or(NotWritten::NoBucket)?;
        if if_absent && objects.contains_key(key) {
            return Err(NotWritten::Exists);
        }
        if total + bytes.len() as u64 > TOTAL_BYTES_MAX {
            return Err(NotWritten::Full);
        }
        if let Some(dir) = &self.dir {
            write_file(&dir.join(bucket), key, &bytes).await.map_err(NotWritten::Io)?;
        }
        let object = Object::new(bytes, SystemTime::now());
        objects.insert(key.to_owned(), object.clone());
        Ok(object)
    }

    pub(super) async fn get(&self, bucket: &str, key: &str) -> Option<Object> {
        self.buckets.lock().await.get(bucket)?.get(key).cloned()
    }

    pub(super) async fn delete(&self, bucket: &str, key: &str) -> io::Result<()> {
        let mut buckets = self.buckets.lock().await;
        let Some(objects) = buckets.get_mut(bucket) else { return Ok(()) };
        match (objects.remove(key), &self.dir) {
            (Some(_), Some(dir)) => {
                tokio::fs::remove_file(dir.join(bucket).join(file_name(key))).await
            }
            _ => Ok(()),
        }
    }

    /// The objects with this prefix after `after`, in order, while `more` says
    /// so; `None` without such a bucket.
    pub(super) async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: &str,
        mut visit: impl FnMut(&str, &Object) -> bool + Send,
    ) -> Option<()> {
        let buckets = self.buckets.lock().await;
        let objects = buckets.get(bucket)?;
        let start = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        for (key, object) in objects.range::<str, _>((start, Bound::Unbounded)) {
            if !key.starts_with(prefix) || !visit(key, object) {
                break;
            }
        }
        Some(())
    }

    pub(super) async fn keys(&self, bucket: &str) -> Vec<String> {
        let buckets = self.buckets.lock().await;
        buckets.get(bucket).into_iter().flat_map(|objects| objects.keys().cloned()).collect()
    }

    pub(super) async fn tamper(
        &self,
        bucket: &str,
        key: &str,
        change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
    ) {
        let mut buckets = self.buckets.lock().await;
        let Some(objects) = buckets.get_mut(bucket) else { return };
        let Some(object) = objects.remove(key) else { return };
        if let Some(bytes) = change(object.bytes.to_vec()) {
            objects.insert(key.to_owned(), Object::new(bytes.into(), object.modified));
        }
    }
}

fn size(object: &Object) -> u64 {
    object.bytes.len() as u64
}

fn read_objects(dir: &Path) -> io::Result<Objects> {
    let mut objects = Objects::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(key) = name.to_str().and_then(key_of) else { continue };
        let modified = entry.metadata()?.modified()?;
        objects.insert(key, Object::new(std::fs::read(entry.path())?.into(), modified));
    }
    Ok(objects)
}

/// Written aside and renamed, so that a killed server leaves no half object.
async fn write_file(dir: &Path, key: &str, bytes: &Bytes) -> io::Result<()> {
    let aside = dir.join(".writing");
    tokio::fs::write(&aside, bytes).await?;
    tokio::fs::rename(&aside, dir.join(file_name(key))).await
}

/// Keys as file names: whatever is not plain is written as `%xx`.
fn file_name(key: &str) -> String {
    use std::fmt::Write as _;
    let mut name = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            name.push(char::from(byte));
        } else {
            write!(name, "%{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    name
}

/// The key of a file name, or `None` if it is not one of ours.
fn key_of(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            }
            b'.' => return None,
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_as_file_names() {
        for key in ["a", "h/0001-x/full/MANIFEST", "ü %2f..", "."] {
            assert_eq!(key_of(&file_name(key)).as_deref(), Some(key));
        }
        assert_eq!(key_of(".writing"), None);
    }
}
