//! A repository: the backups in one bucket, below one prefix.

use super::bucket::{Bucket, BucketError, Created};
use super::document;
use super::error::BackupError;
use super::manifest::{HistoryName, Manifest, history_folder, time_text};
use super::probe::{self, Capabilities};
use super::rows::Origin;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

const REPO: &str = "REPO.json";
const HISTORY: &str = "HISTORY.json";
/// The last object of a backup to be written.
pub(super) const MANIFEST: &str = "MANIFEST";
/// Manifests that are fetched at once.
const FETCHES: usize = 8;
/// Backups that one repository may list.
const BACKUPS_MAX: usize = 100_000;

/// `REPO.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RepoDocument {
    format: u64,
    min_reader: u64,
    repo_uid: String,
    created: String,
    capabilities: Capabilities,
    /// How new backups are encrypted; this version knows `none`.
    crypto: String,
}

/// `HISTORY.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct HistoryDocument {
    format: u64,
    min_reader: u64,
    ordinal: u64,
    uid: String,
    cluster_uid: String,
    /// What the history began with; `None`: an empty store.
    origin: Option<Origin>,
}

/// The backups in one bucket, below one prefix.
#[derive(Clone)]
pub struct Repo {
    bucket: Arc<dyn Bucket>,
    document: RepoDocument,
}

impl fmt::Debug for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repo({} in {})", self.document.repo_uid, self.bucket.describe())
    }
}

/// A backup in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub manifest: Manifest,
    /// The hash of its manifest.
    pub manifest_hash: String,
}

/// A backup's folder whose manifest cannot be read, or is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The folder.
    pub folder: String,
    /// Why; `None`: there is no manifest, so it is unfinished or was abandoned.
    pub problem: Option<String>,
}

/// What is in a repository.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The backups, oldest history first, then by revision and time.
    pub backups: Vec<Entry>,
    /// What else was found where backups are.
    pub unreadable: Vec<Unreadable>,
}

impl Repo {
    /// Opens a repository, and makes it if there is none.
    ///
    /// # Errors
    ///
    /// Fails if the bucket does, or if what is there is not a repository that
    /// this version can read.
    pub async fn open_or_init(bucket: Arc<dyn Bucket>) -> Result<Self, BackupError> {
        match bucket.get(REPO).await {
            Ok(text) => return Self::read(bucket, &text),
            Err(BucketError::NotFound { detail, .. }) if !detail.contains("NoSuchBucket") => {}
            Err(error) => return Err(error.into()),
        }
        let capabilities = probe::probe(&*bucket).await?;
        for warning in capabilities.warnings() {
            tracing::warn!(bucket = bucket.describe(), "{warning}");
        }
        let document = RepoDocument {
            format: document::FORMAT,
            min_reader: document::FORMAT,
            repo_uid: format!("{:032x}", rand::random::<u128>()),
            created: time_text(SystemTime::now()),
            capabilities,
            crypto: "none".to_owned(),
        };
        let text = document::seal(&document);
        match bucket.create(REPO, text.into()).await? {
            // Read again: a bucket that ignores conditions told every racer that
            // it was first.
            Created::Mine => {
                let text = bucket.get(REPO).await?;
                Self::read(bucket, &text)
            }
            Created::Other(text) => Self::read(bucket, &text),
        }
    }

    /// Opens a repository that must be there.
    ///
    /// # Errors
    ///
    /// See [`Repo::open_or_init`]; refuses if there is none.
    pub async fn open(bucket: Arc<dyn Bucket>) -> Result<Self, BackupError> {
        match bucket.get(REPO).await {
            Ok(text) => Self::read(bucket, &text),
            Err(BucketError::NotFound { detail, .. }) if !detail.contains("NoSuchBucket") => {
                Err(BackupError::refused(
                    format!("there are no backups in {}", bucket.describe()),
                    "check the URL, or make the first with `keelstone backup create`",
                ))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn read(bucket: Arc<dyn Bucket>, text: &[u8]) -> Result<Self, BackupError> {
        let document: RepoDocument =
            document::open(text).map_err(|error| BackupError::damaged(REPO, error.to_string()))?;
        Ok(Self { bucket, document })
    }

    /// Names the repository.
    pub fn uid(&self) -> &str {
        &self.document.repo_uid
    }

    /// What its bucket could do when it was made.
    pub fn capabilities(&self) -> &Capabilities {
        &self.document.capabilities
    }

    /// Where it is, for people.
    pub fn describe(&self) -> String {
        self.bucket.describe()
    }

    pub(super) fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.bucket
    }

    /// All backups.
    ///
    /// # Errors
    ///
    /// Fails if the bucket does. A manifest that cannot be read is reported and
    /// hides no other.
    pub async fn list(&self) -> Result<Listing, BackupError> {
        let mut folders = Vec::new();
        for history in self.bucket.folders("h").await? {
            let fulls = format!("h/{history}/full");
            for full in self.bucket.folders(&fulls).await? {
                folders.push(format!("{fulls}/{full}"));
            }
        }
        if folders.len() > BACKUPS_MAX {
            return Err(BackupError::refused(
                format!("the repository has {} backups", folders.len()),
                format!("at most {BACKUPS_MAX} are listed; begin another prefix"),
            ));
        }
        let read = futures::stream::iter(folders).map(|folder| self.read_folder(folder));
        let read: Vec<_> = read.buffered(FETCHES).try_collect().await?;
        let mut listing = Listing::default();
        for found in read {
            match found {
                Ok(entry) => listing.backups.push(entry),
                Err(unreadable) => listing.unreadable.push(unreadable),
            }
        }
        listing.backups.sort_by(|a, b| order_of(a).cmp(&order_of(b)));
        Ok(listing)
    }

    async fn read_folder(&self, folder: String) -> Result<Result<Entry, Unreadable>, BackupError> {
        let text = match self.bucket.get(&format!("{folder}/{MANIFEST}")).await {
            Ok(text) => text,
            Err(BucketError::NotFound { .. }) => {
                return Ok(Err(Unreadable { folder, problem: None }));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(self.read_manifest(&folder, &text).map_err(|problem| {
            let problem = Some(problem);
            Unreadable { folder, problem }
        }))
    }

    fn read_manifest(&self, folder: &str, text: &[u8]) -> Result<Entry, String> {
        let manifest: Manifest = document::open(text).map_err(|error| error.to_string())?;
        if manifest.repo_uid != self.document.repo_uid || manifest.folder() != folder {
            return Err("it belongs to another place; it was moved or replaced".to_owned());
        }
        Ok(Entry { manifest, manifest_hash: blake3::hash(text).to_hex().to_string() })
    }

    /// The backup of this name, id or unique end of an id; `latest` is the one
    /// of the highest revision in the newest history.
    ///
    /// # Errors
    ///
    /// Refuses a name that no backup or several have; reports one whose manifest
    /// is damaged.
    pub async fn find(&self, name: &str) -> Result<Entry, BackupError> {
        let mut listing = self.list().await?;
        if name == "latest" {
            // An older backup in the place of a damaged one would be a silent
            // step back in time.
            if let Some(newest) = listing.newest_unreadable() {
                return Err(newest.damage());
            }
            return listing.backups.pop().ok_or_else(|| {
                BackupError::refused(
                    format!("there are no backups in {}", self.describe()),
                    "make the first with `keelstone backup create`",
                )
            });
        }
        let of_name = |entry: &Entry| {
            let manifest = &entry.manifest;
            manifest.name() == name
                || (name.len() >= 4 && manifest.backup_id.ends_with(name))
                || manifest.folder() == name
        };
        let mut found: Vec<_> = listing.backups.into_iter().filter(of_name).collect();
        match (found.pop(), found.len()) {
            (Some(entry), 0) => Ok(entry),
            (Some(_), more) => Err(BackupError::refused(
                format!("{} backups have the name {name:?}", more + 1),
                "use the whole name that `keelstone backup list` shows",
            )),
            (None, _) => {
                let end = name.rsplit_once('-').map_or(name, |(_, end)| end);
                let damaged = listing.unreadable.iter().find(|it| it.folder.ends_with(end));
                Err(damaged.filter(|it| it.problem.is_some()).map_or_else(
                    || {
                        BackupError::refused(
                            format!("no backup has the name {name:?}"),
                            "`keelstone backup list` shows those that there are",
                        )
                    },
                    Unreadable::damage,
                ))
            }
        }
    }

    /// The place of a history in this repository: a new one if it is new.
    pub(super) async fn history(&self, uid: &str) -> Result<HistoryName, BackupError> {
        let mut highest = 0;
        for folder in self.bucket.folders("h").await? {
            let Some((ordinal, there)) = folder.split_once('-') else { continue };
            let Ok(ordinal) = ordinal.parse::<u64>() else { continue };
            if there == uid {
                return Ok(HistoryName { ordinal, uid: uid.to_owned() });
            }
            highest = highest.max(ordinal);
        }
        Ok(HistoryName { ordinal: highest + 1, uid: uid.to_owned() })
    }

    /// Writes down where a history comes from, if nobody has yet.
    pub(super) async fn record_history(
        &self,
        history: &HistoryName,
        cluster_uid: &str,
        origin: Option<Origin>,
    ) -> Result<(), BackupError> {
        let document = HistoryDocument {
            format: document::FORMAT,
            min_reader: document::FORMAT,
            ordinal: history.ordinal,
            uid: history.uid.clone(),
            cluster_uid: cluster_uid.to_owned(),
            origin,
        };
        let key = format!("{}/{HISTORY}", history_folder(history));
        let text = match self.bucket.create(&key, document::seal(&document).into()).await? {
            Created::Mine => return Ok(()),
            Created::Other(text) => text,
        };
        let there: HistoryDocument = document::open(&text)
            .map_err(|error| BackupError::damaged(key.clone(), error.to_string()))?;
        if there.uid == document.uid && there.cluster_uid == document.cluster_uid {
            return Ok(());
        }
        Err(BackupError::refused(
            format!("{key} says that this history belongs to another cluster"),
            "two clusters seem to have one history, such as copies of one machine; \
             find out which one is meant, and back the other up to another prefix",
        ))
    }

    /// The hash of the newest manifest of a history; empty if there is none.
    pub(super) async fn newest_manifest_hash(
        &self,
        history: &HistoryName,
    ) -> Result<String, BackupError> {
        let fulls = format!("{}/full", history_folder(history));
        for full in self.bucket.folders(&fulls).await?.iter().rev() {
            match self.bucket.get(&format!("{fulls}/{full}/{MANIFEST}")).await {
                Ok(text) => return Ok(blake3::hash(&text).to_hex().to_string()),
                Err(BucketError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(String::new())
    }
}

impl Listing {
    /// A damaged manifest that may be newer than all that can be read.
    fn newest_unreadable(&self) -> Option<&Unreadable> {
        let newest = self.backups.last().map(|entry| entry.manifest.folder());
        let damaged = self.unreadable.iter().filter(|it| it.problem.is_some());
        damaged
            .filter(|it| newest.as_ref().is_none_or(|newest| it.folder > *newest))
            .max_by(|a, b| a.folder.cmp(&b.folder))
    }
}

impl Unreadable {
    fn damage(&self) -> BackupError {
        let problem = self.problem.clone().unwrap_or_else(|| "it is missing".to_owned());
        BackupError::damaged(format!("{}/{MANIFEST}", self.folder), problem)
    }
}

fn order_of(entry: &Entry) -> (u64, u64, &str, &str) {
    let manifest = &entry.manifest;
    (manifest.history.ordinal, manifest.revision, &manifest.time.started, &manifest.backup_id)
}
