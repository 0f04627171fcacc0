//! A backup of every released format is kept here and must stay readable: it is
//! verified and restored as if it had been made today.
//!
//! `KEELSTONE_BLESS=1` makes one for a new format; old ones are never touched.

use crate::restoring::{fingerprint, open_state, options, token};
use crate::round_trip::{back_up, hex};
use crate::store::Store;
use keelstone_server::backup::{BucketOptions, BucketUrl, Repo, Unobserved, open, restore, verify};
use keelstone_store::machine::View as _;
use keelstone_store::{LeaseId, Space};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::path::{Path, PathBuf};

/// Folder of the repository, and the state root that it must give.
const REPOSITORIES: [(&str, &str); 1] =
    [("v1", "63f974cc496b8efaa26690a35e0a6a3798638fcf5ba378769f409e9785e30889")];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/backup").join(name)
}

async fn repository(folder: &Path, make: bool) -> Repo {
    let url: BucketUrl = format!("file://{}", folder.display()).parse().unwrap();
    let bucket = open(&url, &BucketOptions::default(), make).unwrap();
    if make { Repo::open_or_init(bucket).await.unwrap() } else { Repo::open(bucket).await.unwrap() }
}

/// A small store with a bit of everything.
fn small_store() -> Store {
    let mut store = Store::new();
    store.fill_small(&mut StdRng::seed_from_u64(1));
    store.put(Space::Config.key(b"a/b"), "{\"x\":1}", LeaseId::NONE);
    store.put(Space::Entities.key(b""), "", LeaseId::NONE);
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_all_formats_are_read() {
    if std::env::var_os("KEELSTONE_BLESS").is_some() {
        let (name, _) = REPOSITORIES.last().unwrap();
        let repo = repository(&folder(name), true).await;
        let entry = back_up(&small_store(), &repo).await;
        println!("{} has {}", entry.manifest.name(), entry.manifest.state_root);
    }
    for (name, root) in REPOSITORIES {
        let repo = repository(&folder(name), false).await;
        let entry = repo.find("latest").await.unwrap();
        assert_eq!(entry.manifest.state_root, root, "{name}");
        verify(&repo, &entry, &Unobserved).await.unwrap().into_result().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path());
        options.record = false;
        options.token = token();
        restore(&repo, &entry, &options, &Unobserved).await.unwrap();
        let state = open_state(&dir.path().join("n1"));
        let view = state.view().unwrap();
        let restored = view.state_root(view.head().revision).unwrap().unwrap();
        assert_eq!(hex(&restored), entry.manifest.state_root);
        assert_ne!(fingerprint(&state), [0; 32]);
    }
}
