//! The judgement of a run: its checkers, one after the other, and one word for
//! all.

use super::phases::Ran;
use super::{Place, Plan};
use crate::nemesis::KINDS;
use crate::workload;
use anyhow::{Context as _, Result};
use keelstone_jepsen::check::{self, Verdict};
use keelstone_jepsen::history::{FaultPhase, History, write_edn};
use keelstone_jepsen::report;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

/// One word for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Word {
    /// Everything that was judged is as promised.
    Valid,
    /// A promise was broken.
    Violation,
    /// It cannot be told.
    Unknown,
}

/// What came of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// All together.
    pub(crate) word: Word,
    /// Each checker's.
    pub(crate) verdicts: Vec<Verdict>,
    /// What did not go as it should.
    pub(crate) troubles: Vec<String>,
    /// The kinds of fault that this machine cannot do.
    pub(crate) skipped: Vec<String>,
    /// How often each kind of fault was done, and how often it could not be.
    pub(crate) faults: BTreeMap<String, Done>,
}

/// What became of one kind of fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Times it was done.
    pub(crate) done: u64,
    /// Times it could not be done.
    pub(crate) not: u64,
}

/// What became of the faults.
fn faults(history: &History) -> BTreeMap<String, Done> {
    let mut faults: BTreeMap<String, Done> = BTreeMap::new();
    for (_, fault) in history.faults() {
        let done = faults.entry(fault.fault.clone()).or_default();
        match fault.phase {
            // What damage was done is told apart from that it was.
            FaultPhase::Once if fault.parameters.contains_key("damage") => {}
            FaultPhase::Start | FaultPhase::Once => done.done += 1,
            FaultPhase::Skipped => done.not += 1,
            FaultPhase::Stop | FaultPhase::Heal => {}
        }
    }
    faults
}

impl Outcome {
    /// The program's exit code.
    pub(crate) fn code(&self) -> u8 {
        match self.word {
            Word::Valid => 0,
            Word::Violation => 1,
            Word::Unknown => 2,
        }
    }
}

/// Keeps what the checkers have to know beside the history.
pub(crate) fn keep(ran: &Ran, place: &Place) -> Result<()> {
    let text = serde_json::to_string_pretty(&ran.context).context("write the context")?;
    std::fs::write(place.dir.join("context.json"), text).context("write the context")?;
    let text = serde_json::to_string_pretty(&ran.troubles).context("write the troubles")?;
    std::fs::write(place.dir.join("troubles.json"), text).context("write the troubles")
}

/// Judges what is in `dir`, and writes the verdict beside it.
///
/// # Errors
///
/// Fails if something of the run is missing.
pub(crate) fn judge(dir: &Path) -> Result<Outcome> {
    let plan = Plan::load(dir)?;
    let read = |name: &str| {
        std::fs::read(dir.join(name)).with_context(|| format!("read {name} in {}", dir.display()))
    };
    let context: check::Context =
        serde_json::from_slice(&read("context.json")?).context("understand context.json")?;
    let troubles: Vec<String> =
        serde_json::from_slice(&read("troubles.json")?).context("understand troubles.json")?;
    let history = History::read(&dir.join("history.jsonl")).context("read the history")?;
    let own = workload::by_name(&plan.workload)?.checkers();
    let mut verdicts = Vec::new();
    for name in workload::ALWAYS.iter().chain(own) {
        let checker = check::by_name(name).with_context(|| format!("find checker {name}"))?;
        verdicts.push((checker.check)(&history, &context));
    }
    let faults = faults(&history);
    let mut troubles = troubles;
    for (kind, _) in KINDS {
        let planned = plan.schedule.iter().any(|episode| episode.fault.name() == *kind);
        if planned && faults.get(*kind).is_none_or(|done| done.done == 0) {
            troubles.push(format!("{kind} was planned and never came about"));
        }
    }
    let word = if verdicts.iter().any(Verdict::is_violation) {
        Word::Violation
    } else if verdicts.is_empty()
        || verdicts.iter().any(|one| !one.is_valid())
        || !troubles.is_empty()
    {
        Word::Unknown
    } else {
        Word::Valid
    };
    let outcome = Outcome { word, verdicts, troubles, skipped: plan.skipped.clone(), faults };
    let text = serde_json::to_string_pretty(&outcome).context("write the verdict")?;
    std::fs::write(dir.join("results.json"), text).context("write the verdict")?;
    report::write(dir, &told(&plan, &outcome, dir), &history).context("write the report")?;
    let edn = File::create(dir.join("history.edn")).context("write the history as EDN")?;
    let mut edn = BufWriter::new(edn);
    let written = write_edn(history.events(), &mut edn).and_then(|()| edn.flush());
    written.context("write the history as EDN")?;
    Ok(outcome)
}

/// What the report says of a run.
fn told(plan: &Plan, outcome: &Outcome, dir: &Path) -> report::Run {
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let fact = |name: &str, text: String| (name.to_owned(), text);
    report::Run {
        name: name.unwrap_or_else(|| format!("{}-{}", plan.workload, plan.nemesis)),
        workload: plan.workload.clone(),
        nemesis: plan.nemesis.clone(),
        seed: plan.seed,
        command: plan.command.clone(),
        facts: vec![
            fact("version", plan.version.clone()),
            fact("program", plan.binary.display().to_string()),
            fact("harness", env!("CARGO_PKG_VERSION").to_owned()),
            fact("replicas", plan.nodes.to_string()),
            fact("clients", format!("{} at {} operations a second", plan.clients, plan.rate)),
            fact("kept apart by", plan.enclosure.clone()),
            fact("thresholds", format!("{:?}", plan.sizes)),
            fact("tls", plan.tls.to_string()),
        ],
        verdicts: outcome.verdicts.clone(),
        troubles: outcome.troubles.clone(),
        skipped: outcome.skipped.clone(),
    }
}
