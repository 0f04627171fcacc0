//! Everything that a run is decided by, written down before it begins.

use crate::nemesis::Episode;
use crate::node::Sizes;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The name of the file below a run's directory.
const FILE: &str = "test.json";

/// A run, as data: what is in here repeats it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The workload.
    pub(crate) workload: String,
    /// The nemesis as it was asked for.
    pub(crate) nemesis: String,
    /// The kinds of fault that this machine cannot do and that were left out.
    pub(crate) skipped: Vec<String>,
    /// The seed of everything that is drawn.
    pub(crate) seed: u64,
    /// How long the load lasts, in milliseconds.
    pub(crate) time_ms: u64,
    /// Replicas.
    pub(crate) nodes: u64,
    /// Clients.
    pub(crate) clients: u64,
    /// Operations a second.
    pub(crate) rate: f64,
    /// Thresholds of the replicas.
    pub(crate) sizes: Sizes,
    /// Whether everything is encrypted and both ends show certificates.
    pub(crate) tls: bool,
    /// The program under test.
    pub(crate) binary: PathBuf,
    /// What it says its version is.
    pub(crate) version: String,
    /// How replicas are kept apart.
    pub(crate) enclosure: String,
    /// The command that repeats it.
    pub(crate) command: String,
    /// The faults.
    pub(crate) schedule: Vec<Episode>,
}

impl Plan {
    /// Writes it into a run's directory.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("write the plan as JSON")?;
        std::fs::write(dir.join(FILE), text).context("write the plan")?;
        let text = serde_json::to_string_pretty(&self.schedule).context("write the schedule")?;
        std::fs::write(dir.join("schedule.json"), text).context("write the schedule")
    }

    /// Reads it back.
    ///
    /// # Errors
    ///
    /// Fails if there is none or it is of another version of this program.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
    }
}
