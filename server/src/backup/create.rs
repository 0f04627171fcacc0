//! Making a backup: rows in, packs out, the manifest last.
//!
//! Memory is bounded: one run of rows, one pack that fills, and at most four
//! that are on their way. A failure at any moment leaves at worst packs without
//! a manifest, which are no backup; they are removed if the bucket still allows
//! it.

use super::bucket::{BucketError, Created};
use super::document::FORMAT;
use super::error::BackupError;
use super::manifest::{
    Crypto, HistoryName, Manifest, PackEntry, RaftPosition, Stats, Times, folder, log_time_text,
    time_text,
};
use super::pack::{CHUNK_BYTES, CODEC, Frame, Kind, PACK_BYTES, PackWriter};
use super::progress::{Observer, Phase, Tracker};
use super::repo::{Entry, MANIFEST, Repo};
use super::rows::{Digest, Digested, RunSummary};
use super::source::{Source, SourceHeader, SourcePart, SourceTrailer};
use bytes::Bytes;
use futures::StreamExt as _;
use keelstone_proto::disk::{ChunkPlace, PackHeader, PackIndex};
use keelstone_store::machine::Head;
use prost::Message as _;
use std::time::SystemTime;
use tokio::task::{JoinSet, spawn_blocking};

/// Packs that are uploaded at once.
const UPLOADS: usize = 4;
/// Bytes of index entries in one chunk of the index.
const INDEX_CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// The index of all chunks.
const INDEX: &str = "index.bin";

/// How large the parts of a backup are. Readers take them as they come.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Bytes of the plain rows in a chunk: between 1 and 4 MiB.
    pub chunk_bytes: usize,
    /// Bytes of a pack, unless a single chunk is larger; at most 32 MiB.
    pub pack_bytes: usize,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self { chunk_bytes: CHUNK_BYTES, pack_bytes: PACK_BYTES }
    }
}

/// Copies `source` into `repo` and returns the backup.
///
/// # Errors
///
/// Fails if the source or the bucket does; there is no backup then, unless the
/// bucket failed to say whether it took the manifest.
pub async fn create(
    source: Source,
    repo: &Repo,
    options: CreateOptions,
    observer: &dyn Observer,
) -> Result<Entry, BackupError> {
    let started = SystemTime::now();
    let Source { header, mut parts } = source;
    let history = repo.history(&hex(&header.history)).await?;
    let estimated = (header.estimated_bytes > 0).then_some(header.estimated_bytes);
    let mut tracker = Tracker::begin(observer, Phase::Copy, estimated);
    let mut packing = Packing::new(repo.clone(), options, &header, history);
    let copied = copy(&mut parts, &mut packing, &mut tracker).await;
    let (digested, index) = match copied {
        Ok(copied) => copied,
        Err(error) => {
            packing.abandon().await;
            return Err(error);
        }
    };
    let plain_bytes = tracker.bytes();
    let millis = u64::try_from(tracker.elapsed().as_millis()).unwrap_or(u64::MAX);
    let stats = Stats { plain_bytes, stored_bytes: packing.stored_bytes(&index), millis };
    Tracker::begin(observer, Phase::Finish, None);
    let manifest = match packing.manifest(&header, &digested, index, stats, started).await {
        Ok(manifest) => manifest,
        Err(error) => {
            packing.abandon().await;
            return Err(error);
        }
    };
    let entry = commit(repo, manifest).await?;
    Ok(entry)
}

/// Writes the manifest, and with it makes the backup exist.
async fn commit(repo: &Repo, manifest: Manifest) -> Result<Entry, BackupError> {
    let text = manifest.seal();
    let manifest_hash = blake3::hash(&text).to_hex().to_string();
    let key = format!("{}/{MANIFEST}", manifest.folder());
    match repo.bucket().create(&key, text.into()).await {
        Ok(Created::Mine) => Ok(Entry { manifest, manifest_hash }),
        Ok(Created::Other(_)) => Err(taken(&key)),
        Err(error @ BucketError::Unavailable { .. }) => Err(BackupError::Undecided(error)),
        Err(error) => Err(error.into()),
    }
}

fn taken(key: &str) -> BackupError {
    BackupError::refused(
        format!("{key} is there already, with another content"),
        "names are unique: something else writes into this prefix; use another one",
    )
}

/// Copies all rows, and checks that they are what the source says they are.
async fn copy(
    parts: &mut (impl futures::Stream<Item = Result<SourcePart, String>> + Unpin),
    packing: &mut Packing,
    tracker: &mut Tracker<'_>,
) -> Result<(Digested, PackEntry), BackupError> {
    let mut hasher = blake3::Hasher::new();
    let trailer = loop {
        match parts.next().await {
            Some(Ok(SourcePart::Rows(run))) => {
                hasher.update(&run);
                packing.add(run, tracker).await?;
            }
            Some(Ok(SourcePart::Trailer(trailer))) => break trailer,
            Some(Err(problem)) => return Err(BackupError::Source(problem)),
            None => return Err(BackupError::Source("it ended without its trailer".into())),
        }
    };
    packing.flush(tracker).await?;
    packing.close_pack().await?;
    packing.finish_uploads().await?;
    let digested = std::mem::take(&mut packing.digest).finish();
    check(&digested, &trailer, *hasher.finalize().as_bytes())?;
    let index = packing.write_index().await?;
    Ok((digested, index))
}

fn check(digested: &Digested, trailer: &SourceTrailer, hash: [u8; 32]) -> Result<(), BackupError> {
    let wrong = |what: &str| Err(BackupError::Source(format!("its {what} does not match")));
    if digested.rows != trailer.rows {
        return wrong("number of rows");
    }
    if hash != trailer.hash {
        return wrong("hash");
    }
    if digested.state_root != trailer.state_root {
        return wrong("state root");
    }
    Ok(())
}

/// Rows on their way into packs.
struct Packing {
    repo: Repo,
    options: CreateOptions,
    history: HistoryName,
    backup_id: String,
    folder: String,
    header: PackHeader,
    digest: Digest,
    /// Runs that wait until they make a chunk.
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    pack: Option<PackWriter>,
    packs_begun: u32,
    packs: Vec<(u32, PackEntry)>,
    places: Vec<ChunkPlace>,
    uploads: JoinSet<Result<(u32, PackEntry), BackupError>>,
}

impl Packing {
    fn new(
        repo: Repo,
        options: CreateOptions,
        source: &SourceHeader,
        history: HistoryName,
    ) -> Self {
        let id = uuid::Uuid::now_v7();
        let backup_id = id.simple().to_string();
        let header = PackHeader {
            backup_id: Bytes::copy_from_slice(id.as_bytes()),
            history: Bytes::copy_from_slice(&source.history),
            codec: CODEC.to_owned(),
            revision: source.revision,
            repository: unhex(repo.uid()).into(),
            ..PackHeader::default()
        };
        Self {
            folder: folder(&history, source.revision, &backup_id),
            repo,
            options,
            history,
            backup_id,
            header,
            digest: Digest::default(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            pack: None,
            packs_begun: 0,
            packs: Vec::new(),
            places: Vec::new(),
            uploads: JoinSet::new(),
        }
    }

    /// Takes a run of rows.
    async fn add(&mut self, run: Bytes, tracker: &mut Tracker<'_>) -> Result<(), BackupError> {
        if run.len() > CHUNK_BYTES {
            return Err(BackupError::Source(format!("a run of {} bytes", run.len())));
        }
        if self.waiting_bytes + run.len() > self.options.chunk_bytes {
            self.flush(tracker).await?;
        }
        self.waiting_bytes += run.len();
        self.waiting.push(run);
        Ok(())
    }

    /// Makes a chunk of what waits and puts it into the pack.
    async fn flush(&mut self, tracker: &mut Tracker<'_>) -> Result<(), BackupError> {
        let runs = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if runs.is_empty() {
            return Ok(());
        }
        let mut digest = std::mem::take(&mut self.digest);
        let sealed = spawn_blocking(move || {
            let plain = Bytes::from(runs.concat());
            let summary = digest.add_run(plain.clone());
            (digest, summary, Frame::seal(&plain))
        });
        let (digest, summary, frame) = sealed.await?;
        self.digest = digest;
        let summary = summary.map_err(|error| BackupError::Source(error.to_string()))?;
        let frame = frame.map_err(BackupError::io("compress a chunk"))?;
        tracker.add(u64::from(frame.plain_bytes), summary.rows);
        self.push(&frame, summary).await
    }

    async fn push(&mut self, frame: &Frame, summary: RunSummary) -> Result<(), BackupError> {
        if self.pack.as_ref().is_some_and(|pack| !pack.has_room_for(frame, self.options.pack_bytes))
        {
            self.close_pack().await?;
        }
        if self.pack.is_none() {
            let header = PackHeader { number: self.packs_begun, ..self.header.clone() };
            self.pack = Some(PackWriter::new(Kind::Rows, &header));
            self.packs_begun += 1;
        }
        let pack = self.pack.as_mut().expect("just begun");
        self.places.push(ChunkPlace {
            pack: self.packs_begun - 1,
            offset: pack.push(frame),
            stored_bytes: u32::try_from(frame.stored.len()).expect("a chunk is below 8 MiB"),
            plain_bytes: frame.plain_bytes,
            plain_hash: Bytes::copy_from_slice(&frame.plain_hash),
            first_key: summary.first_key,
            last_key: summary.last_key,
            rows: summary.rows,
        });
        Ok(())
    }

    /// Begins the upload of the pack, when there is a place for it.
    async fn close_pack(&mut self) -> Result<(), BackupError> {
        let Some(pack) = self.pack.take() else { return Ok(()) };
        while self.uploads.len() >= UPLOADS {
            self.finish_upload().await?;
        }
        let number = self.packs_begun - 1;
        let name = format!("pack-{number:05}.bin");
        let upload = upload(self.repo.clone(), self.folder.clone(), name, pack);
        self.uploads.spawn(async move { Ok((number, upload.await?)) });
        Ok(())
    }

    async fn finish_uploads(&mut self) -> Result<(), BackupError> {
        while !self.uploads.is_empty() {
            self.finish_upload().await?;
        }
        Ok(())
    }

    async fn finish_upload(&mut self) -> Result<(), BackupError> {
        if let Some(uploaded) = self.uploads.join_next().await {
            self.packs.push(uploaded??);
        }
        Ok(())
    }

    /// Writes the index of all chunks.
    async fn write_index(&mut self) -> Result<PackEntry, BackupError> {
        let places = std::mem::take(&mut self.places);
        let header = self.header.clone();
        let index = spawn_blocking(move || index_of(places, &header)).await?;
        let index = index.map_err(BackupError::io("compress the index"))?;
        upload(self.repo.clone(), self.folder.clone(), INDEX.to_owned(), index).await
    }

    fn stored_bytes(&self, index: &PackEntry) -> u64 {
        self.packs.iter().map(|(_, pack)| pack.size).sum::<u64>() + index.size
    }

    async fn manifest(
        &mut self,
        source: &SourceHeader,
        digested: &Digested,
        index: PackEntry,
        stats: Stats,
        started: SystemTime,
    ) -> Result<Manifest, BackupError> {
        let head = head_of(source, digested)?;
        let cluster_uid = hex(&source.cluster_id);
        self.repo.record_history(&self.history, &cluster_uid, None).await?;
        let prev_manifest = self.repo.newest_manifest_hash(&self.history).await?;
        self.packs.sort_by_key(|(number, _)| *number);
        Ok(Manifest {
            format: FORMAT,
            min_reader: FORMAT,
            kind: "full".to_owned(),
            repo_uid: self.repo.uid().to_owned(),
            cluster_uid,
            history: self.history.clone(),
            backup_id: self.backup_id.clone(),
            revision: head.revision.get(),
            state_hash: hex(&head.hash),
            transitions: head.transitions,
            state_root: hex(&digested.state_root),
            compact_revision: head.compacted.get(),
            feature_level: head.feature_level,
            raft: RaftPosition {
                term: source.raft_term,
                index: source.raft_index,
                membership: source.members.clone(),
            },
            time: Times {
                commit_ms: head.now.0,
                commit: log_time_text(head.now.0),
                started: time_text(started),
                finished: time_text(SystemTime::now()),
            },
            counts: digested.counts.clone(),
            rows: digested.rows,
            crypto: Crypto { alg: "none".to_owned(), dek: Vec::new() },
            packs: self.packs.iter().map(|(_, pack)| pack.clone()).collect(),
            index,
            prev_manifest,
            stats,
            writer: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    /// Removes what was uploaded. Best effort: what stays is no backup.
    async fn abandon(mut self) {
        self.uploads.shutdown().await;
        let packs = (0..self.packs_begun).map(|number| format!("pack-{number:05}.bin"));
        for name in packs.chain([INDEX.to_owned()]) {
            let key = format!("{}/{name}", self.folder);
            if let Err(error) = self.repo.bucket().delete(&key).await {
                tracing::warn!(%error, "parts of an abandoned backup stay in the bucket");
                return;
            }
        }
    }
}

/// The head that the rows begin with, if it is the one that was announced.
fn head_of<'a>(source: &SourceHeader, digested: &'a Digested) -> Result<&'a Head, BackupError> {
    let head = digested.head.as_ref();
    let head = head.ok_or_else(|| BackupError::Source("it has no rows".to_owned()))?;
    if (head.revision.get(), head.history) != (source.revision, source.history) {
        return Err(BackupError::refused(
            "the rows are of another revision than the export says",
            "only the newest revision can be backed up",
        ));
    }
    Ok(head)
}

async fn upload(
    repo: Repo,
    folder: String,
    name: String,
    pack: PackWriter,
) -> Result<PackEntry, BackupError> {
    let key = format!("{folder}/{name}");
    let sealed = spawn_blocking(move || {
        let bytes = pack.finish();
        (PackEntry::of(name, &bytes), bytes)
    });
    let (entry, bytes) = sealed.await?;
    match repo.bucket().create(&key, bytes).await? {
        Created::Mine => Ok(entry),
        Created::Other(_) => Err(taken(&key)),
    }
}

fn index_of(places: Vec<ChunkPlace>, header: &PackHeader) -> std::io::Result<PackWriter> {
    let mut writer = PackWriter::new(Kind::Index, header);
    let mut index = PackIndex::default();
    let mut bytes = 0;
    for place in places {
        bytes += place.encoded_len();
        index.chunks.push(place);
        if bytes >= INDEX_CHUNK_BYTES {
            writer.push(&Frame::seal(&std::mem::take(&mut index).encode_to_vec())?);
            bytes = 0;
        }
    }
    writer.push(&Frame::seal(&index.encode_to_vec())?);
    Ok(writer)
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

/// The bytes of hexadecimal digits; what are none are left out.
pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|c| c.to_digit(16))
        .filter_map(|digit| u8::try_from(digit).ok())
        .collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
