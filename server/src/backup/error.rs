//! Why a backup or a restore did not do what was asked.

use super::bucket::BucketError;
use std::io;

/// Damages that are told one by one; of more only the number.
const DAMAGES_TOLD: usize = 20;

/// Something in a backup is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The object, or the part of the backup.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What kind of end this is; a program chooses its exit code by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It did not work; trying again may help.
    Failed,
    /// It was refused before anything was changed; the request must change.
    Refused,
    /// The backup is not what was written.
    VerificationFailed,
    /// Nobody can say whether it took effect.
    Unknown,
}

/// Why a backup or a restore did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// It would be wrong; nothing was changed.
    #[error("{reason}; {remedy}")]
    Refused {
        /// Why.
        reason: String,
        /// What to do instead.
        remedy: String,
    },
    /// The backup is not what was written.
    #[error("the backup is damaged: {}", told(.0))]
    Damaged(Vec<Damage>),
    /// The bucket did not say whether it took the manifest.
    #[error("the backup may or may not exist, `keelstone backup list` tells: {0}")]
    Undecided(BucketError),
    /// The rows could not be read from the cluster, or did not add up.
    #[error("the export failed: {0}")]
    Source(String),
    /// A file or a directory could not be written or read.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The state could not be built.
    #[error("the state could not be built: {0}")]
    State(String),
    /// This program has a bug, or was stopped in the middle.
    #[error("a part of the work ended early: {0}")]
    Interrupted(String),
}

impl BackupError {
    /// What kind of end this is.
    pub fn class(&self) -> Class {
        match self {
            Self::Bucket(BucketError::Settings(_)) | Self::Refused { .. } => Class::Refused,
            Self::Damaged(_) => Class::VerificationFailed,
            Self::Undecided(_) => Class::Unknown,
            _ => Class::Failed,
        }
    }

    pub(super) fn refused(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into(), remedy: remedy.into() }
    }

    pub(super) fn damaged(object: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Damaged(vec![Damage { object: object.into(), problem: problem.into() }])
    }

    /// For `map_err`: the error of doing `what`.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }
}

impl From<tokio::task::JoinError> for BackupError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Interrupted(error.to_string())
    }
}

fn told(damages: &[Damage]) -> String {
    let told = damages.iter().take(DAMAGES_TOLD);
    let mut text =
        told.map(|it| format!("{}: {}", it.object, it.problem)).collect::<Vec<_>>().join("; ");
    if damages.len() > DAMAGES_TOLD {
        use std::fmt::Write as _;
        write!(text, "; and {} more", damages.len() - DAMAGES_TOLD)
            .expect("writing to a string cannot fail");
    }
    text
}
