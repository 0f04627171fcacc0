//! The bucket over real HTTP, with a server that fails on demand.

use crate::support::{self, BUCKET, bucket_of, s3};
use bytes::Bytes;
use futures::future::join_all;
use keelstone_server::backup::{
    Bucket, BucketError, BucketOptions, BucketUrl, Created, Secret, open,
};
use keelstone_server::dev::s3::{Credentials, DevS3, Fault, Operation, Rule};
use std::sync::Arc;
use std::time::Duration;

async fn checks_every_operation(bucket: &dyn Bucket) {
    let body = Bytes::from_static(b"first");
    assert_eq!(bucket.head("a/x").await.unwrap(), None);
    assert!(matches!(bucket.get("a/x").await, Err(BucketError::NotFound { .. })));
    assert_eq!(bucket.create("a/x", body.clone()).await.unwrap(), Created::Mine);
    let again = bucket.create("a/x", body.clone()).await.unwrap();
    assert_eq!(again, Created::Mine, "the same bytes again");
    let other = bucket.create("a/x", Bytes::from_static(b"second")).await.unwrap();
    assert_eq!(other, Created::Other(body.clone()));
    assert_eq!(bucket.get("a/x").await.unwrap(), body);
    assert_eq!(bucket.head("a/x").await.unwrap().unwrap().size, 5);
    for key in ["a/b/y", "a/c/d/z", "a/c/w", "b"] {
        bucket.create(key, Bytes::new()).await.unwrap();
    }
    let listed = bucket.list("a").await.unwrap();
    let names: Vec<_> = listed.iter().map(|meta| meta.key.as_str()).collect();
    assert_eq!(names, ["a/b/y", "a/c/d/z", "a/c/w", "a/x"]);
    assert_eq!(bucket.folders("a").await.unwrap(), ["b", "c"]);
    assert!(bucket.folders("none").await.unwrap().is_empty());
    assert!(bucket.list("none").await.unwrap().is_empty());
    bucket.delete("a/x").await.unwrap();
    bucket.delete("a/x").await.unwrap();
    assert_eq!(bucket.head("a/x").await.unwrap(), None);
}

#[tokio::test]
async fn every_operation_works_over_http() {
    let server = s3().await;
    checks_every_operation(&*bucket_of(&server)).await;
    assert_eq!(server.keys(BUCKET).await[0], "some/prefix/a/b/y");
}

#[tokio::test]
async fn every_operation_works_in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let url: BucketUrl = format!("file://{}/deep/er", dir.path().display()).parse().unwrap();
    let missing = open(&url, &BucketOptions::default(), false);
    assert!(matches!(missing, Err(BucketError::Settings(_))));
    checks_every_operation(&*open(&url, &BucketOptions::default(), true).unwrap()).await;
}

#[tokio::test]
async fn of_many_creators_one_wins() {
    let server = s3().await;
    let dir = tempfile::tempdir().unwrap();
    let url: BucketUrl = format!("file://{}", dir.path().display()).parse().unwrap();
    for bucket in [bucket_of(&server), open(&url, &BucketOptions::default(), false).unwrap()] {
        for round in 0..10 {
            let key = format!("race/{round}");
            let racers = (0..16).map(|racer| {
                let (bucket, key) = (Arc::clone(&bucket), key.clone());
                tokio::spawn(async move { bucket.create(&key, format!("{racer}").into()).await })
            });
            let mut winners = Vec::new();
            let mut losers = Vec::new();
            for (racer, created) in join_all(racers).await.into_iter().enumerate() {
                match created.unwrap().unwrap() {
                    Created::Mine => winners.push(Bytes::from(format!("{racer}"))),
                    Created::Other(there) => losers.push(there),
                }
            }
            assert_eq!(winners.len(), 1, "{bucket:?}");
            assert!(losers.iter().all(|there| *there == winners[0]));
            assert_eq!(bucket.get(&key).await.unwrap(), winners[0]);
        }
    }
}

#[tokio::test]
async fn a_create_that_was_committed_and_then_failed_is_recognised() {
    let server = s3().await;
    let bucket = bucket_of(&server);
    for fault in [Fault::ErrorAfterCommit, Fault::Conflict, Fault::SlowDown, Fault::InternalError] {
        let key = format!("k/{fault:?}");
        server.faults().add(Rule::once(Operation::Put, "some/prefix/k", fault));
        assert_eq!(bucket.create(&key, "mine".into()).await.unwrap(), Created::Mine);
        assert_eq!(bucket.get(&key).await.unwrap(), "mine");
    }
    assert_eq!(server.faults().struck(), 4);
}

#[tokio::test]
async fn a_storm_ends_in_an_error_that_leaves_it_open() {
    let server = s3().await;
    let bucket = bucket_of(&server);
    server.faults().add(Rule::times(Operation::Put, "", Fault::SlowDown, 100));
    let error = bucket.create("k", "v".into()).await.unwrap_err();
    let BucketError::Unavailable { tries: 3, detail, .. } = &error else { panic!("{error}") };
    assert!(detail.contains("SlowDown"), "{detail}");
    server.faults().clear();
    assert_eq!(bucket.head("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_cut_answer_is_read_again() {
    let server = s3().await;
    let bucket = bucket_of(&server);
    let body = Bytes::from(support::random_bytes(&mut support::seeded(), 1 << 20));
    bucket.create("k", body.clone()).await.unwrap();
    server.faults().add(Rule::times(Operation::Get, "", Fault::Cut, 2));
    assert_eq!(bucket.get("k").await.unwrap(), body);
    assert_eq!(server.faults().struck(), 2);
}

#[tokio::test]
async fn a_listing_of_many_pages_is_whole() {
    let server = s3().await;
    let bucket = bucket_of(&server);
    for number in 0..1001 {
        bucket.create(&format!("many/{number:04}/x"), Bytes::new()).await.unwrap();
    }
    assert_eq!(bucket.list("many").await.unwrap().len(), 1001);
    assert_eq!(bucket.folders("many").await.unwrap().len(), 1001);
}

#[tokio::test]
async fn wrong_credentials_are_denied_and_never_shown() {
    let server = s3().await;
    let url: BucketUrl = format!("s3://{BUCKET}/p").parse().unwrap();
    let right = server.bucket_options();
    let secret = "a-very-secret-text";
    let wrong_secret =
        BucketOptions { secret_access_key: Some(Secret::new(secret)), ..right.clone() };
    let wrong_id = BucketOptions { access_key_id: Some("NOBODY".into()), ..right.clone() };
    for options in [wrong_secret, wrong_id] {
        let bucket = open(&url, &options, true).unwrap();
        let error = bucket.create("k", "v".into()).await.unwrap_err();
        assert!(matches!(error, BucketError::Denied { .. }), "{error}");
        let told = format!("{error} {error:?} {bucket:?} {options:?}");
        assert!(!told.contains(secret) && !told.contains("Signature="), "{told}");
    }
    assert!(server.keys(BUCKET).await.is_empty());
    let none: BucketUrl = "s3://no-such-bucket/p".parse().unwrap();
    let bucket = open(&none, &right, true).unwrap();
    for error in [
        bucket.create("k", "v".into()).await.unwrap_err(),
        bucket.folders("h").await.unwrap_err(),
        bucket.list("h").await.unwrap_err(),
    ] {
        assert!(matches!(error, BucketError::NotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn objects_in_a_directory_survive_a_restart_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let credentials = Credentials::random();
    let listen = "127.0.0.1:0".parse().unwrap();
    let kept = || Some(dir.path().to_path_buf());
    let server = DevS3::start(listen, credentials.clone(), kept()).await.unwrap();
    server.create_bucket(BUCKET).await.unwrap();
    bucket_of(&server).create("a/b", "v".into()).await.unwrap();
    drop(server);
    let server = DevS3::start(listen, credentials, kept()).await.unwrap();
    let bucket = bucket_of(&server);
    assert_eq!(bucket.get("a/b").await.unwrap(), "v");
    assert_eq!(bucket.create("a/b", "w".into()).await.unwrap(), Created::Other("v".into()));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_soon() {
    let server = s3().await;
    let options = support::options(&server);
    drop(server);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let url: BucketUrl = format!("s3://{BUCKET}").parse().unwrap();
    let error = open(&url, &options, false).unwrap().get("k").await.unwrap_err();
    assert!(matches!(error, BucketError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}
