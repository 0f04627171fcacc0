//! What a checker says: valid, violated, or unknown, and how much it looked at.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Violations that a verdict keeps in full. One bug often shows a thousand times.
pub const VIOLATIONS_MAX: usize = 50;

/// How much a checker judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Operations, or for some checkers responses of a watch, files or samples.
    pub operations: u64,
    /// Keys, or whatever the things are that the checker tells apart.
    pub keys: u64,
    /// Single facts: changes, values, lines.
    pub events: u64,
}

/// One broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The rule, such as `stale-read` or `W5`.
    pub rule: String,
    /// Indices of the events that show it, in the order of the explanation.
    pub events: Vec<u64>,
    /// For people.
    pub text: String,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// All that was judged is as promised.
    Valid,
    /// Something is not as promised.
    Violation(Vec<Violation>),
    /// It could not be told.
    Unknown(String),
}

/// A checker's judgement of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The checker.
    pub checker: String,
    /// What was found.
    pub finding: Finding,
    /// How much was looked at.
    pub judged: Judged,
    /// All violations, those that were not kept included.
    pub violations: u64,
    /// What a reader should know besides: what was left out and why, figures.
    pub notes: Vec<String>,
}

impl Verdict {
    /// Whether all that was judged is as promised.
    pub fn is_valid(&self) -> bool {
        self.finding == Finding::Valid
    }

    /// Whether something is not as promised.
    pub fn is_violation(&self) -> bool {
        matches!(self.finding, Finding::Violation(_))
    }

    /// Whether it could not be told.
    pub fn is_unknown(&self) -> bool {
        matches!(self.finding, Finding::Unknown(_))
    }

    /// The violations that were kept.
    pub fn kept(&self) -> &[Violation] {
        match &self.finding {
            Finding::Violation(violations) => violations,
            Finding::Valid | Finding::Unknown(_) => &[],
        }
    }

    /// One word: `valid`, `violation` or `unknown`.
    pub fn word(&self) -> &'static str {
        match self.finding {
            Finding::Valid => "valid",
            Finding::Violation(_) => "violation",
            Finding::Unknown(_) => "unknown",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Judged { operations, keys, events } = self.judged;
        write!(f, "{}: {} (judged {operations} operations", self.checker, self.word())?;
        write!(f, ", {keys} keys, {events} events)")?;
        match &self.finding {
            Finding::Valid => {}
            Finding::Unknown(why) => write!(f, "\n  {why}")?,
            Finding::Violation(kept) => {
                for violation in kept {
                    write!(f, "\n  {}: {}", violation.rule, violation.text)?;
                    write!(f, " [events {:?}]", violation.events)?;
                }
                if self.violations > kept.len() as u64 {
                    write!(f, "\n  and {} more", self.violations - kept.len() as u64)?;
                }
            }
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n  note: {note}"))
    }
}

/// A verdict in the making.
#[derive(Debug)]
pub struct Case {
    checker: &'static str,
    /// How much was looked at so far.
    pub judged: Judged,
    violations: Vec<Violation>,
    total: u64,
    unknown: Option<String>,
    notes: Vec<String>,
}

impl Case {
    /// Nothing judged and nothing found yet.
    pub fn new(checker: &'static str) -> Self {
        let judged = Judged::default();
        Self { checker, judged, violations: Vec::new(), total: 0, unknown: None, notes: Vec::new() }
    }

    /// A broken promise.
    pub fn violation(&mut self, rule: &str, events: Vec<u64>, text: impl Into<String>) {
        self.total += 1;
        if self.violations.len() < VIOLATIONS_MAX {
            let (rule, text) = (rule.to_owned(), text.into());
            self.violations.push(Violation { rule, events, text });
        }
    }

    /// Something that could not be told; without violations, the verdict.
    pub fn unknown(&mut self, why: impl Into<String>) {
        self.unknown.get_or_insert_with(|| why.into());
    }

    /// What a reader should know besides.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// How many violations there are so far.
    pub fn violations(&self) -> u64 {
        self.total
    }

    /// The verdict. Violations weigh more than doubts, and doubts more than
    /// validity; `needed` names what there must be to say valid, and `have` how
    /// much of it there was.
    pub fn close(self, needed: &str, have: u64) -> Verdict {
        let Self { checker, judged, violations, total, unknown, notes } = self;
        let finding = if total > 0 {
            Finding::Violation(violations)
        } else if have == 0 {
            Finding::Unknown(format!("nothing to judge: the history has no {needed}"))
        } else if let Some(why) = unknown {
            Finding::Unknown(why)
        } else {
            Finding::Valid
        };
        Verdict { checker: checker.to_owned(), finding, judged, violations: total, notes }
    }
}
