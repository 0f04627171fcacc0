//! Revisions that no acknowledged transaction has: what made them?

use super::facts::{Evidence, Fact, Facts, Other, Seen};
use super::state::{LogChange, State};
use super::{Entry, Replay, Source, is_open, short, show};
use crate::history::{Action, Outcome};
use std::collections::HashMap;

/// Transactions with unknown outcomes, by what they would leave behind.
#[derive(Default)]
pub(super) struct Candidates<'a> {
    /// By a key and value that they put.
    puts: HashMap<(&'a str, &'a str), Vec<usize>>,
    /// Those that delete, or all, for revisions of which no value is known.
    open: Vec<usize>,
    used: HashMap<usize, u64>,
    /// Whether one of several that fitted had to be chosen.
    guessed: bool,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(facts: &Facts<'a>) -> Self {
        let mut candidates = Self::default();
        for (place, fact) in facts.txns.iter().enumerate().filter(|(_, fact)| is_open(fact)) {
            candidates.open.push(place);
            for pair in puts(fact) {
                let places = candidates.puts.entry(pair).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        candidates
    }

    /// Those that may explain what was seen, not used yet.
    fn of(&self, evidence: &Evidence<'a>) -> Vec<usize> {
        let value = evidence.keys.iter().find_map(|(key, (seen, _))| match seen {
            Seen::Put(record) => Some((*key, record.value)),
            Seen::Deleted | Seen::Touched => None,
        });
        let places = match value {
            Some(pair) => self.puts.get(&pair).map_or(&[][..], Vec::as_slice),
            None => &self.open,
        };
        places.iter().filter(|place| !self.used.contains_key(place)).copied().collect()
    }
}

/// All pairs of key and value that a transaction may put.
fn puts<'a>(fact: &Fact<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    fact.txn.success.iter().chain(&fact.txn.failure).filter_map(|action| match action {
        Action::Put { key, value, .. } => Some((key.as_str(), value.as_str())),
        Action::Delete { .. } | Action::Range { .. } => None,
    })
}

impl<'a> Replay<'_, 'a> {
    /// Finds what made a revision that no acknowledged transaction has.
    pub(super) fn explain(&mut self, revision: u64) -> Entry<'a> {
        let facts = self.facts;
        let Some(evidence) = facts.evidence.get(&revision) else {
            return self.explain_without_trace(revision);
        };
        if let Some((one, other, key)) = evidence.conflict {
            let text = format!("revision {revision} was shown with different changes of {key:?}");
            self.case.violation("divergence", vec![one, other], text);
        }
        if let Some(entry) = self.explain_by_unknown(revision, evidence) {
            return entry;
        }
        if self.other(revision).is_some() || !evidence.keys.keys().any(|k| self.owns(k)) {
            return self.take(revision, evidence, Source::Unknown);
        }
        if let Some(entry) = self.explain_by_leases(revision, evidence) {
            return entry;
        }
        if self.context.exclusive && !facts.others_open {
            self.unexplained(revision, evidence);
        }
        self.take(revision, evidence, Source::Unknown)
    }

    /// An operation other than a transaction whose own revision this is. To
    /// revoke a lease without keys takes none: its reply shows another's.
    fn other(&self, revision: u64) -> Option<Other> {
        let other = self.facts.others.get(&revision).copied()?;
        let idle = other.revoked.is_some_and(|lease| self.state.attached(lease).is_empty());
        (!idle).then_some(other)
    }

    fn owns(&self, key: &str) -> bool {
        self.context.owns(key)
    }

    /// One transaction with an unknown outcome whose whole effect this is.
    fn explain_by_unknown(&mut self, revision: u64, evidence: &Evidence<'a>) -> Option<Entry<'a>> {
        let mut found: Vec<(usize, bool)> = Vec::new();
        for place in self.explain.of(evidence) {
            if self.facts.txns[place].floor.0 >= revision {
                continue;
            }
            if let Some(branch) = self.branch_that_fits(place, revision, evidence) {
                found.push((place, branch));
            }
        }
        let (place, branch) = *found.first()?;
        let same = |(other, _): &(usize, bool)| {
            self.facts.txns[*other].txn.success == self.facts.txns[place].txn.success
        };
        // Requests that are alike can stand for each other; others cannot, and
        // then it is not known which one is left to explain a later revision.
        self.explain.guessed |= !found.iter().all(same);
        let fact = &self.facts.txns[place];
        let actions = fact.txn.branch(branch);
        let sure = self.state.is_sure_of(actions);
        let (changes, _) = self.state.run(actions, revision);
        self.explain.used.insert(place, revision);
        for change in &changes {
            self.settle(change.key, evidence);
        }
        let source = Source::Transaction(fact.operation.invoke.index);
        Some(Entry { changes, source, sure })
    }

    /// A key that was in doubt and of which this revision shows the whole record.
    fn settle(&mut self, key: &'a str, evidence: &Evidence<'a>) {
        if !self.state.is_doubtful(key) {
            return;
        }
        match evidence.keys.get(key) {
            Some((Seen::Put(record), _)) => self.state.settle(key, Some(*record)),
            Some((Seen::Deleted, _)) => self.state.settle(key, None),
            Some((Seen::Touched, _)) | None => {}
        }
    }

    fn branch_that_fits(
        &mut self,
        place: usize,
        revision: u64,
        evidence: &Evidence<'a>,
    ) -> Option<bool> {
        let txn = self.facts.txns[place].txn;
        let branches: &[bool] = match self.state.holds(txn) {
            Some(true) => &[true],
            Some(false) => &[false],
            None => &[true, false],
        };
        branches.iter().copied().find(|branch| {
            let (changes, _) = self.state.run(txn.branch(*branch), revision);
            self.state.undo(&changes);
            fits(&changes, evidence, &self.state)
        })
    }

    /// The end of leases: all their keys go, and nothing else happens.
    fn explain_by_leases(&mut self, revision: u64, evidence: &Evidence<'a>) -> Option<Entry<'a>> {
        let mut leases = Vec::new();
        for (key, (seen, _)) in &evidence.keys {
            let lease = self.state.get(key).map_or(0, |record| record.lease);
            if *seen != Seen::Deleted || lease == 0 {
                return None;
            }
            if !leases.contains(&lease) {
                leases.push(lease);
            }
        }
        let events: Vec<u64> = evidence.keys.values().map(|(_, event)| *event).collect();
        let mut changes = Vec::new();
        let mut sure = true;
        for lease in leases {
            for key in self.state.attached(lease) {
                let doubtful = self.state.is_doubtful(key);
                sure &= !doubtful;
                if doubtful && !evidence.keys.contains_key(key) {
                    // It may have gone before, or belong to another lease.
                    continue;
                }
                if evidence.complete && !evidence.keys.contains_key(key) {
                    let text = format!(
                        "lease {lease} ended at revision {revision}, but its key {} did not go",
                        short(key)
                    );
                    self.case.violation("L3", events.clone(), text);
                }
                changes.push(LogChange { key, before: self.state.get(key), after: None });
                self.state.set(key, None);
            }
        }
        Some(Entry { changes, source: Source::LeaseEnd, sure })
    }

    /// Says why nothing can have made a revision.
    fn unexplained(&mut self, revision: u64, evidence: &Evidence<'a>) {
        if self.explain.guessed {
            let why = "several unknown operations fitted one revision; which one is not known";
            self.case.unknown(format!("revision {revision} is not explained: {why}"));
            return;
        }
        let events: Vec<u64> = evidence.keys.values().map(|(_, event)| *event).take(4).collect();
        let put = evidence.keys.iter().find_map(|(key, (seen, _))| match seen {
            Seen::Put(record) => Some((*key, *record)),
            Seen::Deleted | Seen::Touched => None,
        });
        let Some((key, record)) = put else {
            let key = evidence.keys.keys().next().copied().unwrap_or_default();
            let text = format!(
                "revision {revision} changed {}, and no operation can have done that",
                short(key)
            );
            self.case.violation("phantom", events, text);
            return;
        };
        // A search through all is for the first few; the rest is only counted.
        let searched = self.case.violations() < super::super::verdict::VIOLATIONS_MAX as u64;
        let mut authors = self.facts.txns.iter().enumerate().filter(|_| searched);
        let author = authors.find(|(_, fact)| puts(fact).any(|p| p == (key, record.value)));
        let (rule, why) = match author {
            None => ("phantom", "which nobody wrote".to_owned()),
            Some((_, fact)) if fact.outcome == Outcome::Fail => {
                ("failed-write-seen", "whose write failed".to_owned())
            }
            Some((place, fact)) if fact.outcome == Outcome::Ok => match fact.reply {
                Some(reply) if fact.effective && reply.succeeded => {
                    ("applied-twice", format!("which was written at revision {}", reply.revision))
                }
                _ => ("failed-write-seen", format!("which transaction {place} did not write")),
            },
            Some((place, fact)) => match self.explain.used.get(&place) {
                Some(at) => ("applied-twice", format!("which was written at revision {at}")),
                None if fact.floor.0 >= revision => {
                    ("order", "which was asked after that revision was shown".to_owned())
                }
                None => ("partial-write", "but not all that came with it".to_owned()),
            },
        };
        let mut events = events;
        if let Some((_, fact)) = author {
            events.extend(fact.operation.indices());
        }
        let what = show(Some(record));
        let text = format!("revision {revision} has {} = {what}, {why}", short(key));
        self.case.violation(rule, events, text);
    }

    /// Takes what was seen as it is.
    fn take(&mut self, revision: u64, evidence: &Evidence<'a>, source: Source) -> Entry<'a> {
        let mut changes = Vec::new();
        let mut sure = evidence.complete;
        for (key, (seen, _)) in &evidence.keys {
            // What was there before a doubtful key was changed is a guess.
            sure &= !self.state.is_doubtful(key);
            let before = self.state.get(key);
            let after = match seen {
                Seen::Put(record) => Some(*record),
                Seen::Deleted => None,
                Seen::Touched => {
                    self.state.doubt(key);
                    sure = false;
                    continue;
                }
            };
            self.state.settle(key, after);
            changes.push(LogChange { key, before, after });
        }
        let source = match self.other(revision) {
            Some(other) => Source::Operation(other.event),
            None => source,
        };
        Entry { changes, source, sure }
    }

    /// A revision that nobody has seen anything of.
    fn explain_without_trace(&mut self, revision: u64) -> Entry<'a> {
        if let Some(other) = self.other(revision) {
            let (event, revoked) = (other.event, other.revoked);
            let ended = revoked.map(|lease| self.end_lease(lease));
            let (changes, sure) = ended.unwrap_or((Vec::new(), true));
            return Entry { changes, source: Source::Operation(event), sure };
        }
        let passed = self.facts.covered.iter().find(|p| p.from <= revision && revision <= p.to);
        if let Some(passed) = passed.copied() {
            if self.context.exclusive && !self.facts.others_open {
                let text =
                    format!("a watch of all keys went past revision {revision} without a change");
                self.case.violation("W5", vec![passed.event], text);
            }
            return Entry { changes: Vec::new(), source: Source::Unknown, sure: true };
        }
        self.opaque += 1;
        let mut culprits = self.doubt_what_may_have_changed(revision);
        if self.facts.others_open || !self.context.exclusive {
            culprits = true;
        }
        if !culprits {
            let text = format!("revision {revision} was given, and no operation can have taken it");
            self.case.violation("phantom", Vec::new(), text);
        }
        Entry { changes: Vec::new(), source: Source::Unknown, sure: false }
    }

    /// Ends a lease: what changed, and whether that hangs on no doubtful key.
    fn end_lease(&mut self, lease: u64) -> (Vec<LogChange<'a>>, bool) {
        let keys = self.state.attached(lease);
        let (doubtful, certain): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| self.state.is_doubtful(key));
        let changes = certain.into_iter().map(|key| {
            let before = self.state.get(key);
            self.state.set(key, None);
            LogChange { key, before, after: None }
        });
        (changes.collect(), doubtful.is_empty())
    }

    /// Whatever an unknown operation or the end of a lease may have done here.
    fn doubt_what_may_have_changed(&mut self, revision: u64) -> bool {
        let mut doubts: Vec<&'a str> = self.state.leased().collect();
        let mut any = !doubts.is_empty();
        for place in &self.explain.open {
            let fact = &self.facts.txns[*place];
            if fact.floor.0 >= revision || self.explain.used.contains_key(place) {
                continue;
            }
            any = true;
            for action in fact.txn.success.iter().chain(&fact.txn.failure) {
                match action {
                    Action::Put { key, .. } => doubts.push(key),
                    Action::Delete { key, end, .. } => {
                        let span = self.state.span(key, end.as_deref());
                        doubts.extend(span.map(|(key, _)| key));
                    }
                    Action::Range { .. } => {}
                }
            }
        }
        for key in doubts {
            self.state.doubt(key);
        }
        any
    }
}

/// Whether these changes are what was seen.
fn fits(changes: &[LogChange<'_>], evidence: &Evidence<'_>, state: &State<'_>) -> bool {
    if changes.is_empty() || (evidence.complete && changes.len() != evidence.keys.len()) {
        return false;
    }
    evidence.keys.iter().all(|(key, (seen, _))| {
        let Some(change) = changes.iter().find(|change| change.key == *key) else { return false };
        match (seen, change.after) {
            (Seen::Deleted, None) => true,
            (Seen::Touched, Some(_)) => true,
            (Seen::Put(seen), Some(after)) if state.is_doubtful(key) => {
                (seen.value, seen.modified, seen.lease)
                    == (after.value, after.modified, after.lease)
            }
            (Seen::Put(seen), Some(after)) => *seen == after,
            _ => false,
        }
    })
}
