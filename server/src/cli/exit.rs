//! Exit codes: what became of a command, for scripts.

use super::output;
use crate::backup::{BackupError, BucketError, Class};
use keelstone_client::ErrorKind;
use std::process::ExitCode;

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It failed and has had no effect.
    Failed = 1,
    /// The request is wrong: correct it.
    Usage = 2,
    /// A precondition did not hold, or the object exists already.
    Conflict = 3,
    /// The object does not exist.
    NotFound = 4,
    /// Nobody can say whether it took effect.
    Unknown = 5,
    /// The cluster could not be reached or has no quorum; no effect.
    Unavailable = 6,
    /// A check found damage or a difference.
    Verification = 7,
}

/// Printed below the help text.
pub(super) const HELP: &str = "Exit codes:
  0  done
  1  failed, without effect
  2  wrong usage or an invalid request
  3  conflict: a precondition did not hold, or it exists already
  4  not found
  5  unknown: it may or may not have taken effect
  6  unavailable: no replica could serve it; without effect
  7  verification failed: damage or a difference was found";

/// An error that carries its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Coded {
    /// The code.
    pub(crate) exit: Exit,
    /// For people.
    pub(crate) message: String,
}

impl Coded {
    /// An error of this code.
    pub(crate) fn error(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self { exit, message: message.into() })
    }
}

/// Prints an error and its causes, and chooses the exit code.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    output::note(&format!("error: {error:#}"));
    ExitCode::from(code(error) as u8)
}

fn code(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(coded) = cause.downcast_ref::<Coded>() {
            return coded.exit;
        }
        if let Some(error) = cause.downcast_ref::<keelstone_client::Error>() {
            return of_client(error);
        }
        if let Some(error) = cause.downcast_ref::<BackupError>() {
            return of_backup(error);
        }
    }
    Exit::Failed
}

fn of_backup(error: &BackupError) -> Exit {
    match (error.class(), error) {
        (Class::Refused, _) => Exit::Usage,
        (Class::VerificationFailed, _) => Exit::Verification,
        (Class::Unknown, _) => Exit::Unknown,
        (Class::Failed, BackupError::Bucket(BucketError::Unavailable { .. })) => Exit::Unavailable,
        (Class::Failed, _) => Exit::Failed,
    }
}

fn of_client(error: &keelstone_client::Error) -> Exit {
    if error.is_unknown() {
        return Exit::Unknown;
    }
    match error.kind() {
        ErrorKind::Conflict { .. } | ErrorKind::AlreadyExists => Exit::Conflict,
        ErrorKind::NotFound => Exit::NotFound,
        ErrorKind::Invalid { .. } | ErrorKind::TooLarge { .. } => Exit::Usage,
        ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::DeadlineExceeded { .. } => {
            Exit::Unavailable
        }
        _ => Exit::Failed,
    }
}
