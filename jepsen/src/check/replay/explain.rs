//! Revisions that no acknowledged transaction has: what made them?

use super::candidates::puts;
use super::facts::{Evidence, Other, Seen};
use super::state::{LogChange, State, writes};
use super::{Entry, Replay, Source, short, show};
use crate::history::{Action, Outcome, Txn};

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
        let other = self.other(revision);
        let revoked = other.is_some_and(|other| other.revoked.is_some());
        if (other.is_some() && !revoked) || !evidence.keys.keys().any(|k| self.owns(k)) {
            return self.take(revision, evidence, Source::Unknown);
        }
        if let Some(entry) = self.explain_by_leases(revision, evidence) {
            let source = other.map_or(entry.source, |other| Source::Operation(other.event));
            return Entry { source, ..entry };
        }
        if revoked {
            return self.take(revision, evidence, Source::Unknown);
        }
        if self.context.exclusive && !facts.others_open {
            self.unexplained(revision, evidence);
        }
        self.take(revision, evidence, Source::Unknown)
    }

    /// An operation other than a transaction whose own revision this is. To
    /// revoke a lease without keys takes none: its reply shows another's. Whether
    /// it had any must not hang on a guess.
    fn other(&self, revision: u64) -> Option<Other> {
        let other = self.facts.others.get(&revision).copied()?;
        let idle = other.revoked.is_some_and(|lease| {
            self.state.attached(lease).iter().all(|key| self.state.is_guess(key))
        });
        (!idle).then_some(other)
    }

    fn owns(&self, key: &str) -> bool {
        self.context.owns(key)
    }

    /// One transaction with an unknown outcome whose whole effect this is.
    fn explain_by_unknown(&mut self, revision: u64, evidence: &Evidence<'a>) -> Option<Entry<'a>> {
        let found = self.all_that_fit(revision, evidence);
        let (place, branch) = *found.first()?;
        let txn = self.facts.txns[place].txn;
        // Requests that are alike can stand for each other; others cannot, and
        // then it is not known which one is left to explain a later revision: all
        // are. So is the only one if leases may have ended here.
        let by_leases = self.leases_of(evidence).is_some();
        let alike = |(other, _): &(usize, bool)| is_alike(self.facts.txns[*other].txn, txn);
        if by_leases || !found.iter().all(alike) {
            self.explain.guessed = true;
        } else {
            self.explain.take(place, revision, self.facts);
        }
        let effects =
            found.iter().map(|(other, branch)| self.facts.txns[*other].txn.branch(*branch));
        let effects: Vec<&'a [Action]> = effects.collect();
        let one = !by_leases && effects.iter().all(|effect| *effect == effects[0]);
        if !one && !evidence.complete {
            return Some(self.take_with_doubts(revision, evidence, &effects));
        }
        let actions = txn.branch(branch);
        let doubtful = self.state.doubtful_of(actions);
        let (changes, _) = self.state.run(actions, revision);
        for (key, (seen, _)) in &evidence.keys {
            self.settle(key, *seen);
        }
        self.state.forget_deleted(actions);
        let source = Source::Transaction(self.facts.txns[place].operation.invoke.index);
        Some(Entry { changes, source, sure: true, doubtful })
    }

    /// The transactions with unknown outcomes, and their branches, that may have
    /// done what was seen.
    fn all_that_fit(&mut self, revision: u64, evidence: &Evidence<'a>) -> Vec<(usize, bool)> {
        let mut found = Vec::new();
        for place in self.explain.of(evidence) {
            let fact = &self.facts.txns[place];
            if fact.floor.0 >= revision {
                // So were all that come after it.
                break;
            }
            let branches: &[bool] = match self.state.holds(fact.txn) {
                Some(true) => &[true],
                Some(false) => &[false],
                None => &[true, false],
            };
            for branch in branches {
                let actions = fact.txn.branch(*branch);
                let (changes, _) = self.state.run(actions, revision);
                self.state.undo(&changes);
                if fits(actions, &changes, evidence, &self.state) {
                    found.push((place, *branch));
                }
            }
        }
        found
    }

    /// Takes what was seen, which one of several did: what the others would have
    /// changed besides is in doubt.
    fn take_with_doubts(
        &mut self,
        revision: u64,
        evidence: &Evidence<'a>,
        effects: &[&'a [Action]],
    ) -> Entry<'a> {
        let mut doubts: Vec<&'a str> = Vec::new();
        for lease in self.leases_of(evidence).unwrap_or_default() {
            doubts.extend(self.state.attached(lease));
        }
        for action in effects.iter().copied().flatten() {
            match action {
                Action::Put { key, .. } => doubts.push(key),
                Action::Delete { key, end, .. } => {
                    doubts.extend(self.state.span(key, end.as_deref()).map(|(key, _)| key));
                }
                Action::Range { .. } => {}
            }
        }
        for key in doubts {
            self.state.doubt(key, revision);
        }
        let entry = self.take(revision, evidence, Source::Unknown);
        Entry { sure: false, ..entry }
    }

    /// A key that was in doubt and of which this revision shows the whole record.
    fn settle(&mut self, key: &'a str, seen: Seen<'a>) {
        if !self.state.is_doubtful(key) {
            return;
        }
        match seen {
            Seen::Put(record) => self.state.settle(key, Some(record)),
            Seen::Deleted => self.state.settle(key, None),
            Seen::Touched => {}
        }
    }

    /// The leases whose end this may be, as far as they are known; `None` if it
    /// was no end of leases.
    fn leases_of(&self, evidence: &Evidence<'a>) -> Option<Vec<u64>> {
        let mut leases = Vec::new();
        for (key, (seen, _)) in &evidence.keys {
            if *seen != Seen::Deleted {
                return None;
            }
            let lease = self.state.get(key).map_or(0, |record| record.lease);
            if self.state.is_guess(key) {
                // It may have had this lease, or another.
                if lease == 0 && !self.explain.may_have_leased(key) {
                    return None;
                }
            } else if lease == 0 {
                return None;
            } else if !leases.contains(&lease) {
                leases.push(lease);
            }
        }
        Some(leases)
    }

    /// The end of leases: all their keys go, and nothing else happens.
    fn explain_by_leases(&mut self, revision: u64, evidence: &Evidence<'a>) -> Option<Entry<'a>> {
        let leases = self.leases_of(evidence)?;
        let mut keys: Vec<&'a str> = evidence.keys.keys().copied().collect();
        for lease in leases {
            for key in self.state.attached(lease) {
                if evidence.keys.contains_key(key) || self.state.is_guess(key) {
                    // It may have gone before, or belong to another lease.
                    continue;
                }
                if evidence.complete {
                    let events = evidence.keys.values().map(|(_, event)| *event).collect();
                    let text = format!(
                        "lease {lease} ended at revision {revision}, but its key {} did not go",
                        short(key)
                    );
                    self.case.violation("L3", events, text);
                }
                keys.push(key);
            }
        }
        let sure = evidence.complete || self.state.is_certain();
        let (changes, doubtful) = self.go(&keys);
        Some(Entry { changes, source: Source::LeaseEnd, sure, doubtful })
    }

    /// Keys go: what changed, and which of them were in doubt.
    fn go(&mut self, keys: &[&'a str]) -> (Vec<LogChange<'a>>, Vec<&'a str>) {
        let doubtful = keys.iter().filter(|key| self.state.is_doubtful(key)).copied().collect();
        let changes = keys.iter().map(|key| {
            let before = self.state.get(key);
            self.state.settle(key, None);
            LogChange { key, before, after: None }
        });
        (changes.collect(), doubtful)
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
        let keys = evidence.keys.keys().copied();
        let doubtful = keys.filter(|key| self.state.is_doubtful(key)).collect();
        for (key, (seen, _)) in &evidence.keys {
            let before = self.state.get(key);
            let after = match seen {
                Seen::Put(record) => Some(*record),
                Seen::Deleted => None,
                Seen::Touched => {
                    self.state.doubt(key, revision);
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
        Entry { changes, source, sure, doubtful }
    }

    /// A revision that nobody has seen anything of.
    fn explain_without_trace(&mut self, revision: u64) -> Entry<'a> {
        let unseen = |source, sure| {
            let (changes, doubtful) = (Vec::new(), Vec::new());
            Entry { changes, source, sure, doubtful }
        };
        if let Some(other) = self.other(revision) {
            let entry = unseen(Source::Operation(other.event), true);
            return match other.revoked {
                Some(lease) => self.end_lease(lease, entry),
                None => entry,
            };
        }
        if let Some(passed) = self.facts.covering(revision) {
            if self.context.exclusive && !self.facts.others_open {
                let text =
                    format!("a watch of all keys went past revision {revision} without a change");
                self.case.violation("W5", vec![passed.event], text);
            }
            return unseen(Source::Unknown, true);
        }
        self.opaque += 1;
        let mut culprits = self.explain.doubt_at(revision, self.facts, &mut self.state);
        if self.facts.others_open || !self.context.exclusive {
            culprits = true;
        }
        if !culprits {
            let text = format!("revision {revision} was given, and no operation can have taken it");
            self.case.violation("phantom", Vec::new(), text);
        }
        unseen(Source::Unknown, false)
    }

    /// Ends a lease unseen: its keys go, and perhaps others that are in doubt.
    fn end_lease(&mut self, lease: u64, entry: Entry<'a>) -> Entry<'a> {
        let sure = self.state.is_certain();
        let mut keys = self.state.attached(lease);
        keys.retain(|key| !self.state.is_guess(key));
        let (changes, doubtful) = self.go(&keys);
        Entry { changes, sure, doubtful, ..entry }
    }
}

/// Whether two transactions ask for the same.
fn is_alike(one: &Txn, other: &Txn) -> bool {
    one.compares == other.compares && one.success == other.success && one.failure == other.failure
}

/// Whether what actions change is what was seen. A deletion may or may not have
/// found a doubtful key.
fn fits(
    actions: &[Action],
    changes: &[LogChange<'_>],
    evidence: &Evidence<'_>,
    state: &State<'_>,
) -> bool {
    let seen = |change: &LogChange<'_>| {
        let perhaps_not_there = change.after.is_none() && state.is_doubtful(change.key);
        perhaps_not_there || evidence.keys.contains_key(change.key)
    };
    if evidence.complete && !changes.iter().all(seen) {
        return false;
    }
    evidence.keys.iter().all(|(key, (seen, _))| {
        let change = changes.iter().rfind(|change| change.key == *key);
        match (seen, change.map(|change| change.after)) {
            (Seen::Deleted, Some(None)) => true,
            (Seen::Deleted, None) => {
                state.is_doubtful(key) && actions.iter().any(|action| writes(action, key))
            }
            (Seen::Touched, Some(Some(_))) => true,
            (Seen::Put(seen), Some(Some(after))) if state.is_doubtful(key) => {
                (seen.value, seen.modified, seen.lease)
                    == (after.value, after.modified, after.lease)
            }
            (Seen::Put(seen), Some(Some(after))) => *seen == after,
            _ => false,
        }
    })
}
