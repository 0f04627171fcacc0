//! Transactions with unknown outcomes: those that may explain a revision, and the
//! keys that they put in doubt at a revision that nobody saw.
//!
//! A history has many of both, so neither is looked for by going through all.

use super::facts::{Evidence, Fact, Facts, Seen};
use super::is_open;
use super::state::State;
use crate::history::{Action, spans};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Transactions with unknown outcomes, by what they would leave behind. All
/// lists are in the order of their invocations, and so of their floors.
#[derive(Default)]
pub(super) struct Candidates<'a> {
    /// By a key and value that they put.
    puts: HashMap<(&'a str, &'a str), Vec<usize>>,
    /// By a key that they put or delete.
    writers: HashMap<&'a str, Vec<usize>>,
    /// Those that delete spans.
    spans: Vec<usize>,
    /// Keys that they put with a lease.
    leased: HashSet<&'a str>,
    suspects: Suspects<'a>,
    /// The revisions of those that explained one.
    pub(super) used: HashMap<usize, u64>,
    /// Whether one of several that fitted had to be chosen.
    pub(super) guessed: bool,
}

/// Those that are not used, and were asked before the last revision without a
/// trace: how many there are, in all and for what they may write.
#[derive(Default)]
struct Suspects<'a> {
    /// All with unknown outcomes.
    open: Vec<usize>,
    /// Where in `open` those begin that were asked later.
    next: usize,
    count: usize,
    puts: HashMap<&'a str, usize>,
    deletes: HashMap<&'a str, usize>,
    spans: BTreeMap<(&'a str, &'a str), usize>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(facts: &Facts<'a>) -> Self {
        let mut candidates = Self::default();
        for (place, fact) in facts.txns.iter().enumerate().filter(|(_, fact)| is_open(fact)) {
            candidates.suspects.open.push(place);
            for pair in puts(fact) {
                add(candidates.puts.entry(pair).or_default(), place);
            }
            for action in fact.txn.success.iter().chain(&fact.txn.failure) {
                match action {
                    Action::Put { key, lease, .. } => {
                        add(candidates.writers.entry(key).or_default(), place);
                        if *lease != 0 {
                            candidates.leased.insert(key);
                        }
                    }
                    Action::Delete { key, end: None, .. } => {
                        add(candidates.writers.entry(key).or_default(), place);
                    }
                    Action::Delete { .. } => add(&mut candidates.spans, place),
                    Action::Range { .. } => {}
                }
            }
        }
        candidates
    }

    /// Those that may explain what was seen, not used yet, in order.
    pub(super) fn of(&self, evidence: &Evidence<'a>) -> Vec<usize> {
        let value = evidence.keys.iter().find_map(|(key, (seen, _))| match seen {
            Seen::Put(record) => Some((*key, record.value)),
            Seen::Deleted | Seen::Touched => None,
        });
        if let Some(pair) = value {
            return self.puts.get(&pair).cloned().unwrap_or_default();
        }
        let Some(key) = evidence.keys.keys().next() else { return Vec::new() };
        let mut places = self.writers.get(key).cloned().unwrap_or_default();
        places.extend(&self.spans);
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Whether any of them, used or not, may have given a key a lease.
    pub(super) fn may_have_leased(&self, key: &str) -> bool {
        self.leased.contains(key)
    }

    /// Takes one that explained a revision out of all lists.
    pub(super) fn take(&mut self, place: usize, revision: u64, facts: &Facts<'a>) {
        self.used.insert(place, revision);
        let fact = &facts.txns[place];
        for pair in puts(fact) {
            remove(self.puts.get_mut(&pair), place);
        }
        for action in fact.txn.success.iter().chain(&fact.txn.failure) {
            if let Action::Put { key, .. } | Action::Delete { key, end: None, .. } = action {
                remove(self.writers.get_mut(key.as_str()), place);
            }
        }
        remove(Some(&mut self.spans), place);
        let suspects = &mut self.suspects;
        if suspects.open[..suspects.next].binary_search(&place).is_ok() {
            suspects.leave(fact);
        }
    }

    /// Puts in doubt whatever they or the end of leases may have done at a
    /// revision; says whether there is anything that can have taken it.
    pub(super) fn doubt_at(
        &mut self,
        revision: u64,
        facts: &Facts<'a>,
        state: &mut State<'a>,
    ) -> bool {
        // What was in doubt at the last such revision, and nobody touched since,
        // still is.
        let mut keys = state.take_touched();
        let suspects = &mut self.suspects;
        while let Some(place) = suspects.open.get(suspects.next)
            && facts.txns[*place].floor.0 < revision
        {
            if !self.used.contains_key(place) {
                suspects.join(&facts.txns[*place], state, &mut keys);
            }
            suspects.next += 1;
        }
        for key in keys {
            let record = state.get(key);
            let leased = record.is_some_and(|record| record.lease != 0);
            if leased || suspects.may_write(key, record.is_some()) {
                state.doubt(key, revision);
            }
        }
        suspects.count > 0 || state.has_leases()
    }
}

impl<'a> Suspects<'a> {
    /// Adds one, and the keys that only it may have written to `keys`.
    fn join(&mut self, fact: &Fact<'a>, state: &State<'a>, keys: &mut Vec<&'a str>) {
        self.count += 1;
        for action in fact.txn.success.iter().chain(&fact.txn.failure) {
            match action {
                Action::Put { key, .. } => {
                    *self.puts.entry(key).or_default() += 1;
                    keys.push(key);
                }
                Action::Delete { key, end: None, .. } => {
                    *self.deletes.entry(key).or_default() += 1;
                    keys.push(key);
                }
                Action::Delete { key, end: Some(end), .. } => {
                    let same = self.spans.entry((key, end)).or_default();
                    *same += 1;
                    if *same == 1 {
                        keys.extend(state.span(key, Some(end)).map(|(key, _)| key));
                    }
                }
                Action::Range { .. } => {}
            }
        }
    }

    /// Takes one away.
    fn leave(&mut self, fact: &Fact<'a>) {
        self.count -= 1;
        for action in fact.txn.success.iter().chain(&fact.txn.failure) {
            match action {
                Action::Put { key, .. } => less(self.puts.get_mut(key.as_str())),
                Action::Delete { key, end: None, .. } => less(self.deletes.get_mut(key.as_str())),
                Action::Delete { key, end: Some(end), .. } => {
                    let span = (key.as_str(), end.as_str());
                    less(self.spans.get_mut(&span));
                    if self.spans.get(&span) == Some(&0) {
                        self.spans.remove(&span);
                    }
                }
                Action::Range { .. } => {}
            }
        }
    }

    /// Whether one of them may have put a key, or deleted it if it is there.
    fn may_write(&self, key: &str, there: bool) -> bool {
        let has = |counts: &HashMap<&str, usize>| counts.get(key).is_some_and(|count| *count > 0);
        let spanned = || self.spans.keys().any(|(from, to)| spans(from, Some(to), key));
        has(&self.puts) || (there && (has(&self.deletes) || spanned()))
    }
}

/// All pairs of key and value that a transaction may put.
pub(super) fn puts<'a>(fact: &Fact<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    fact.txn.success.iter().chain(&fact.txn.failure).filter_map(|action| match action {
        Action::Put { key, value, .. } => Some((key.as_str(), value.as_str())),
        Action::Delete { .. } | Action::Range { .. } => None,
    })
}

/// Adds the place of a transaction, once.
fn add(list: &mut Vec<usize>, place: usize) {
    if list.last() != Some(&place) {
        list.push(place);
    }
}

fn remove(list: Option<&mut Vec<usize>>, place: usize) {
    if let Some(list) = list
        && let Ok(at) = list.binary_search(&place)
    {
        list.remove(at);
    }
}

fn less(count: Option<&mut usize>) {
    if let Some(count) = count {
        *count -= 1;
    }
}
