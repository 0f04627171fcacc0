//! What a bucket can do, found out by trying.
//!
//! Servers that call themselves compatible with S3 differ where it matters:
//! several ignore conditions silently. So this is asked once, when a repository
//! is made, and written down; what needs a missing capability can then be
//! refused instead of going wrong.

use super::bucket::{Bucket, BucketError, Created};
use bytes::Bytes;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use std::time::SystemTime;

/// Writers that race for one object.
const RACERS: usize = 8;
/// Races.
const ROUNDS: usize = 3;

/// What a bucket can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Of several who create an object at once, exactly one does.
    pub conditional_create: bool,
    /// What was written is read and listed at once.
    pub read_after_write: bool,
    /// How far the server's clock is ahead of the prober's, in seconds.
    pub clock_ahead_seconds: i64,
}

impl Capabilities {
    /// What an operator should know.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.conditional_create {
            warnings.push(
                "the bucket ignores If-None-Match: backups are safe because their names are \
                 unique, but nothing in this bucket can decide between two writers"
                    .to_owned(),
            );
        }
        if !self.read_after_write {
            warnings.push(
                "the bucket does not show at once what was written: wait before verifying"
                    .to_owned(),
            );
        }
        if self.clock_ahead_seconds.abs() > 60 {
            warnings.push(format!(
                "the bucket's clock differs from this machine's by {} seconds",
                self.clock_ahead_seconds
            ));
        }
        warnings
    }
}

/// Tries out what `bucket` can do, and removes what it wrote.
///
/// # Errors
///
/// Fails if the bucket cannot be written to or read from at all.
pub(super) async fn probe(bucket: &dyn Bucket) -> Result<Capabilities, BucketError> {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let mut capabilities =
        Capabilities { conditional_create: true, read_after_write: true, clock_ahead_seconds: 0 };
    for round in 0..ROUNDS {
        let key = format!("probe/{nonce}-{round}");
        let raced = race(bucket, &key, &mut capabilities).await;
        // What is left behind is small, harmless and not read by anything.
        if let Err(error) = bucket.delete(&key).await {
            tracing::debug!(%error, "could not remove a probe object");
        }
        raced?;
    }
    Ok(capabilities)
}

async fn race(
    bucket: &dyn Bucket,
    key: &str,
    capabilities: &mut Capabilities,
) -> Result<(), BucketError> {
    let racers = (0..RACERS).map(|racer| async move {
        bucket.create(key, Bytes::from(format!("racer {racer} of {key}"))).await
    });
    let mut winners = 0;
    for created in join_all(racers).await {
        winners += usize::from(created? == Created::Mine);
    }
    // One more, when it is surely there.
    let late = bucket.create(key, Bytes::from_static(b"too late")).await?;
    capabilities.conditional_create &= winners == 1 && late != Created::Mine;
    let listed = bucket.list("probe").await?.into_iter().find(|meta| meta.key == key);
    let read = bucket.get(key).await;
    capabilities.read_after_write &= listed.is_some() && read.is_ok();
    if let Some(meta) = listed {
        capabilities.clock_ahead_seconds = seconds_between(SystemTime::now(), meta.modified);
    }
    Ok(())
}

fn seconds_between(from: SystemTime, to: SystemTime) -> i64 {
    let seconds =
        |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match to.duration_since(from) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => -seconds(behind.duration()),
    }
}
