//! How far a long piece of work has come, for progress bars and logs.

use std::fmt;
use std::time::{Duration, Instant};

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Rows are read from the cluster, compressed and uploaded.
    Copy,
    /// The objects of a backup are downloaded and checked.
    Verify,
    /// Rows are loaded into new data directories.
    Load,
    /// What was built is made durable and put in place.
    Finish,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copy => "copy",
            Self::Verify => "verify",
            Self::Load => "load",
            Self::Finish => "finish",
        })
    }
}

/// How far a phase has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Plain bytes of rows so far.
    pub bytes: u64,
    /// All of them, or about so many; `None`: nobody knows.
    pub bytes_total: Option<u64>,
    /// Rows so far.
    pub rows: u64,
    /// How long the phase has taken.
    pub elapsed: Duration,
}

impl Progress {
    /// How long the rest will take, if it goes on as before.
    pub fn eta(&self) -> Option<Duration> {
        let left = self.bytes_total?.saturating_sub(self.bytes);
        if self.bytes == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a guess for people")]
        let ratio = left as f64 / self.bytes as f64;
        Duration::try_from_secs_f64(self.elapsed.as_secs_f64() * ratio).ok()
    }
}

/// Is told how far the work has come: often, from any thread, and briefly.
pub trait Observer: Send + Sync {
    /// The work has come so far.
    fn progress(&self, progress: &Progress);
}

impl<F: Fn(&Progress) + Send + Sync> Observer for F {
    fn progress(&self, progress: &Progress) {
        self(progress);
    }
}

/// An observer that does not look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&self, _progress: &Progress) {}
}

/// Counts one phase.
pub(super) struct Tracker<'a> {
    observer: &'a dyn Observer,
    began: Instant,
    now: Progress,
}

impl<'a> Tracker<'a> {
    pub(super) fn begin(
        observer: &'a dyn Observer,
        phase: Phase,
        bytes_total: Option<u64>,
    ) -> Self {
        let now = Progress { phase, bytes: 0, bytes_total, rows: 0, elapsed: Duration::ZERO };
        observer.progress(&now);
        Self { observer, began: Instant::now(), now }
    }

    pub(super) fn add(&mut self, bytes: u64, rows: u64) {
        self.now.bytes += bytes;
        self.now.rows += rows;
        self.now.elapsed = self.began.elapsed();
        self.observer.progress(&self.now);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.now.bytes
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_what_was() {
        let at = |bytes, bytes_total| Progress {
            phase: Phase::Copy,
            bytes,
            bytes_total,
            rows: 0,
            elapsed: Duration::from_secs(10),
        };
        assert_eq!(at(25, Some(100)).eta(), Some(Duration::from_secs(30)));
        assert_eq!(at(120, Some(100)).eta(), Some(Duration::ZERO));
        assert_eq!(at(0, Some(100)).eta(), None);
        assert_eq!(at(25, None).eta(), None);
    }
}
