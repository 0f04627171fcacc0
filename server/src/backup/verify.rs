//! Verifying a backup: all of it is read back, as a restore would read it.

use super::error::{BackupError, Damage};
use super::progress::{Observer, Phase, Tracker};
use super::repo::{Entry, Repo};
use super::scan::{Nowhere, Scan};
use std::time::{Duration, Instant};

/// What a verification found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What is damaged; empty: nothing.
    pub damages: Vec<Damage>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Verified {
    /// The verdict as a result, for those who cannot go on without.
    ///
    /// # Errors
    ///
    /// [`BackupError::Damaged`] if anything is.
    pub fn into_result(self) -> Result<(), BackupError> {
        if self.damages.is_empty() { Ok(()) } else { Err(BackupError::Damaged(self.damages)) }
    }
}

/// Reads all of a backup back: every object is hashed, every chunk decoded, and
/// the state root computed anew.
///
/// # Errors
///
/// Fails if the bucket does. Damage is not an error but the result.
pub async fn verify(
    repo: &Repo,
    entry: &Entry,
    observer: &dyn Observer,
) -> Result<Verified, BackupError> {
    let began = Instant::now();
    let total = Some(entry.manifest.stats.plain_bytes);
    let tracker = Tracker::begin(observer, Phase::Verify, total);
    let damages = Scan::new(repo, &entry.manifest, tracker).run(&mut Nowhere).await?;
    Ok(Verified { damages, elapsed: began.elapsed() })
}
