//! Restores: the same state in a new cluster, or nothing at all.

use crate::round_trip::{back_up, hex};
use crate::store::Store;
use crate::support::{BUCKET, bucket_of, s3, seeded};
use keelstone_server::backup::{
    BackupError, Class, Entry, REVISION_BUMP, Repo, RestoreMember, RestoreOptions, RestoreToken,
    Restored, Unobserved, restore,
};
use keelstone_server::dev::s3::{DevS3, Fault, Operation, Rule};
use keelstone_server::replica::identity;
use keelstone_store::disk::log::{Log, LogOptions};
use keelstone_store::disk::storage::FileStorage;
use keelstone_store::disk::{EngineKind, LogId};
use keelstone_store::machine::{Rejection, View as _};
use keelstone_store::state::{State, StateOptions};
use keelstone_store::{LeaseId, Revision};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TOKEN_TIME: u64 = 1_800_000_000_000;
const GRACE_MS: u64 = 600_000;

fn members() -> Vec<RestoreMember> {
    let member = |id: u64| RestoreMember {
        id,
        peer_address: format!("10.0.0.{id}:7601"),
        client_address: format!("http://10.0.0.{id}:7701"),
        labels: BTreeMap::from([("rack".to_owned(), format!("r{id}"))]),
    };
    vec![member(1), member(2), member(3)]
}

pub(crate) fn token() -> RestoreToken {
    RestoreToken::from_parts(TOKEN_TIME, 0xFEED)
}

fn places(dir: &Path) -> Vec<(u64, PathBuf)> {
    (1..=3).map(|id| (id, dir.join(format!("n{id}")))).collect()
}

pub(crate) fn options(dir: &Path) -> RestoreOptions {
    RestoreOptions::new(token(), members(), places(dir))
}

pub(crate) fn open_state(place: &Path) -> State {
    let dir = identity::state_dir(place);
    State::open(&dir, EngineKind::default(), StateOptions::default()).unwrap()
}

/// The hash over all rows of a state, head and position included.
pub(crate) fn fingerprint(state: &State) -> [u8; 32] {
    let mut snapshot = state.snapshot().unwrap();
    while snapshot.next_chunk().unwrap().is_some() {}
    snapshot.trailer().hash
}

async fn backed_up(server: &DevS3) -> (Store, Repo, Entry) {
    let mut rng = seeded();
    let repo = Repo::open_or_init(bucket_of(server)).await.unwrap();
    let mut store = Store::new();
    store.fill(&mut rng, 150);
    let entry = back_up(&store, &repo).await;
    (store, repo, entry)
}

async fn restored(repo: &Repo, entry: &Entry, options: &RestoreOptions) -> Restored {
    restore(repo, entry, options, &Unobserved).await.unwrap()
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_directories_hold_the_state_of_the_backup() {
    let server = s3().await;
    let (store, repo, entry) = backed_up(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let told = restored(&repo, &entry, &options(dir.path())).await;
    let old = store.view();
    let old_head = old.head();
    assert_eq!(told.revision, old_head.revision.get() + REVISION_BUMP);
    assert_eq!(told.origin.parent, hex(&old_head.history));
    let mut fingerprints = Vec::new();
    for (id, place) in places(dir.path()) {
        let node = identity::read(&place).unwrap().unwrap();
        assert_eq!((node.cluster_id, node.node_id, node.held_log), (told.cluster_id, id, true));
        let state = open_state(&place);
        let view = state.view().unwrap();
        let head = view.head();
        assert_eq!(head.revision.get(), told.revision);
        assert_eq!(head.compacted, head.revision);
        assert_eq!((head.history, head.hash), (told.history, told.state_hash));
        assert!(head.history != old_head.history && head.hash != old_head.hash);
        assert_eq!((head.sessions, head.leases), (0, 6));
        assert_eq!(head.now.0, TOKEN_TIME);
        let root = view.state_root(head.revision).unwrap().unwrap();
        assert_eq!(hex(&root), entry.manifest.state_root);
        for lease in old.leases(LeaseId::NONE, 100).unwrap() {
            let armed = view.lease(lease.id).unwrap().unwrap();
            assert_eq!(armed.ttl_ms, lease.ttl_ms);
            assert_eq!(armed.expires.0, TOKEN_TIME + GRACE_MS + lease.ttl_ms);
            assert_eq!(view.lease_keys(lease.id).unwrap(), old.lease_keys(lease.id).unwrap());
        }
        let before = view.events_from(old_head.revision, 10, 1 << 20).unwrap();
        assert!(matches!(before, Err(Rejection::Compacted { .. })), "old watchers are told");
        assert!(view.expiring_leases(head.now, 10).unwrap().is_empty());
        fingerprints.push(fingerprint(&state));
    }
    assert!(fingerprints.iter().all(|it| *it == fingerprints[0]), "three equal replicas");
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(names.len(), 3, "nothing else is left: {names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_begins_after_the_first_entry() {
    let server = s3().await;
    let (_, repo, entry) = backed_up(&server).await;
    let dir = tempfile::tempdir().unwrap();
    restored(&repo, &entry, &options(dir.path())).await;
    for (id, place) in places(dir.path()) {
        let storage = FileStorage::open(&identity::log_dir(&place)).unwrap();
        let (log, _writer) = Log::open(Arc::new(storage), LogOptions::default()).unwrap();
        let found = log.recovered();
        let first = LogId { term: 1, index: 1, leader: 0 };
        assert_eq!((found.purged, found.last), (Some(first), Some(first)));
        let vote = found.vote.unwrap();
        assert_eq!((vote.term, vote.node, vote.committed), (1, id, false));
        let applied = open_state(&place).view().unwrap().applied();
        assert_eq!(applied.id, Some(first));
        assert_eq!(applied.membership.configs[0].ids, [1, 2, 3]);
        assert_eq!(applied.membership.members[2].client_address, "http://10.0.0.3:7701");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_restore_alone_build_one_cluster() {
    let server = s3().await;
    let (_, repo, entry) = backed_up(&server).await;
    let together = tempfile::tempdir().unwrap();
    let told = restored(&repo, &entry, &options(together.path())).await;
    let expected = fingerprint(&open_state(&together.path().join("n2")));
    let alone = tempfile::tempdir().unwrap();
    let mut one = options(alone.path());
    one.directories.retain(|(id, _)| *id == 2);
    one.members.reverse();
    let told_alone = restored(&repo, &entry, &one).await;
    assert_eq!((told_alone.cluster_id, told_alone.history), (told.cluster_id, told.history));
    assert_eq!(fingerprint(&open_state(&alone.path().join("n2"))), expected);
    // Whoever restores something else belongs to another cluster.
    let mut others: Vec<RestoreOptions> = (0..4)
        .map(|number| RestoreOptions {
            directories: vec![(1, alone.path().join(format!("other{number}")))],
            ..options(alone.path())
        })
        .collect();
    others[0].token = RestoreToken::from_parts(TOKEN_TIME, 0xFEEE);
    others[1].members[0].peer_address = "10.0.0.9:1".to_owned();
    others[2].revision_bump += 1;
    others[3].members.pop();
    let mut ids = vec![told.cluster_id];
    for other in &others {
        ids.push(restored(&repo, &entry, other).await.cluster_id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_history_is_written_down_and_backed_up_beside_the_old() {
    let server = s3().await;
    let (store, repo, entry) = backed_up(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let told = restored(&repo, &entry, &options(dir.path())).await;
    let key = format!("h/00000002-{}/HISTORY.json", hex(&told.history));
    let text = bucket_of(&server).get(&key).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains(&hex(&store.view().head().history)), "{text}");
    let state = open_state(&dir.path().join("n1"));
    let source = keelstone_server::backup::Source::of_view(state.view().unwrap(), told.cluster_id);
    let again = keelstone_server::backup::create(
        source,
        &repo,
        keelstone_server::backup::CreateOptions::default(),
        &Unobserved,
    )
    .await
    .unwrap();
    assert_eq!(again.manifest.history.ordinal, 2);
    assert_eq!(again.manifest.state_root, entry.manifest.state_root);
    assert_eq!(repo.find("latest").await.unwrap(), again);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_are_in_use_are_left_alone() {
    let server = s3().await;
    let (_, repo, entry) = backed_up(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let used = dir.path().join("n3");
    std::fs::create_dir(&used).unwrap();
    std::fs::create_dir(dir.path().join("n2")).unwrap();
    std::fs::write(used.join("precious"), "data").unwrap();
    let error = restore(&repo, &entry, &options(dir.path()), &Unobserved).await.unwrap_err();
    assert_eq!(error.class(), Class::Refused, "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    assert_eq!(std::fs::read(used.join("precious")).unwrap(), b"data");
    std::fs::remove_dir_all(&used).unwrap();
    restored(&repo, &entry, &options(dir.path())).await;
    let error = restore(&repo, &entry, &options(dir.path()), &Unobserved).await.unwrap_err();
    assert_eq!(error.class(), Class::Refused, "a second time: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_touches_nothing() {
    let server = s3().await;
    let (_, repo, entry) = backed_up(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let pack = format!("some/prefix/{}/pack-00000.bin", entry.manifest.folder());
    server
        .tamper(BUCKET, &pack, |mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Some(bytes)
        })
        .await;
    let error = restore(&repo, &entry, &options(dir.path()), &Unobserved).await.unwrap_err();
    assert_eq!(error.class(), Class::VerificationFailed, "{error}");
    assert!(is_empty(dir.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_half_way_leaves_nothing() {
    let server = s3().await;
    let (_, repo, entry) = backed_up(&server).await;
    let dir = tempfile::tempdir().unwrap();
    // All is well while it is verified, and the bucket is gone while it is loaded.
    let reads = u32::try_from(entry.manifest.packs.len()).unwrap() + 1;
    let folder = format!("some/prefix/{}/", entry.manifest.folder());
    let manifests = 1;
    let rule = Rule::times(Operation::Get, &folder, Fault::AccessDenied, 1000);
    server.faults().add(rule.after(reads + manifests + 1));
    let error = restore(&repo, &entry, &options(dir.path()), &Unobserved).await.unwrap_err();
    assert!(matches!(error, BackupError::Bucket(_)), "{error}");
    assert!(is_empty(dir.path()));
    server.faults().clear();
    // What a killed one left behind is in nobody's way.
    let left = dir.path().join(".n1.restoring");
    std::fs::create_dir_all(left.join("state/engine-000001")).unwrap();
    std::fs::write(left.join("state/CURRENT"), "fjall engine-000001").unwrap();
    restored(&repo, &entry, &options(dir.path())).await;
    assert!(!left.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_make_no_cluster_are_refused() {
    let server = s3().await;
    let (mut store, repo, entry) = backed_up(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let right = || options(dir.path());
    let mut wrong = vec![right(), right(), right(), right(), right(), right()];
    wrong[0].members.clear();
    wrong[1].members[2].id = 1;
    wrong[2].members.pop();
    wrong[3].directories[1].1 = wrong[3].directories[0].1.clone();
    wrong[4].revision_bump = 0;
    wrong[5].revision_bump = u64::MAX;
    for options in &wrong {
        let error = restore(&repo, &entry, options, &Unobserved).await.unwrap_err();
        assert_eq!(error.class(), Class::Refused, "{error}");
    }
    // The old cluster went on, further than revisions would jump.
    store.fill(&mut seeded(), 30);
    let newer = back_up(&store, &repo).await;
    let mut short = right();
    short.revision_bump = 10;
    let error = restore(&repo, &entry, &short, &Unobserved).await.unwrap_err();
    assert_eq!(error.class(), Class::Refused, "{error}");
    short.revision_bump = newer.manifest.revision - entry.manifest.revision + 1;
    assert!(is_empty(dir.path()));
    let told = restored(&repo, &entry, &short).await;
    assert!(Revision::new(told.revision) > store.view().head().revision);
}
