//! A bucket: named objects that are written once and then only read.
//!
//! This is all that backups ask of object storage, and it is deliberately less
//! than object storage offers. There is no overwriting, no multipart upload and
//! no compare-and-swap: servers differ in all three, and some ignore the
//! conditions that they are sent. [`Bucket::create`] is the one write, and it
//! does not believe a server's "already there" or "failed": whatever the answer
//! is, it reads the object back and compares.
//!
//! Retries live here and not in the client library, whose defaults would hold a
//! caller for three minutes, and which reports an object of its own first try
//! as somebody else's.

use super::fault::{self, Fault};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    GetResult, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, PutResult,
};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Bytes of the largest object that is ever read into memory.
pub const OBJECT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Objects that one listing may return; a backup has a few hundred.
pub const LIST_MAX: usize = 100_000;

/// What became of a [`Bucket::create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is there with these bytes, written by this call or by an
    /// earlier one with the same bytes.
    Mine,
    /// Another content has the name. Nothing was changed.
    Other(Bytes),
}

/// An object's name and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its name within the bucket's prefix, with `/` between the parts.
    pub key: String,
    /// Its size.
    pub size: u64,
    /// When it was written, by the server's clock.
    pub modified: SystemTime,
}

/// Why a bucket did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// There is no such object, or no such bucket.
    #[error("{key:?} is not in the bucket ({detail})")]
    NotFound {
        /// The object.
        key: String,
        /// What the server said.
        detail: String,
    },
    /// The credentials are missing, wrong, expired or not sufficient.
    #[error("the bucket denied access to {key:?}: {detail}")]
    Denied {
        /// The object.
        key: String,
        /// What the server said.
        detail: String,
    },
    /// The bucket did not answer properly, after all tries. A write may or may
    /// not have taken effect.
    #[error("the bucket could not {operation} {key:?} in {tries} tries: {detail}")]
    Unavailable {
        /// What was asked.
        operation: &'static str,
        /// The object.
        key: String,
        /// How often it was tried.
        tries: u32,
        /// The last failure.
        detail: String,
    },
    /// The bucket refused the request, or gave an answer that makes no sense;
    /// trying again would not help.
    #[error("the bucket refused to {operation} {key:?}: {detail}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// The object.
        key: String,
        /// What the server said.
        detail: String,
    },
    /// The object is larger than anything a backup is made of.
    #[error("{key:?} has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// The object.
        key: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The settings do not name a bucket that can be opened.
    #[error("{0}")]
    Settings(String),
}

/// How often and how long an operation is tried.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Tries in all.
    pub tries: u32,
    /// No try begins later than this after the first.
    pub window: Duration,
    /// The wait before the second try; it doubles, with jitter.
    pub backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { tries: 3, window: Duration::from_secs(10), backoff: Duration::from_millis(100) }
    }
}

/// Named objects that are written once.
#[async_trait]
pub trait Bucket: Send + Sync + fmt::Debug {
    /// Writes an object that must not be there yet.
    ///
    /// # Errors
    ///
    /// After [`BucketError::Unavailable`] it is undecided whether the object is
    /// there. After every other error this call has not written it.
    async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, BucketError>;

    /// One object, whole.
    ///
    /// # Errors
    ///
    /// See [`BucketError`]; [`BucketError::TooLarge`] above
    /// [`OBJECT_BYTES_MAX`].
    async fn get(&self, key: &str) -> Result<Bytes, BucketError>;

    /// An object's size, or `None` if it is not there.
    ///
    /// # Errors
    ///
    /// See [`BucketError`].
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, BucketError>;

    /// All objects in a folder and below it, sorted by name.
    ///
    /// # Errors
    ///
    /// See [`BucketError`]; refuses more than [`LIST_MAX`] objects.
    async fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>, BucketError>;

    /// The names of the folders right inside a folder, sorted.
    ///
    /// # Errors
    ///
    /// See [`BucketError`].
    async fn folders(&self, folder: &str) -> Result<Vec<String>, BucketError>;

    /// Removes an object; it is no error if it is not there.
    ///
    /// # Errors
    ///
    /// See [`BucketError`].
    async fn delete(&self, key: &str) -> Result<(), BucketError>;

    /// Where this is, for people: never with credentials.
    fn describe(&self) -> String;
}

/// A bucket behind `object_store`: S3, or a directory.
#[derive(Clone)]
pub(super) struct StoreBucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    described: String,
    retry: Retry,
}

impl fmt::Debug for StoreBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreBucket({})", self.described)
    }
}

impl StoreBucket {
    /// A bucket in `store` below `prefix`. `described` is shown to people.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        described: String,
        retry: Retry,
    ) -> Self {
        Self { store, prefix, described, retry }
    }

    fn path(&self, key: &str) -> Path {
        self.prefix.parts().chain(Path::from(key).parts()).collect()
    }

    fn key_of(&self, path: &Path) -> String {
        let parts: Vec<_> = path.prefix_match(&self.prefix).into_iter().flatten().collect();
        parts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/")
    }

    /// Runs `attempt` until it succeeds, fails for good, or the tries are used up.
    async fn retried<'a, T>(
        &self,
        operation: &'static str,
        key: &str,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, Fault>> + Send,
    ) -> Result<T, BucketError> {
        let mut tries = Tries::begin(self.retry);
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(fault) if fault.is_final() => return Err(fault.into_error(operation, key)),
                Err(fault) => tries.after(operation, key, &fault).await?,
            }
        }
    }

    async fn try_create(&self, path: &Path, bytes: &Bytes) -> Result<Created, Fault> {
        let failed = match self.put(path, bytes).await {
            Ok(_) => return Ok(Created::Mine),
            Err(error) => fault::of(&error),
        };
        // Denied and the like: the server says that it did nothing, and it would
        // deny the read as well.
        if failed.is_final() {
            return Err(failed);
        }
        match self.fetch(path).await {
            Ok(there) if there == *bytes => Ok(Created::Mine),
            Ok(there) => Ok(Created::Other(there)),
            Err(Fault::NotFound(_)) => Err(failed),
            Err(fault) => Err(fault),
        }
    }

    async fn put(&self, path: &Path, bytes: &Bytes) -> object_store::Result<PutResult> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.store.put_opts(path, PutPayload::from_bytes(bytes.clone()), options).await
    }

    async fn fetch(&self, path: &Path) -> Result<Bytes, Fault> {
        let found: GetResult = self.store.get(path).await.map_err(|error| fault::of(&error))?;
        let size = found.meta.size;
        if size > OBJECT_BYTES_MAX {
            return Err(Fault::TooLarge(size));
        }
        let bytes = found.bytes().await.map_err(|error| fault::of(&error))?;
        if bytes.len() as u64 == size {
            return Ok(bytes);
        }
        Err(Fault::Temporary(format!("{} of {size} bytes arrived", bytes.len())))
    }
}

/// Counts tries, and waits between them.
struct Tries {
    retry: Retry,
    made: u32,
    began: Instant,
}

impl Tries {
    fn begin(retry: Retry) -> Self {
        Self { retry, made: 0, began: Instant::now() }
    }

    /// Notes a failed try and waits before the next, or fails if there is none.
    async fn after(
        &mut self,
        operation: &'static str,
        key: &str,
        fault: &Fault,
    ) -> Result<(), BucketError> {
        self.made += 1;
        let wait = self.retry.backoff.saturating_mul(1 << self.made.min(8)).mul_f64(jitter());
        if self.made >= self.retry.tries || self.began.elapsed() + wait > self.retry.window {
            return Err(BucketError::Unavailable {
                operation,
                key: key.to_owned(),
                tries: self.made,
                detail: fault.to_string(),
            });
        }
        tracing::debug!(operation, key, tries = self.made, %fault, "bucket operation failed");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Between a half and one, so that several writers do not try in step.
fn jitter() -> f64 {
    rand::random_range(0.5..1.0)
}

#[async_trait]
impl Bucket for StoreBucket {
    async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, BucketError> {
        let path = self.path(key);
        self.retried("create", key, || self.try_create(&path, &bytes).boxed()).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, BucketError> {
        let path = self.path(key);
        self.retried("read", key, || self.fetch(&path).boxed()).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, BucketError> {
        let path = self.path(key);
        self.retried("look for", key, || self.try_head(&path).boxed()).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>, BucketError> {
        let path = self.path(folder);
        self.retried("list", folder, || self.try_list(&path).boxed()).await
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, BucketError> {
        let path = self.path(folder);
        self.retried("list", folder, || self.try_folders(&path).boxed()).await
    }

    async fn delete(&self, key: &str) -> Result<(), BucketError> {
        let path = self.path(key);
        self.retried("delete", key, || self.try_delete(&path).boxed()).await
    }

    fn describe(&self) -> String {
        self.described.clone()
    }
}

/// One try of each operation.
impl StoreBucket {
    async fn try_head(&self, path: &Path) -> Result<Option<ObjectMeta>, Fault> {
        match self.store.head(path).await {
            Ok(meta) => Ok(Some(self.meta(&meta))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(fault::of(&error)),
        }
    }

    async fn try_list(&self, path: &Path) -> Result<Vec<ObjectMeta>, Fault> {
        let listed = self.store.list(Some(path)).take(LIST_MAX + 1);
        let listed = listed.map_ok(|meta| self.meta(&meta)).try_collect::<Vec<_>>().await;
        let mut objects = listed.map_err(|error| fault::of(&error))?;
        if objects.len() > LIST_MAX {
            return Err(Fault::Refused(format!("it has more than {LIST_MAX} objects")));
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    async fn try_folders(&self, path: &Path) -> Result<Vec<String>, Fault> {
        match self.store.list_with_delimiter(Some(path)).await {
            Ok(listed) => {
                let names = listed.common_prefixes.iter();
                let mut names: Vec<_> =
                    names.filter_map(|path| path.filename().map(str::to_owned)).collect();
                names.sort();
                Ok(names)
            }
            Err(error) => match fault::of(&error) {
                // A directory that is not there has no folders, as in S3.
                Fault::NotFound(detail) if !detail.contains("NoSuchBucket") => Ok(Vec::new()),
                fault => Err(fault),
            },
        }
    }

    async fn try_delete(&self, path: &Path) -> Result<(), Fault> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(fault::of(&error)),
        }
    }

    fn meta(&self, meta: &object_store::ObjectMeta) -> ObjectMeta {
        ObjectMeta {
            key: self.key_of(&meta.location),
            size: meta.size,
            modified: SystemTime::from(meta.last_modified),
        }
    }
}
