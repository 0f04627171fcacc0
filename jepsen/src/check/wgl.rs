//! Linearizability of single keys, by the search of Wing and Gong with Lowe's
//! memory: the second opinion, which does not believe a single revision.
//!
//! A transaction is linearizable only if what it says of each key is, so each
//! key is judged alone, as a register with a value and a count of puts. What the
//! judgement knows of a transaction: its reads, puts and deletions of the key,
//! and compares of its value, its version, and its absence. Compares of
//! revisions and leases are not believed, so their outcome is taken as it is.
//!
//! Left out are reads of the past and of one replica's own state, which do not
//! claim to be linearizable, and keys that a lease can take away at any time.
//! An unknown operation may take effect at any time after it was asked, once, or
//! never. The search is bounded by states for a key and by time for all: what it
//! could not finish is *unknown*, never *valid*.
//!
//! Sources: J. Wing, C. Gong, "Testing and Verifying Concurrent Objects" (1993);
//! G. Lowe, "Testing for Linearizability" (2017).

use super::{Case, Context, Verdict};
use crate::history::{
    Action, ActionReply, Compare, History, Operand, Operation, Outcome, Relation, Target, Txn,
    TxnReply, spans,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::time::{Duration, Instant};

/// The checker's name.
pub const NAME: &str = "wgl";

/// A key: absent, or a value (by its number) and how often it was put.
type Register = Option<(u32, u64)>;

/// Judges each key of a history.
pub fn check(history: &History, context: &Context) -> Verdict {
    let operations = history.operations();
    let mut calls = Calls::collect(&operations);
    let mut case = Case::new(NAME);
    let deadline = Instant::now() + Duration::from_millis(context.wgl_ms_max);
    if !calls.skipped.is_empty() {
        let count = calls.skipped.len();
        case.note(format!("{count} keys with leases or unclear branches were not judged"));
    }
    let mut undecided = 0;
    for (key, list) in std::mem::take(&mut calls.keys) {
        if calls.skipped.contains(key) || list.is_empty() {
            continue;
        }
        let mut search = Search::new(list, context.wgl_states_max, deadline);
        match search.run() {
            Answer::Linearizable => {
                case.judged.operations += search.calls() as u64;
                case.judged.keys += 1;
            }
            Answer::Undecided => undecided += 1,
            Answer::Impossible => {
                case.judged.operations += search.calls() as u64;
                case.judged.keys += 1;
                let (events, text) = search.explain(key, &calls.values, &operations);
                case.violation("linearizability", events, text);
            }
        }
        case.judged.events += search.visited;
    }
    if undecided > 0 {
        case.unknown(format!("the search for {undecided} keys was given up at its bounds"));
        case.judged.keys += undecided;
    }
    let keys = case.judged.keys;
    case.close("key with operations", keys)
}

/// What an operation does to one key, or says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Expect(Register),
    ExpectPresent,
    Put(u32),
    Delete,
}

/// A demand that can be judged without revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    Value(Relation, u32),
    Version(Relation, u64),
    Absent(bool),
}

/// How the branch of an operation is decided.
#[derive(Clone, Debug)]
enum Branch {
    /// It is known; the guards hold, or exactly one is there and it does not.
    Known { holds: Option<bool>, steps: Vec<Step> },
    /// By the guards.
    Open { then: Vec<Step>, otherwise: Vec<Step> },
}

/// One operation on one key.
#[derive(Clone, Debug)]
struct Call {
    /// Which of the operations.
    operation: usize,
    invoked: u64,
    /// The end of time if the outcome is unknown.
    returned: u64,
    guards: Vec<Guard>,
    branch: Branch,
}

#[derive(Default)]
struct Calls<'a> {
    keys: BTreeMap<&'a str, Vec<Call>>,
    skipped: BTreeSet<&'a str>,
    values: Vec<&'a str>,
    numbers: HashMap<&'a str, u32>,
}

impl<'a> Calls<'a> {
    fn collect(operations: &[Operation<'a>]) -> Self {
        let mut calls = Self::default();
        let txns = || {
            operations.iter().enumerate().filter_map(|(place, op)| Some((place, op, op_txn(op)?)))
        };
        for (_, _, txn) in txns() {
            for action in txn.success.iter().chain(&txn.failure) {
                match action {
                    Action::Put { key, lease, .. } => {
                        calls.keys.entry(key).or_default();
                        if *lease != 0 {
                            calls.skipped.insert(key);
                        }
                    }
                    Action::Range { key, end: None, .. }
                    | Action::Delete { key, end: None, .. } => {
                        calls.keys.entry(key).or_default();
                    }
                    Action::Range { .. } | Action::Delete { .. } => {}
                }
            }
        }
        for (place, operation, txn) in txns() {
            calls.add(place, operation, txn);
        }
        calls
    }

    fn add(&mut self, place: usize, operation: &Operation<'a>, txn: &'a Txn) {
        let reply = match operation.ok() {
            Some((_, crate::history::Op::Txn(done))) => done.reply.as_ref(),
            _ => None,
        };
        if operation.outcome() == Outcome::Fail || (reply.is_none() && txn.is_read()) {
            return;
        }
        if !txn.linearizable || txn.revision.is_some() {
            return;
        }
        for key in self.touched(txn) {
            let call = self.call(place, operation, txn, reply, key);
            match call {
                None => {
                    self.skipped.insert(key);
                }
                Some(call) if call.says_nothing() => {}
                Some(call) => self.keys.entry(key).or_default().push(call),
            }
        }
    }

    /// The keys that a transaction can read or write.
    fn touched(&self, txn: &'a Txn) -> BTreeSet<&'a str> {
        let mut touched = BTreeSet::new();
        for compare in &txn.compares {
            touched.extend(self.keys.get_key_value(compare.key.as_str()).map(|(key, _)| *key));
        }
        for action in txn.success.iter().chain(&txn.failure) {
            match action {
                Action::Put { key, .. } => {
                    touched.insert(key);
                }
                Action::Delete { key, end, .. } | Action::Range { key, end, .. } => match end {
                    None => {
                        touched.insert(key);
                    }
                    Some(end) => {
                        let from = self
                            .keys
                            .range::<str, _>((Bound::Included(key.as_str()), Bound::Unbounded));
                        let within = from.take_while(|(k, _)| spans(key, Some(end), k));
                        touched.extend(within.map(|(key, _)| *key));
                    }
                },
            }
        }
        touched
    }

    /// What a transaction says of one key; `None` if that cannot be said.
    fn call(
        &mut self,
        place: usize,
        operation: &Operation<'a>,
        txn: &'a Txn,
        reply: Option<&'a TxnReply>,
        key: &str,
    ) -> Option<Call> {
        let mut guards = Vec::new();
        let mut all = true;
        for compare in &txn.compares {
            match self.guard(compare).filter(|_| compare.key == key) {
                Some(guard) => guards.push(guard),
                None => all = false,
            }
        }
        let branch = if let Some(reply) = reply {
            let results = Some(reply.results.as_slice());
            let steps = self.steps(txn.branch(reply.succeeded), results, key);
            let holds = match reply.succeeded {
                true => Some(true),
                false if all && guards.len() == 1 => Some(false),
                false => None,
            };
            Branch::Known { holds, steps }
        } else {
            let then = self.steps(&txn.success, None, key);
            let otherwise = self.steps(&txn.failure, None, key);
            match (all, otherwise.is_empty()) {
                (true, _) => Branch::Open { then, otherwise },
                (false, true) => Branch::Known { holds: Some(true), steps: then },
                (false, false) => return None,
            }
        };
        let (invoked, returned) = (operation.invoke.index, operation.return_index());
        Some(Call { operation: place, invoked, returned, guards, branch })
    }

    fn guard(&mut self, compare: &'a Compare) -> Option<Guard> {
        match (compare.target, &compare.operand, compare.op) {
            (Target::Value, Operand::Text(text), op @ (Relation::Equal | Relation::NotEqual)) => {
                Some(Guard::Value(op, self.number(text)))
            }
            (Target::Version, Operand::Number(number), op) => Some(Guard::Version(op, *number)),
            (Target::Create | Target::Mod, Operand::Number(0), Relation::Equal) => {
                Some(Guard::Absent(true))
            }
            (
                Target::Create | Target::Mod,
                Operand::Number(0),
                Relation::Greater | Relation::NotEqual,
            ) => Some(Guard::Absent(false)),
            _ => None,
        }
    }

    fn number(&mut self, value: &'a str) -> u32 {
        let next = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(value).or_insert(next);
        if number == next {
            self.values.push(value);
        }
        number
    }

    fn steps(
        &mut self,
        actions: &'a [Action],
        results: Option<&'a [ActionReply]>,
        wanted: &str,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for (place, action) in actions.iter().enumerate() {
            let result = results.and_then(|results| results.get(place));
            match action {
                Action::Put { key, value, prev, .. } if key == wanted => {
                    if let (true, Some(ActionReply::Put { prev })) = (prev, result) {
                        steps.push(Step::Expect(self.register(prev.as_ref())));
                    }
                    steps.push(Step::Put(self.number(value)));
                }
                Action::Delete { key, end, .. } if spans(key, end.as_deref(), wanted) => {
                    if let Some(ActionReply::Delete { deleted, .. }) = result {
                        match (*deleted, end) {
                            (0, _) => steps.push(Step::Expect(None)),
                            (_, None) => steps.push(Step::ExpectPresent),
                            (_, Some(_)) => {}
                        }
                    }
                    steps.push(Step::Delete);
                }
                Action::Range { key, end, .. } if spans(key, end.as_deref(), wanted) => {
                    if let Some(ActionReply::Range { kvs, more, .. }) = result {
                        let last = kvs.last().map(|kv| kv.key.as_str());
                        if !more || last.is_some_and(|last| wanted <= last) {
                            let found = kvs.iter().find(|kv| kv.key == wanted);
                            steps.push(Step::Expect(self.register(found)));
                        }
                    }
                }
                _ => {}
            }
        }
        steps
    }

    fn register(&mut self, kv: Option<&'a crate::history::KeyValue>) -> Register {
        kv.map(|kv| (self.number(&kv.value), kv.version))
    }
}

fn op_txn<'a>(operation: &Operation<'a>) -> Option<&'a Txn> {
    match &operation.invoke.op {
        crate::history::Op::Txn(txn) => Some(txn),
        _ => None,
    }
}

impl Call {
    /// Whether it can neither fail nor change anything.
    fn says_nothing(&self) -> bool {
        match &self.branch {
            Branch::Known { holds, steps } => {
                steps.is_empty() && (self.guards.is_empty() || holds.is_none())
            }
            Branch::Open { then, otherwise } => then.is_empty() && otherwise.is_empty(),
        }
    }

    /// The key after the call, or `None` if it cannot have been answered so.
    fn apply(&self, before: Register) -> Option<Register> {
        let hold = self.guards.iter().all(|guard| guard.holds(before));
        let steps = match &self.branch {
            Branch::Known { holds: Some(holds), .. } if *holds != hold => return None,
            Branch::Known { steps, .. } => steps,
            Branch::Open { then, .. } if hold => then,
            Branch::Open { otherwise, .. } => otherwise,
        };
        let mut now = before;
        for step in steps {
            now = match *step {
                Step::Expect(expected) if expected != now => return None,
                Step::ExpectPresent if now.is_none() => return None,
                Step::Expect(_) | Step::ExpectPresent => now,
                Step::Put(value) => Some((value, now.map_or(1, |(_, version)| version + 1))),
                Step::Delete => None,
            };
        }
        Some(now)
    }
}

impl Guard {
    fn holds(self, register: Register) -> bool {
        let relate = |op: Relation, order: std::cmp::Ordering| match op {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Less => order.is_lt(),
            Relation::Greater => order.is_gt(),
        };
        match (self, register) {
            (Self::Value(..), None) => false,
            // Only equality and its opposite are guards: numbers have no order.
            (Self::Value(op, wanted), Some((value, _))) => relate(op, value.cmp(&wanted)),
            (Self::Version(op, wanted), found) => {
                relate(op, found.map_or(0, |(_, version)| version).cmp(&wanted))
            }
            (Self::Absent(wanted), found) => found.is_none() == wanted,
        }
    }
}

/// How a search ended.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Linearizable,
    Impossible,
    Undecided,
}

/// The search for an order of one key's operations.
struct Search {
    /// Answered calls by invocation, then those with unknown outcomes.
    answered: Vec<Call>,
    unknown: Vec<Call>,
    done: Vec<u64>,
    taken: Vec<u64>,
    /// The first answered call that is not done.
    first: usize,
    count: usize,
    memory: HashSet<(usize, Box<[u64]>, Register)>,
    states_max: u64,
    deadline: Instant,
    visited: u64,
    /// The longest order that was found, for the explanation.
    deepest: (usize, Register, Vec<usize>),
}

/// A place in the search: what can come next.
struct Frame {
    before: Register,
    /// Answered calls, then unknown ones (their numbers come after).
    candidates: Vec<usize>,
    next: usize,
}

impl Search {
    fn new(calls: Vec<Call>, states_max: u64, deadline: Instant) -> Self {
        let (mut answered, mut unknown): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|call| call.returned != u64::MAX);
        answered.sort_by_key(|call| call.invoked);
        unknown.sort_by_key(|call| call.invoked);
        Self {
            done: vec![0; answered.len().div_ceil(64)],
            taken: vec![0; unknown.len().div_ceil(64)],
            answered,
            unknown,
            first: 0,
            count: 0,
            memory: HashSet::new(),
            states_max,
            deadline,
            visited: 0,
            deepest: (0, None, Vec::new()),
        }
    }

    fn calls(&self) -> usize {
        self.answered.len() + self.unknown.len()
    }

    fn run(&mut self) -> Answer {
        let mut path: Vec<usize> = Vec::new();
        let mut frames = vec![self.frame(None)];
        while let Some(frame) = frames.last_mut() {
            if self.count == self.answered.len() {
                return Answer::Linearizable;
            }
            let Some(call) = frame.candidates.get(frame.next).copied() else {
                frames.pop();
                if let Some(call) = path.pop() {
                    self.mark(call, false);
                }
                continue;
            };
            frame.next += 1;
            let before = frame.before;
            let Some(after) = self.call(call).apply(before) else { continue };
            self.mark(call, true);
            if !self.memory.insert(self.key(after)) {
                self.mark(call, false);
                continue;
            }
            self.visited += 1;
            if self.visited >= self.states_max || self.is_late() {
                return Answer::Undecided;
            }
            path.push(call);
            let frame = self.frame(after);
            if self.count >= self.deepest.0 && self.count < self.answered.len() {
                self.deepest = (self.count, after, frame.candidates.clone());
            }
            frames.push(frame);
        }
        if self.answered.is_empty() { Answer::Linearizable } else { Answer::Impossible }
    }

    fn is_late(&self) -> bool {
        self.visited.is_multiple_of(1024) && Instant::now() > self.deadline
    }

    fn call(&self, number: usize) -> &Call {
        self.answered.get(number).unwrap_or_else(|| &self.unknown[number - self.answered.len()])
    }

    fn mark(&mut self, number: usize, done: bool) {
        let answered = self.answered.len();
        let (bits, place) = if number < answered {
            self.count = if done { self.count + 1 } else { self.count - 1 };
            (&mut self.done, number)
        } else {
            (&mut self.taken, number - answered)
        };
        bits[place / 64] ^= 1 << (place % 64);
        if number < answered {
            if done {
                while self.first < answered && is_set(&self.done, self.first) {
                    self.first += 1;
                }
            } else {
                self.first = self.first.min(number);
            }
        }
    }

    /// What the memory keeps of a place: all up to the first open call are done,
    /// so only the words from there on tell places apart.
    fn key(&self, register: Register) -> (usize, Box<[u64]>, Register) {
        let mut words = Vec::with_capacity(self.taken.len() + 2);
        let mut left = self.count - self.first;
        for (place, word) in self.done.iter().enumerate().skip(self.first / 64) {
            if left == 0 {
                break;
            }
            let mut word = *word;
            if place == self.first / 64 {
                word &= u64::MAX << (self.first % 64);
            }
            left -= (word.count_ones() as usize).min(left);
            words.push(word);
        }
        words.push(u64::MAX);
        words.extend(&self.taken);
        (self.first, words.into_boxed_slice(), register)
    }

    /// The calls that can come next: those that were asked before the first
    /// return of all that are open.
    fn frame(&self, before: Register) -> Frame {
        let mut candidates: Vec<usize> = Vec::new();
        let mut earliest = u64::MAX;
        for number in self.first..self.answered.len() {
            let call = &self.answered[number];
            if call.invoked > earliest {
                break;
            }
            if !is_set(&self.done, number) {
                earliest = earliest.min(call.returned);
                candidates.push(number);
            }
        }
        candidates.retain(|number| self.answered[*number].invoked < earliest);
        // The one that has to be answered first is the likeliest to come next.
        candidates.sort_by_key(|number| self.answered[*number].returned);
        let answered = self.answered.len();
        let open = self.unknown.iter().enumerate();
        let open = open.take_while(|(_, call)| call.invoked < earliest);
        let open = open.filter(|(place, _)| !is_set(&self.taken, *place));
        candidates.extend(open.map(|(place, _)| answered + place));
        Frame { before, candidates, next: 0 }
    }

    fn explain(
        &self,
        key: &str,
        values: &[&str],
        operations: &[Operation<'_>],
    ) -> (Vec<u64>, String) {
        let (count, register, candidates) = &self.deepest;
        let stuck = candidates.iter().map(|number| self.call(*number)).take(4);
        let events = stuck.flat_map(|call| operations[call.operation].indices()).collect();
        let found = match register {
            None => "absent".to_owned(),
            Some((value, version)) => {
                let value = values.get(*value as usize).copied().unwrap_or_default();
                format!("{value:?} (version {version})")
            }
        };
        let text = format!(
            "key {key:?}: {count} of {} answers can be put in an order, then the key is {found} and \
             none of the next can follow",
            self.answered.len()
        );
        (events, text)
    }
}

fn is_set(bits: &[u64], place: usize) -> bool {
    bits[place / 64] & (1 << (place % 64)) != 0
}
