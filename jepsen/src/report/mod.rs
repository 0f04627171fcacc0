//! Reports of runs, for people and for machines.
//!
//! * [`page`]: one self-contained HTML page for a run: verdicts, latencies and
//!   rates with the faults behind them, timelines around violations;
//! * [`summary`]: a table over many runs, as HTML and as plain text;
//! * [`junit`]: the same for programs that collect test results.
//!
//! Pages need no network and have no scripts. Everything that comes from a run
//! is escaped: its values are chosen to break things.

mod junit;
mod lanes;
mod markup;
mod page;
mod plot;
mod summary;
#[cfg(test)]
mod tests;

pub use junit::junit;
pub use page::page;
pub use summary::{Row, summary_page, summary_text};

use crate::check::Verdict;
use crate::history::History;
use std::io;
use std::path::Path;

/// What a report says of a run besides its history.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Its name, such as `register-kill-7`.
    pub name: String,
    /// What clients did.
    pub workload: String,
    /// What was broken.
    pub nemesis: String,
    /// The seed of everything that was drawn.
    pub seed: u64,
    /// The command that repeats it.
    pub command: String,
    /// Versions and other facts: a name and a text each.
    pub facts: Vec<(String, String)>,
    /// Each checker's.
    pub verdicts: Vec<Verdict>,
    /// What did not go as it should.
    pub troubles: Vec<String>,
    /// Kinds of fault that could not be done, and so were not tested.
    pub skipped: Vec<String>,
}

impl Run {
    /// One word for all verdicts: a violation weighs more than a doubt, a doubt
    /// more than validity; no verdict at all is a doubt.
    pub fn word(&self) -> &'static str {
        if self.verdicts.iter().any(Verdict::is_violation) {
            "violation"
        } else if self.verdicts.is_empty()
            || !self.troubles.is_empty()
            || self.verdicts.iter().any(|verdict| !verdict.is_valid())
        {
            "unknown"
        } else {
            "valid"
        }
    }
}

/// Writes `report.html`, `junit.xml` and `row.json`, the run's [`Row`] in a
/// summary, into a run's directory.
///
/// # Errors
///
/// If a file cannot be written.
pub fn write(dir: &Path, run: &Run, history: &History) -> io::Result<()> {
    std::fs::write(dir.join("report.html"), page(run, history))?;
    let row = Row::of(run, history);
    std::fs::write(dir.join("row.json"), serde_json::to_vec_pretty(&row)?)?;
    std::fs::write(dir.join("junit.xml"), junit(&[(row, run.verdicts.clone())]))
}
