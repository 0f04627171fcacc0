//! What the tests here share: servers, buckets, random bytes by seed.

use keelstone_server::backup::{Bucket, BucketOptions, BucketUrl, Retry, open};
use keelstone_server::dev::s3::{Credentials, DevS3};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use std::sync::Arc;
use std::time::Duration;

/// The bucket that tests write to.
pub(crate) const BUCKET: &str = "backups";

/// A server with an empty bucket.
pub(crate) async fn s3() -> DevS3 {
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = DevS3::start(listen, Credentials::random(), None).await.unwrap();
    server.create_bucket(BUCKET).await.unwrap();
    server
}

/// Settings for `server` that do not wait long.
pub(crate) fn options(server: &DevS3) -> BucketOptions {
    let backoff = Duration::from_millis(5);
    BucketOptions { retry: Retry { backoff, ..Retry::default() }, ..server.bucket_options() }
}

/// The bucket of `server`, below a prefix.
pub(crate) fn bucket_of(server: &DevS3) -> Arc<dyn Bucket> {
    let url: BucketUrl = format!("s3://{BUCKET}/some/prefix").parse().unwrap();
    open(&url, &options(server), true).unwrap()
}

/// A generator whose seed is printed, or given by `KEELSTONE_SEED`.
pub(crate) fn seeded() -> StdRng {
    let given = std::env::var("KEELSTONE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random::<u64>);
    println!("KEELSTONE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// So many random bytes.
pub(crate) fn random_bytes(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}
