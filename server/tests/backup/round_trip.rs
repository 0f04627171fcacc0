//! Backups of random states, listed and verified over HTTP and in directories.

use crate::store::{CLUSTER, Store};
use crate::support::{bucket_of, s3, seeded};
use keelstone_server::backup::{
    BackupError, BucketOptions, BucketUrl, CreateOptions, Entry, Phase, Progress, Repo, Source,
    Unobserved, create, open, verify,
};
use keelstone_server::dev::s3::{Fault, Operation, Rule};
use keelstone_store::machine::View as _;
use keelstone_store::{LeaseId, Space};
use std::sync::Mutex;

/// Small packs, so that there are many.
pub(crate) fn small() -> CreateOptions {
    CreateOptions { chunk_bytes: 1 << 20, pack_bytes: 2 << 20 }
}

pub(crate) async fn back_up(store: &Store, repo: &Repo) -> Entry {
    create(Source::of_view(store.view(), CLUSTER), repo, small(), &Unobserved).await.unwrap()
}

pub(crate) async fn assert_sound(repo: &Repo, entry: &Entry) {
    let verified = verify(repo, entry, &Unobserved).await.unwrap();
    assert_eq!(verified.damages, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_what_the_state_was() {
    let mut rng = seeded();
    let server = s3().await;
    let dir = tempfile::tempdir().unwrap();
    let url: BucketUrl = format!("file://{}", dir.path().display()).parse().unwrap();
    let mut store = Store::new();
    store.fill(&mut rng, 300);
    for bucket in [bucket_of(&server), open(&url, &BucketOptions::default(), true).unwrap()] {
        let repo = Repo::open_or_init(bucket.clone()).await.unwrap();
        assert!(repo.capabilities().conditional_create && repo.capabilities().read_after_write);
        assert!(bucket.list("probe").await.unwrap().is_empty());
        let entry = back_up(&store, &repo).await;
        let head = store.view().head();
        let root = store.view().state_root(head.revision).unwrap().unwrap();
        let manifest = &entry.manifest;
        assert_eq!(manifest.revision, head.revision.get());
        assert_eq!(manifest.state_root, hex(&root));
        assert_eq!(manifest.state_hash, hex(&head.hash));
        assert_eq!(manifest.counts.leases, 6);
        assert!(manifest.packs.len() > 1, "more than one pack: {:?}", manifest.stats);
        assert_sound(&repo, &entry).await;
        let again = Repo::open(bucket).await.unwrap();
        assert_eq!(again.uid(), repo.uid());
        let listing = again.list().await.unwrap();
        assert_eq!((listing.backups, listing.unreadable), (vec![entry.clone()], vec![]));
        let end = &manifest.backup_id[24..];
        for name in ["latest", &manifest.name(), end, &manifest.backup_id] {
            assert_eq!(again.find(name).await.unwrap(), entry);
        }
        assert!(matches!(again.find("r1-abcd").await, Err(BackupError::Refused { .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_of_the_usual_size_are_uploaded_side_by_side() {
    let server = s3().await;
    let repo = Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let mut store = Store::new();
    store.fill_large(&mut seeded(), 68);
    let source = Source::of_view(store.view(), CLUSTER);
    let entry = create(source, &repo, CreateOptions::default(), &Unobserved).await.unwrap();
    assert_eq!(entry.manifest.packs.len(), 3);
    assert_sound(&repo, &entry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_has_a_backup_too() {
    let server = s3().await;
    let repo = Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let entry = back_up(&Store::new(), &repo).await;
    assert_eq!((entry.manifest.revision, entry.manifest.counts.keys), (1, 0));
    assert_sound(&repo, &entry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_one_history_are_chained_and_ordered() {
    let mut rng = seeded();
    let server = s3().await;
    let repo = Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let mut store = Store::new();
    let mut made: Vec<Entry> = Vec::new();
    for _ in 0..3 {
        store.fill(&mut rng, 5);
        let entry = back_up(&store, &repo).await;
        let before = made.last().map(|entry| entry.manifest_hash.clone());
        assert_eq!(entry.manifest.prev_manifest, before.unwrap_or_default());
        made.push(entry);
    }
    assert_eq!(repo.list().await.unwrap().backups, made);
    assert_eq!(repo.find("latest").await.unwrap(), made[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_writes_is_the_state_at_its_revision() {
    let mut rng = seeded();
    let server = s3().await;
    let repo = Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let mut store = Store::new();
    store.fill(&mut rng, 300);
    let revision = store.view().head().revision;
    let expected = store.view().state_root(revision).unwrap().unwrap();
    let source = Source::of_view(store.view(), CLUSTER);
    let task = {
        let repo = repo.clone();
        tokio::spawn(async move { create(source, &repo, small(), &Unobserved).await.unwrap() })
    };
    let mut written = 0;
    while !task.is_finished() || written < 50 {
        store.put(Space::Raw.key(format!("key/{written:03}").as_bytes()), "new", LeaseId::NONE);
        written += 1;
        tokio::task::yield_now().await;
    }
    let entry = task.await.unwrap();
    assert!(store.view().head().revision > revision, "writes went on");
    assert_eq!(entry.manifest.revision, revision.get());
    assert_eq!(entry.manifest.state_root, hex(&expected));
    assert_sound(&repo, &entry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_stumbles_still_gets_a_whole_backup() {
    let mut rng = seeded();
    let server = s3().await;
    let repo = Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let mut store = Store::new();
    store.fill(&mut rng, 200);
    let prefix = "some/prefix/h/";
    for fault in [Fault::ErrorAfterCommit, Fault::SlowDown, Fault::Conflict] {
        server.faults().add(Rule::times(Operation::Put, prefix, fault, 1));
    }
    let entry = back_up(&store, &repo).await;
    assert_eq!(server.faults().struck(), 3);
    assert_eq!(repo.list().await.unwrap().backups.len(), 1, "and only one");
    server.faults().add(Rule::once(Operation::Get, prefix, Fault::Cut));
    let flip = Fault::Flip(keelstone_server::dev::s3::Place::FromStart(2000));
    server.faults().add(Rule::once(Operation::Get, prefix, flip).after(1));
    assert_sound(&repo, &entry).await;
    assert_eq!(server.faults().struck(), 5, "damage on the way is read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_fails_leaves_no_backup_and_no_rest() {
    let mut rng = seeded();
    let server = s3().await;
    let repo = Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let mut store = Store::new();
    store.fill(&mut rng, 300);
    server.faults().add(Rule::times(Operation::Put, "", Fault::AccessDenied, 100).after(1));
    let failed = create(Source::of_view(store.view(), CLUSTER), &repo, small(), &Unobserved).await;
    assert!(matches!(failed, Err(BackupError::Bucket(_))), "{failed:?}");
    server.faults().clear();
    assert!(repo.list().await.unwrap().backups.is_empty());
    let left = server.keys(crate::support::BUCKET).await;
    assert!(left.iter().all(|key| !key.contains("/full/")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_goes_on_to_the_end() {
    let server = s3().await;
    let repo = Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let mut store = Store::new();
    store.fill(&mut seeded(), 200);
    let seen = Mutex::new(Vec::<Progress>::new());
    let observer = |progress: &Progress| seen.lock().unwrap().push(progress.clone());
    let entry =
        create(Source::of_view(store.view(), CLUSTER), &repo, small(), &observer).await.unwrap();
    verify(&repo, &entry, &observer).await.unwrap();
    let seen = seen.into_inner().unwrap();
    for phase in [Phase::Copy, Phase::Verify] {
        let last = seen.iter().rfind(|it| it.phase == phase).unwrap();
        assert_eq!(
            (last.bytes, last.rows),
            (entry.manifest.stats.plain_bytes, entry.manifest.rows)
        );
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
