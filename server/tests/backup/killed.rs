//! Work that is cut off at a random moment leaves a whole result or none.

use crate::restoring::{open_state, options, token};
use crate::round_trip::{back_up, hex, small};
use crate::store::{CLUSTER, Store};
use crate::support::{BUCKET, bucket_of, s3, seeded};
use keelstone_server::backup::{Repo, Source, Unobserved, create, restore, verify};
use keelstone_server::dev::s3::{Fault, Operation, Rule};
use keelstone_store::machine::View as _;
use rand::Rng as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_cut_off_is_whole_or_not_there() {
    let mut rng = seeded();
    let server = s3().await;
    let repo = Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let mut store = Store::new();
    store.fill(&mut rng, 30);
    let slow = Fault::Slow(Duration::from_millis(5));
    server.faults().add(Rule::times(Operation::Any, "", slow, u32::MAX));
    for _ in 0..15 {
        let source = Source::of_view(store.view(), CLUSTER);
        let task = {
            let repo = repo.clone();
            tokio::spawn(async move { create(source, &repo, small(), &Unobserved).await })
        };
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
        task.abort();
        drop(task.await);
    }
    server.faults().clear();
    for entry in repo.list().await.unwrap().backups {
        verify(&repo, &entry, &Unobserved).await.unwrap().into_result().unwrap();
    }
    // What is left of the others is in nobody's way.
    let entry = back_up(&store, &repo).await;
    verify(&repo, &entry, &Unobserved).await.unwrap().into_result().unwrap();
}

/// A real process, killed with SIGKILL while it restores over a slow bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_is_whole_or_not_there() {
    let mut rng = seeded();
    let server = s3().await;
    let repo = Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let mut store = Store::new();
    store.fill(&mut rng, 40);
    let entry = back_up(&store, &repo).await;
    let slow = Fault::Slow(Duration::from_millis(20));
    server.faults().add(Rule::times(Operation::Any, "", slow, u32::MAX));
    let dir = tempfile::tempdir().unwrap();
    let begin = || {
        Command::new(env!("CARGO_BIN_EXE_keelstone"))
            .args(["restore", "--from", &format!("s3://{BUCKET}/some/prefix")])
            .args([
                "--initial-cluster",
                "1=10.0.0.1:7601/10.0.0.1:7701,2=10.0.0.2:7601/10.0.0.2:7701",
            ])
            .args(["--token", &token().to_string(), "--s3-endpoint", &server.url()])
            .args(["--node", &format!("1={}", dir.path().join("n1").display())])
            .args(["--node", &format!("2={}", dir.path().join("n2").display())])
            .env("AWS_ACCESS_KEY_ID", &server.credentials().access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", server.credentials().secret_access_key.expose())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let places = ["n1", "n2"].map(|name| dir.path().join(name));
    // One to its end, to know how long it takes on this machine.
    let started = Instant::now();
    let mut process = begin();
    let whole = tokio::task::spawn_blocking(move || process.wait().unwrap()).await.unwrap();
    assert!(whole.success());
    let length = started.elapsed();
    for place in &places {
        std::fs::remove_dir_all(place).unwrap();
    }
    let mut cut = 0;
    for _ in 0..12 {
        let mut process = begin();
        tokio::time::sleep(length.mul_f64(rng.random_range(0.0..1.2))).await;
        process.kill().unwrap();
        process.wait().unwrap();
        for place in &places {
            if !place.exists() {
                cut += 1;
                continue;
            }
            let state = open_state(place);
            let view = state.view().unwrap();
            let root = view.state_root(view.head().revision).unwrap().unwrap();
            assert_eq!(hex(&root), entry.manifest.state_root, "in place means complete");
            drop((view, state));
            std::fs::remove_dir_all(place).unwrap();
        }
    }
    assert!(cut > 0, "at least some were killed early enough");
    server.faults().clear();
    // Whatever they left does not hinder the next.
    restore(&repo, &entry, &options(dir.path()), &Unobserved).await.unwrap();
    open_state(&dir.path().join("n3"));
}
