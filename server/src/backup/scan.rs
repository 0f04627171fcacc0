//! Reading a whole backup back, and checking everything on the way: that each
//! object is the one the manifest names, that each chunk is the one the index
//! names, and that all rows together are the state that the manifest tells of.

use super::bucket::BucketError;
use super::create::{hex, unhex};
use super::error::{BackupError, Damage};
use super::manifest::{Manifest, PackEntry};
use super::pack::{Kind, Pack};
use super::progress::Tracker;
use super::repo::{MANIFEST, Repo};
use super::rows::{Digest, Digested};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use keelstone_proto::disk::{ChunkPlace, PackHeader, PackIndex};
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Packs that are downloaded ahead.
const DOWNLOADS: usize = 3;
/// Damages that are collected before the rest is given up.
const DAMAGES_MAX: usize = 1000;

/// Takes the plain chunks of a backup, in order.
#[async_trait]
pub(super) trait Sink: Send {
    /// Takes the next chunk, which was checked.
    async fn take(&mut self, chunk: Bytes) -> Result<(), BackupError>;
}

/// A sink for those who only want to know whether all is well.
pub(super) struct Nowhere;

#[async_trait]
impl Sink for Nowhere {
    async fn take(&mut self, _chunk: Bytes) -> Result<(), BackupError> {
        Ok(())
    }
}

/// Reads a backup from its first to its last row.
pub(super) struct Scan<'a> {
    repo: &'a Repo,
    manifest: &'a Manifest,
    tracker: Tracker<'a>,
    damages: Vec<Damage>,
    /// Chunks of the index, by pack; `None`: the index cannot be read.
    places: Option<BTreeMap<u32, Vec<ChunkPlace>>>,
    digest: Digest,
}

impl<'a> Scan<'a> {
    pub(super) fn new(repo: &'a Repo, manifest: &'a Manifest, tracker: Tracker<'a>) -> Self {
        let (damages, places, digest) = (Vec::new(), None, Digest::default());
        Self { repo, manifest, tracker, damages, places, digest }
    }

    /// Reads all, gives `sink` what is well, and returns what is not.
    ///
    /// # Errors
    ///
    /// Fails if the bucket or the sink does. Damage is no error here.
    pub(super) async fn run(mut self, sink: &mut dyn Sink) -> Result<Vec<Damage>, BackupError> {
        self.check_manifest();
        self.read_index().await?;
        let repo = self.repo;
        let manifest = self.manifest;
        let downloads = futures::stream::iter(manifest.packs.iter().zip(0_u32..))
            .map(|(entry, number)| async move {
                (number, entry, download(repo, manifest, entry, Kind::Rows).await)
            })
            .buffered(DOWNLOADS);
        futures::pin_mut!(downloads);
        while let Some((number, entry, pack)) = downloads.next().await {
            match pack? {
                Ok(pack) => self.read_pack(number, entry, pack, sink).await?,
                Err(damage) => {
                    self.digest.abandon();
                    self.damages.push(damage);
                }
            }
            if self.damages.len() >= DAMAGES_MAX {
                return Ok(self.damages);
            }
        }
        self.check_whole();
        Ok(self.damages)
    }

    fn damage(&mut self, object: &str, problem: impl Into<String>) {
        let object = format!("{}/{object}", self.manifest.folder());
        self.damages.push(Damage { object, problem: problem.into() });
    }

    fn check_manifest(&mut self) {
        let manifest = self.manifest;
        if manifest.kind != "full" {
            self.damage(MANIFEST, format!("a backup of the kind {:?}", manifest.kind));
        }
        if manifest.crypto.alg != "none" {
            self.damage(MANIFEST, "it is encrypted, which this version cannot read");
        }
        for (entry, number) in manifest.packs.iter().zip(0_u32..) {
            if entry.key != format!("pack-{number:05}.bin") {
                self.damage(MANIFEST, format!("pack {number} has the name {:?}", entry.key));
            }
        }
    }

    async fn read_index(&mut self) -> Result<(), BackupError> {
        let entry = &self.manifest.index;
        let pack = match download(self.repo, self.manifest, entry, Kind::Index).await? {
            Ok(pack) => pack,
            Err(damage) => {
                self.damages.push(damage);
                return Ok(());
            }
        };
        let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for chunk in 0..pack.chunks() {
            let index = pack.plain(chunk).map_err(|error| error.to_string());
            let index = index.and_then(|plain| {
                PackIndex::decode(plain).map_err(|_| "an index chunk is malformed".to_owned())
            });
            match index {
                Ok(index) => {
                    for place in index.chunks {
                        places.entry(place.pack).or_default().push(place);
                    }
                }
                Err(problem) => {
                    self.damage(&entry.key, problem);
                    return Ok(());
                }
            }
        }
        self.places = Some(places);
        Ok(())
    }

    async fn read_pack(
        &mut self,
        number: u32,
        entry: &PackEntry,
        pack: Pack,
        sink: &mut dyn Sink,
    ) -> Result<(), BackupError> {
        if pack.header.number != number {
            let problem = format!("it is pack {} in the place of {number}", pack.header.number);
            self.digest.abandon();
            self.damage(&entry.key, problem);
            return Ok(());
        }
        let places = self.places.as_mut().map(|places| places.remove(&number).unwrap_or_default());
        if places.as_ref().is_some_and(|places| places.len() != pack.chunks()) {
            self.damage(&entry.key, "the index tells of other chunks");
        }
        let pack = Arc::new(pack);
        for chunk in 0..pack.chunks() {
            // Without an index the chunk is checked by itself.
            let told = Told::of(places.as_ref(), chunk);
            let (pack, mut digest) = (Arc::clone(&pack), std::mem::take(&mut self.digest));
            let read = spawn_blocking(move || {
                let read = read_chunk(&pack, chunk, told, &mut digest);
                (digest, read)
            });
            let (digest, read) = read.await?;
            self.digest = digest;
            match read {
                Ok((plain, rows)) => {
                    self.tracker.add(plain.len() as u64, rows);
                    sink.take(plain).await?;
                }
                Err(problem) => {
                    self.digest.abandon();
                    self.damage(&entry.key, format!("chunk {chunk}: {problem}"));
                }
            }
        }
        Ok(())
    }

    /// All rows together are the state that the manifest tells of.
    fn check_whole(&mut self) {
        if !self.damages.is_empty() {
            return;
        }
        let digested = std::mem::take(&mut self.digest).finish();
        for problem in differences(&digested, self.manifest) {
            self.damage(MANIFEST, problem);
        }
        if self.places.as_ref().is_some_and(|places| !places.is_empty()) {
            let index = self.manifest.index.key.clone();
            self.damage(&index, "it tells of packs that the manifest does not have");
        }
    }
}

/// Fetches an object of the backup. What does not match is read once more: it
/// may have been damaged on the way only.
async fn download(
    repo: &Repo,
    manifest: &Manifest,
    entry: &PackEntry,
    kind: Kind,
) -> Result<Result<Pack, Damage>, BackupError> {
    let object = format!("{}/{}", manifest.folder(), entry.key);
    let damage = |problem: String| Damage { object: object.clone(), problem };
    let mut problem = String::new();
    for _ in 0..2 {
        let bytes = match repo.bucket().get(&object).await {
            Ok(bytes) => bytes,
            Err(BucketError::NotFound { .. }) => return Ok(Err(damage("it is missing".into()))),
            Err(error) => return Err(error.into()),
        };
        let (entry, expected) = (entry.clone(), header_of(manifest));
        let opened = spawn_blocking(move || {
            if let Some(problem) = entry.mismatch(&bytes) {
                return Err(problem);
            }
            let pack = Pack::open(bytes, kind).map_err(|error| error.to_string())?;
            let header = PackHeader { number: 0, ..pack.header.clone() };
            if header != expected {
                return Err("it belongs to another backup".to_owned());
            }
            Ok(pack)
        });
        match opened.await? {
            Ok(pack) => return Ok(Ok(pack)),
            Err(found) => problem = found,
        }
    }
    Ok(Err(damage(problem)))
}

/// What all objects of a backup have in their headers.
fn header_of(manifest: &Manifest) -> PackHeader {
    PackHeader {
        backup_id: unhex(&manifest.backup_id).into(),
        history: unhex(&manifest.history.uid).into(),
        codec: super::pack::CODEC.to_owned(),
        revision: manifest.revision,
        repository: unhex(&manifest.repo_uid).into(),
        ..PackHeader::default()
    }
}

/// What the index says of a chunk.
enum Told {
    /// There is no index to ask: it could not be read, which was reported.
    Unasked,
    /// There is no such chunk.
    Nothing,
    /// It is there.
    Place(Box<ChunkPlace>),
}

impl Told {
    fn of(places: Option<&Vec<ChunkPlace>>, chunk: usize) -> Self {
        let Some(places) = places else { return Self::Unasked };
        places.get(chunk).map_or(Self::Nothing, |place| Self::Place(Box::new(place.clone())))
    }
}

/// One chunk: its plain bytes and how many rows they are.
fn read_chunk(
    pack: &Pack,
    chunk: usize,
    told: Told,
    digest: &mut Digest,
) -> Result<(Bytes, u64), String> {
    let plain = pack.plain(chunk).map_err(|error| error.to_string())?;
    let summary = digest.add_run(plain.clone()).map_err(|error| error.to_string())?;
    let (offset, stored_bytes) = pack.place(chunk);
    let found = ChunkPlace {
        pack: pack.header.number,
        offset,
        stored_bytes,
        plain_bytes: u32::try_from(plain.len()).expect("a chunk is below 8 MiB"),
        plain_hash: Bytes::copy_from_slice(blake3::hash(&plain).as_bytes()),
        first_key: summary.first_key,
        last_key: summary.last_key,
        rows: summary.rows,
    };
    match told {
        Told::Unasked => Ok((plain, summary.rows)),
        Told::Place(place) if *place == found => Ok((plain, summary.rows)),
        Told::Place(_) => Err("it is not the one that the index tells of".to_owned()),
        Told::Nothing => Err("the index does not tell of it".to_owned()),
    }
}

fn differences(digested: &Digested, manifest: &Manifest) -> Vec<String> {
    let head = digested.head.as_ref();
    let checks = [
        (digested.rows == manifest.rows, "the number of rows"),
        (digested.counts == manifest.counts, "the number of keys or leases"),
        (hex(&digested.state_root) == manifest.state_root, "the state root"),
        (head.is_some_and(|head| head.revision.get() == manifest.revision), "the revision"),
        (head.is_some_and(|head| hex(&head.hash) == manifest.state_hash), "the state hash"),
        (head.is_some_and(|head| head.transitions == manifest.transitions), "the transitions"),
        (head.is_some_and(|head| hex(&head.history) == manifest.history.uid), "the history"),
        (head.is_some_and(|head| head.now.0 == manifest.time.commit_ms), "the time"),
    ];
    let wrong = checks.into_iter().filter(|(equal, _)| !equal);
    wrong.map(|(_, what)| format!("{what} of the rows is another")).collect()
}
