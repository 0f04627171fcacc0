//! What commands read: documents from files, and preconditions from flags.

use anyhow::{Context as _, Result};
use clap::Args;
use keelstone_client::{Precondition, Revision};
use std::io::Read as _;

/// Reads a file, or standard input if it is `-`.
pub(super) fn document(path: &str) -> Result<Vec<u8>> {
    if path == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("read standard input")?;
        return Ok(bytes);
    }
    std::fs::read(path).with_context(|| format!("read {path}"))
}

/// What a write demands. One of them has to be spelled out.
#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Condition {
    /// Only if the object is at this revision.
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Whatever is there.
    #[arg(long)]
    unconditional: bool,
}

impl From<Condition> for Precondition {
    fn from(condition: Condition) -> Self {
        match condition.if_revision {
            Some(revision) => Self::IfRevision(Revision::new(revision)),
            None => Self::Unconditional,
        }
    }
}

/// What a write demands that can also create.
#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct CreateCondition {
    /// Only if the object is at this revision.
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Only if it does not exist.
    #[arg(long)]
    if_absent: bool,
    /// Whatever is there.
    #[arg(long)]
    unconditional: bool,
}

impl From<CreateCondition> for Precondition {
    fn from(condition: CreateCondition) -> Self {
        match condition {
            CreateCondition { if_revision: Some(revision), .. } => {
                Self::IfRevision(Revision::new(revision))
            }
            CreateCondition { if_absent: true, .. } => Self::IfAbsent,
            CreateCondition { .. } => Self::Unconditional,
        }
    }
}
