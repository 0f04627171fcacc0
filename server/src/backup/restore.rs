//! Restoring a backup: the data directories of a new cluster.
//!
//! It is a new cluster, not the old one: its identity is another, its revisions
//! are far above the old ones and their history is a new one, so no client and
//! no replica takes one for the other. Everything follows from the backup, the
//! token and the members: machines that restore with the same arguments build
//! replicas of one cluster without talking to each other, and those that do not
//! build replicas that refuse each other.
//!
//! The backup is read twice: once to verify it, before anything on the disk is
//! touched, and once to load it. The directories appear by a rename, complete.

use super::create::hex;
use super::error::BackupError;
use super::manifest::Manifest;
use super::progress::{Observer, Phase, Tracker};
use super::repo::{Entry, Repo};
use super::rows::Origin;
use super::scan::{Scan, Sink};
use super::site::{Plot, Site};
use super::token::RestoreToken;
use super::verify::verify;
use crate::replica::INITIAL_ID_MAX;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use keelstone_proto::disk;
use keelstone_proto::disk::snapshot_row::Row;
use keelstone_store::disk::{EngineKind, LogId};
use keelstone_store::machine::Head;
use keelstone_store::planted::{self, Bug};
use keelstone_store::state::{Applied, parse_frames, put_frame};
use keelstone_store::{Millis, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// How far revisions jump, if nobody says otherwise: more than any cluster
/// writes between a backup and its end.
pub const REVISION_BUMP: u64 = 1 << 20;
/// How long leases outlive their time at first, if nobody says otherwise: time
/// to restore the other machines, and to start them.
pub const LEASE_GRACE: Duration = Duration::from_mins(10);

/// A member of the new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreMember {
    /// Its id, from 1.
    pub id: u64,
    /// Where it will serve peers.
    pub peer_address: String,
    /// Where it will serve clients.
    pub client_address: String,
    /// Failure domains: host, rack, datastore, site.
    pub labels: BTreeMap<String, String>,
}

/// What to restore to.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Names the new cluster; the same on all machines.
    pub token: RestoreToken,
    /// All members of the new cluster; the same on all machines.
    pub members: Vec<RestoreMember>,
    /// The directories to build here, and whose they are.
    pub directories: Vec<(u64, PathBuf)>,
    /// The state engine of these.
    pub engine: EngineKind,
    /// How far revisions jump; the same on all machines.
    pub revision_bump: u64,
    /// How long leases outlive their time at first; the same on all machines.
    pub lease_grace: Duration,
    /// Whether to write down the new history in the repository. A bucket that
    /// does not allow it is no obstacle.
    pub record: bool,
}

impl RestoreOptions {
    /// The usual restore of `directories`.
    pub fn new(
        token: RestoreToken,
        members: Vec<RestoreMember>,
        directories: Vec<(u64, PathBuf)>,
    ) -> Self {
        Self {
            token,
            members,
            directories,
            engine: EngineKind::default(),
            revision_bump: REVISION_BUMP,
            lease_grace: LEASE_GRACE,
            record: true,
        }
    }

    fn check(&self, manifest: &Manifest) -> Result<(), BackupError> {
        let ids: BTreeSet<u64> = self.members.iter().map(|member| member.id).collect();
        let here: BTreeSet<u64> = self.directories.iter().map(|(id, _)| *id).collect();
        let problem = if self.members.is_empty() {
            "a cluster has members"
        } else if ids.contains(&0) || ids.iter().any(|id| *id > INITIAL_ID_MAX) {
            "ids of the first members are 1 to 99"
        } else if ids.len() != self.members.len() {
            "two members have the same id"
        } else if self.members.iter().any(|it| it.peer_address.is_empty()) {
            "every member needs an address for its peers"
        } else if self.directories.is_empty() || here.len() != self.directories.len() {
            "there must be one directory for each node to restore here"
        } else if !here.is_subset(&ids) {
            "a node to restore here is not among the members"
        } else if self.revision_bump == 0
            || manifest.revision.checked_add(self.revision_bump).is_none()
        {
            "revisions must jump, and not beyond 2^64"
        } else {
            return Ok(());
        };
        Err(BackupError::refused(problem, "correct the arguments of the restore"))
    }
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster.
    pub cluster_id: [u8; 16],
    /// Its history.
    pub history: [u8; 16],
    /// The revision that it begins with.
    pub revision: u64,
    /// The hash over all transitions that it begins with.
    pub state_hash: [u8; 32],
    /// BLAKE3 over the live records, as in the backup.
    pub state_root: String,
    /// Where the history comes from.
    pub origin: Origin,
    /// The directories that were built.
    pub directories: Vec<PathBuf>,
}

/// Builds data directories of a new cluster from a backup.
///
/// # Errors
///
/// After [`BackupError::Refused`] and [`BackupError::Damaged`] nothing was
/// touched. After another error no directory is there, unless it failed while
/// the finished ones were put in place, one after the other; it says so then.
pub async fn restore(
    repo: &Repo,
    entry: &Entry,
    options: &RestoreOptions,
    observer: &dyn Observer,
) -> Result<Restored, BackupError> {
    let manifest = &entry.manifest;
    options.check(manifest)?;
    let site = Site::survey(&options.directories)?;
    refuse_reuse_of_revisions(repo, manifest, options).await?;
    verify(repo, entry, observer).await?.into_result()?;
    let plan = Plan::new(entry, options);
    let tracker = Tracker::begin(observer, Phase::Load, Some(manifest.stats.plain_bytes));
    let site = tokio::task::spawn_blocking(move || site.begin()).await??;
    let mut loading = Loading::begin(site, options.engine, &plan).await?;
    let damages = Scan::new(repo, manifest, tracker).run(&mut loading).await?;
    if !damages.is_empty() {
        return Err(BackupError::Damaged(damages));
    }
    Tracker::begin(observer, Phase::Finish, None);
    let directories = loading.finish(&plan, manifest).await?;
    let restored = plan.restored(manifest, directories);
    if options.record {
        record(repo, &restored).await;
    }
    Ok(restored)
}

/// The new revisions must be above all that the old cluster has given out, as
/// far as the repository knows.
async fn refuse_reuse_of_revisions(
    repo: &Repo,
    manifest: &Manifest,
    options: &RestoreOptions,
) -> Result<(), BackupError> {
    let listing = repo.list().await?;
    let same = listing.backups.iter().filter(|it| it.manifest.history == manifest.history);
    let newest = same.map(|it| it.manifest.revision).max().unwrap_or(manifest.revision);
    let first = manifest.revision.saturating_add(options.revision_bump);
    if newest < first {
        return Ok(());
    }
    Err(BackupError::refused(
        format!(
            "the old cluster has reached revision {newest}, the new one would begin at {first}"
        ),
        format!("let revisions jump by more than {}", newest - manifest.revision),
    ))
}

/// Writes down the new history, if the bucket allows it.
async fn record(repo: &Repo, restored: &Restored) {
    let recorded = async {
        let history = repo.history(&hex(&restored.history)).await?;
        let (cluster, origin) = (hex(&restored.cluster_id), restored.origin.clone());
        repo.record_history(&history, &cluster, Some(origin)).await
    };
    if let Err(error) = recorded.await {
        tracing::warn!(%error, "the new history could not be written down in the repository");
    }
}

/// All that follows from the arguments.
pub(super) struct Plan {
    /// The new cluster.
    pub(super) cluster_id: [u8; 16],
    /// What is told about the restore in each directory.
    pub(super) origin: Origin,
    /// Where the state stands.
    pub(super) head: Head,
    /// The entry that the log begins after, and the members.
    pub(super) applied: Applied,
    leases_from: Millis,
}

/// The entry that a restored log begins after. What it would have said is the
/// membership.
pub(super) const FIRST_ENTRY: LogId = LogId { term: 1, index: 1, leader: 0 };

impl Plan {
    fn new(entry: &Entry, options: &RestoreOptions) -> Self {
        let manifest = &entry.manifest;
        let membership = membership(&options.members);
        let seed = seed(entry, options, &membership);
        let cluster_id = derive("keelstone restore: cluster", &seed);
        let history = derive("keelstone restore: history", &seed);
        let bump = if planted::is(Bug::RestoreWithoutBump) { 0 } else { options.revision_bump };
        let revision = Revision::new(manifest.revision + bump);
        let now = Millis(manifest.time.commit_ms.max(options.token.time_ms()));
        let origin = Origin {
            reason: "restore".to_owned(),
            parent: manifest.history.uid.clone(),
            fork_revision: manifest.revision,
            fork_hash: manifest.state_hash.clone(),
            first_revision: revision.get(),
            cluster_uid: manifest.cluster_uid.clone(),
            backup_id: manifest.backup_id.clone(),
            repo_uid: manifest.repo_uid.clone(),
        };
        let head = Head {
            revision,
            compacted: revision,
            now,
            hash: first_hash(manifest, &history),
            transitions: manifest.transitions + 1,
            feature_level: manifest.feature_level,
            history,
            leases: 0,
            sessions: 0,
        };
        let grace = u64::try_from(options.lease_grace.as_millis()).unwrap_or(u64::MAX);
        Self {
            cluster_id,
            origin,
            head,
            applied: Applied { id: Some(FIRST_ENTRY), membership },
            leases_from: now.plus(grace),
        }
    }

    /// A chunk of the backup as it is loaded: leases have their full time again.
    fn rearm(&self, chunk: Bytes) -> Result<Bytes, BackupError> {
        let unreadable = |error: &dyn std::fmt::Display| BackupError::State(error.to_string());
        let mut rows = parse_frames(chunk.clone());
        if !rows.any(|row| matches!(row, Ok(Row::Lease(_)))) {
            return Ok(chunk);
        }
        let mut armed = BytesMut::with_capacity(chunk.len());
        for row in parse_frames(chunk) {
            let mut row = row.map_err(|error| unreadable(&error))?;
            if let Row::Lease(lease) = &mut row {
                lease.expires_ms = self.leases_from.plus(lease.ttl_ms).0;
            }
            put_frame(&mut armed, row);
        }
        Ok(armed.freeze())
    }

    fn restored(self, manifest: &Manifest, directories: Vec<PathBuf>) -> Restored {
        Restored {
            cluster_id: self.cluster_id,
            history: self.head.history,
            revision: self.head.revision.get(),
            state_hash: self.head.hash,
            state_root: manifest.state_root.clone(),
            origin: self.origin,
            directories,
        }
    }
}

/// Everything that the new cluster depends on, as bytes. Lengths come first, so
/// that no two sets of arguments have the same.
fn seed(entry: &Entry, options: &RestoreOptions, membership: &disk::Membership) -> Vec<u8> {
    use prost::Message as _;
    let token = options.token.to_string();
    let mut seed = Vec::new();
    for part in [token.as_bytes(), entry.manifest_hash.as_bytes(), &membership.encode_to_vec()] {
        seed.extend((part.len() as u64).to_le_bytes());
        seed.extend(part);
    }
    seed.extend(options.revision_bump.to_le_bytes());
    seed.extend(options.lease_grace.as_millis().to_le_bytes());
    seed
}

fn derive(context: &str, seed: &[u8]) -> [u8; 16] {
    let hash = blake3::derive_key(context, seed);
    hash[..16].try_into().expect("16 of 32 bytes")
}

/// The chain goes on from the old one, in a way that no command could.
fn first_hash(manifest: &Manifest, history: &[u8; 16]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("keelstone restore: first hash of a history");
    hasher.update(manifest.state_hash.as_bytes()).update(history);
    *hasher.finalize().as_bytes()
}

fn membership(members: &[RestoreMember]) -> disk::Membership {
    let mut members: Vec<_> = members
        .iter()
        .map(|member| disk::Member {
            id: member.id,
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
            labels: member.labels.clone(),
        })
        .collect();
    members.sort_by_key(|member| member.id);
    let LogId { term, index, leader } = FIRST_ENTRY;
    disk::Membership {
        log_id: Some(disk::LogId { term, index, leader }),
        configs: vec![disk::VoterSet { ids: members.iter().map(|member| member.id).collect() }],
        members,
    }
}

/// Directories that rows are loaded into, side by side.
struct Loading<'a> {
    plan: &'a Plan,
    plots: Vec<Plot>,
}

impl<'a> Loading<'a> {
    async fn begin(
        site: Vec<Plot>,
        engine: EngineKind,
        plan: &'a Plan,
    ) -> Result<Self, BackupError> {
        let mut loading = Self { plan, plots: site };
        loading.each(move |plot| plot.open_state(engine)).await?;
        Ok(loading)
    }

    /// Does the same in all directories at once.
    async fn each(
        &mut self,
        work: impl Fn(&mut Plot) -> Result<(), BackupError> + Clone + Send + 'static,
    ) -> Result<(), BackupError> {
        let tasks = std::mem::take(&mut self.plots).into_iter().map(|mut plot| {
            let work = work.clone();
            tokio::task::spawn_blocking(move || {
                let result = work(&mut plot);
                (plot, result)
            })
        });
        // All end before the first failure is told: none writes on behind it.
        let mut failed = Ok(());
        for done in futures::future::join_all(tasks).await {
            let (plot, result) = done?;
            self.plots.push(plot);
            failed = failed.and(result);
        }
        failed
    }

    async fn finish(
        mut self,
        plan: &Plan,
        manifest: &Manifest,
    ) -> Result<Vec<PathBuf>, BackupError> {
        let (head, applied) = (plan.head.clone(), plan.applied.clone());
        let (cluster_id, origin) = (plan.cluster_id, plan.origin.clone());
        let root = manifest.state_root.clone();
        self.each(move |plot| {
            plot.finish_state(&root, &head, &applied)?;
            plot.write_log()?;
            plot.write_identity(cluster_id, &origin)
        })
        .await?;
        let plots = self.plots;
        tokio::task::spawn_blocking(move || put_all_in_place(plots)).await?
    }
}

fn put_all_in_place(plots: Vec<Plot>) -> Result<Vec<PathBuf>, BackupError> {
    let mut there: Vec<PathBuf> = Vec::new();
    for plot in plots {
        match plot.put_in_place() {
            Ok(place) => there.push(place),
            Err(BackupError::Io { what, source }) if !there.is_empty() => {
                let names: Vec<_> = there.iter().map(|it| it.display().to_string()).collect();
                let names = names.join(", ");
                let what = format!("{what} ({names} are there: remove them and begin again)");
                return Err(BackupError::Io { what, source });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(there)
}

#[async_trait]
impl Sink for Loading<'_> {
    async fn take(&mut self, chunk: Bytes) -> Result<(), BackupError> {
        let chunk = self.plan.rearm(chunk)?;
        self.each(move |plot| plot.load(chunk.clone())).await
    }
}
