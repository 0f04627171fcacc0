//! Every kind of damage to a backup is found, named, and keeps a restore from
//! beginning.

use crate::round_trip::back_up;
use crate::store::Store;
use crate::support::{BUCKET, bucket_of, s3, seeded};
use keelstone_server::backup::{BackupError, Class, Damage, Entry, Repo, Unobserved, verify};
use keelstone_server::dev::s3::DevS3;
use rand::Rng as _;

const PREFIX: &str = "some/prefix";

/// A backup of two packs or more.
async fn two_packs(server: &DevS3) -> (Repo, Entry) {
    let mut rng = seeded();
    let repo = Repo::open_or_init(bucket_of(server)).await.unwrap();
    let mut store = Store::new();
    store.fill(&mut rng, 60);
    store.fill_large(&mut rng, 2);
    let entry = back_up(&store, &repo).await;
    assert!(entry.manifest.packs.len() >= 2);
    (repo, entry)
}

async fn damages(repo: &Repo, entry: &Entry) -> Vec<Damage> {
    verify(repo, entry, &Unobserved).await.unwrap().damages
}

fn object(entry: &Entry, name: &str) -> String {
    format!("{PREFIX}/{}/{name}", entry.manifest.folder())
}

/// The damage is in one object, which is named; undone, all is well again.
async fn is_found(
    server: &DevS3,
    repo: &Repo,
    entry: &Entry,
    name: &str,
    what: &str,
    change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
) {
    let key = object(entry, name);
    let bucket = bucket_of(server);
    let short = format!("{}/{name}", entry.manifest.folder());
    let before = bucket.get(&short).await.unwrap();
    server.tamper(BUCKET, &key, change).await;
    let found = damages(repo, entry).await;
    assert!(!found.is_empty(), "{name}: {what} was not found");
    assert!(found.iter().all(|damage| damage.object == short), "{name}: {what}: {found:?}");
    bucket.delete(&short).await.unwrap();
    bucket.create(&short, before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_packs_and_index_is_found_and_named() {
    let server = s3().await;
    let (repo, entry) = two_packs(&server).await;
    let mut rng = seeded();
    for name in ["pack-00000.bin", "pack-00001.bin", "index.bin"] {
        let size = bucket_of(&server)
            .head(&format!("{}/{name}", entry.manifest.folder()))
            .await
            .unwrap()
            .unwrap()
            .size;
        let size = usize::try_from(size).unwrap();
        let places = [
            ("the magic", 0),
            ("the version", 4),
            ("the header", 20),
            ("the body", rng.random_range(100..size - 60)),
            ("the checksum", size - 38),
            ("the hash", size - 20),
            ("the end mark", size - 1),
        ];
        for (what, at) in places {
            is_found(&server, &repo, &entry, name, what, |mut bytes| {
                bytes[at] ^= 1 << (at % 8);
                Some(bytes)
            })
            .await;
        }
        let end = rng.random_range(0..size);
        is_found(&server, &repo, &entry, name, "a cut", |mut bytes| {
            bytes.truncate(end);
            Some(bytes)
        })
        .await;
        is_found(&server, &repo, &entry, name, "more bytes", |mut bytes| {
            bytes.push(0);
            Some(bytes)
        })
        .await;
        is_found(&server, &repo, &entry, name, "its loss", |_| None).await;
    }
    assert_eq!(damages(&repo, &entry).await, [], "and all was put right again");
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_packs_are_found() {
    let server = s3().await;
    let (repo, entry) = two_packs(&server).await;
    let bucket = bucket_of(&server);
    let folder = entry.manifest.folder();
    let names = ["pack-00000.bin", "pack-00001.bin"].map(|name| format!("{folder}/{name}"));
    let [first, second] =
        [bucket.get(&names[0]).await.unwrap(), bucket.get(&names[1]).await.unwrap()];
    for (name, bytes) in [(&names[0], second), (&names[1], first)] {
        bucket.delete(name).await.unwrap();
        bucket.create(name, bytes).await.unwrap();
    }
    let found = damages(&repo, &entry).await;
    assert_eq!(found.len(), 2, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_another_backup_is_found() {
    let server = s3().await;
    let (repo, entry) = two_packs(&server).await;
    let other = back_up(&Store::new(), &repo).await;
    let bucket = bucket_of(&server);
    let foreign =
        bucket.get(&format!("{}/index.bin", other.manifest.folder())).await.unwrap().to_vec();
    is_found(&server, &repo, &entry, "index.bin", "another index", |_| Some(foreign)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_never_passed_over() {
    let server = s3().await;
    let repo = Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let mut store = Store::new();
    let older = back_up(&store, &repo).await;
    store.fill(&mut seeded(), 3);
    let newer = back_up(&store, &repo).await;
    let key = object(&newer, "MANIFEST");
    let bucket = bucket_of(&server);
    let text = bucket.get(key.strip_prefix("some/prefix/").unwrap()).await.unwrap();
    let mut rng = seeded();
    for _ in 0..200 {
        let (at, bit) = (rng.random_range(0..text.len()), rng.random_range(0..8));
        server
            .tamper(BUCKET, &key, |_| {
                let mut flipped = text.to_vec();
                flipped[at] ^= 1 << bit;
                Some(flipped)
            })
            .await;
        let listing = repo.list().await.unwrap();
        assert_eq!(listing.backups, std::slice::from_ref(&older), "byte {at}, bit {bit}");
        assert!(listing.unreadable[0].problem.is_some());
        for name in ["latest", &newer.manifest.name()] {
            let error = repo.find(name).await.unwrap_err();
            assert_eq!(error.class(), Class::VerificationFailed, "{error}");
        }
        assert_eq!(repo.find(&older.manifest.name()).await.unwrap(), older);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_without_its_manifest_does_not_exist() {
    let server = s3().await;
    let (repo, entry) = two_packs(&server).await;
    server.tamper(BUCKET, &object(&entry, "MANIFEST"), |_| None).await;
    let listing = repo.list().await.unwrap();
    assert!(listing.backups.is_empty());
    assert_eq!(listing.unreadable[0].problem, None);
    assert!(matches!(repo.find("latest").await, Err(BackupError::Refused { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_not_one_is_refused() {
    let server = s3().await;
    let error = Repo::open(bucket_of(&server)).await.unwrap_err();
    assert_eq!(error.class(), Class::Refused, "{error}");
    Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let key = format!("{PREFIX}/REPO.json");
    server
        .tamper(BUCKET, &key, |mut bytes| {
            bytes[30] ^= 1;
            Some(bytes)
        })
        .await;
    let error = Repo::open(bucket_of(&server)).await.unwrap_err();
    assert_eq!(error.class(), Class::VerificationFailed, "{error}");
}
