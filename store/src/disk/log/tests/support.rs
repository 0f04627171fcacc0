//! A log on a simulated disk, and the sequence of states that it went through.

use super::super::*;
use crate::disk::storage::{SimDisk, Storage};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const SEGMENT: u64 = LogOptions::SEGMENT_BYTES_MIN;

pub(super) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: SEGMENT,
        // Nothing is read from memory longer than it must.
        tail_bytes_max: 0,
        round_bytes_max: 8 * 1024,
        zero_ahead: false,
        ..LogOptions::default()
    }
}

/// Splitmix64: the tests' chance.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A seed that differs from run to run, unless `KEELSTONE_SEED` is set.
pub(super) fn fresh_seed() -> u64 {
    if let Ok(seed) = std::env::var("KEELSTONE_SEED") {
        return seed.parse().expect("KEELSTONE_SEED is a number");
    }
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId { term, index, leader: term % 3 }
}

/// An entry whose payload follows from its id and length.
pub(super) fn entry(term: u64, index: u64, length: usize) -> LogEntry {
    let mut random = Random(term << 40 ^ index);
    let payload: Vec<u8> = (0..length).map(|_| random.next().to_le_bytes()[0]).collect();
    LogEntry { id: id(term, index), payload: payload.into() }
}

pub(super) fn ignore() -> Completion {
    Box::new(|_: io::Result<()>| {})
}

/// All that can be seen of a log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    pub(super) entries: Vec<LogEntry>,
}

impl Seen {
    pub(super) fn of(log: &Log) -> Self {
        let Recovered { vote, purged, last, .. } = log.recovered();
        let mut entries = Vec::new();
        let mut from = 0;
        let until = last.map_or(0, |last| last.index + 1);
        while from < until {
            let read = log.read(from, until, 2000).expect("an open log can be read");
            let Some(newest) = read.last() else { break };
            from = newest.id.index + 1;
            entries.extend(read);
        }
        Self { vote, purged, last, entries }
    }

    fn append(&mut self, entry: LogEntry) {
        self.last = Some(entry.id);
        self.entries.push(entry);
    }

    fn truncate(&mut self, kept: Option<LogId>) {
        let next = kept.map_or(0, |kept| kept.index + 1);
        if self.last.is_some_and(|last| last.index >= next) {
            self.entries.retain(|entry| entry.id.index < next);
            self.last = kept.or(self.purged);
        }
    }

    fn purge(&mut self, upto: LogId) {
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
            self.entries.retain(|entry| entry.id.index > upto.index);
            if self.last.is_none_or(|last| last.index < upto.index) {
                self.last = Some(upto);
            }
        }
    }
}

/// A log and what it may be found to be after a crash.
pub(super) struct Subject {
    pub(super) disk: SimDisk,
    pub(super) log: Log,
    pub(super) writer: LogWriter,
    options: LogOptions,
    /// The states that the stream of calls went through, entry by entry.
    pub(super) states: Vec<Seen>,
    /// The newest state that was acknowledged.
    acknowledged: Arc<AtomicU64>,
    committed: Vec<LogId>,
}

impl Subject {
    pub(super) fn new(disk: SimDisk, options: LogOptions) -> Result<Self, OpenError> {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let (log, writer) = Log::open(storage, options.clone())?;
        let states = vec![Seen::of(&log)];
        let acknowledged = Arc::default();
        Ok(Self { disk, log, writer, options, states, acknowledged, committed: Vec::new() })
    }

    pub(super) fn now(&self) -> &Seen {
        self.states.last().expect("there is a first state")
    }

    fn change(&mut self, change: impl FnOnce(&mut Seen)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
    }

    /// Acknowledges the present state when it is called with success.
    fn completion(&self) -> Completion {
        let state = self.states.len() as u64 - 1;
        let acknowledged = Arc::clone(&self.acknowledged);
        Box::new(move |result: io::Result<()>| {
            if result.is_ok() {
                acknowledged.fetch_max(state, Ordering::SeqCst);
            }
        })
    }

    pub(super) fn acknowledged(&self) -> usize {
        usize::try_from(self.acknowledged.load(Ordering::SeqCst)).unwrap()
    }

    pub(super) fn append(&mut self, term: u64, lengths: &[usize]) -> Result<(), LogError> {
        let first = self.now().last.map_or(0, |last| last.index + 1);
        let entries: Vec<LogEntry> =
            (first..).zip(lengths).map(|(index, length)| entry(term, index, *length)).collect();
        for entry in &entries {
            self.change(|seen| seen.append(entry.clone()));
        }
        let done = self.completion();
        self.log.append(entries, done)
    }

    pub(super) fn vote(&mut self, vote: Vote) -> Result<(), LogError> {
        self.change(|seen| seen.vote = Some(vote));
        let done = self.completion();
        self.log.save_vote(vote, done)
    }

    pub(super) fn commit(&mut self, id: LogId) -> Result<(), LogError> {
        self.committed.push(id);
        self.log.save_committed(id)
    }

    pub(super) fn truncate(&mut self, kept: Option<LogId>) -> Result<(), LogError> {
        self.change(|seen| seen.truncate(kept));
        self.log.truncate_after(kept)
    }

    pub(super) fn purge(&mut self, upto: LogId) -> Result<(), LogError> {
        self.change(|seen| seen.purge(upto));
        self.log.purge(upto)
    }

    pub(super) fn round(&mut self) -> Result<bool, LogError> {
        self.writer.round()
    }

    /// Whether the log shows what was asked of it.
    pub(super) fn check_now(&self) {
        assert_eq!(&Seen::of(&self.log), self.now());
    }

    /// What is found on `disk` must be a state that the log went through, none
    /// older than what was acknowledged. Returns the log as it goes on.
    pub(super) fn reopen_on(&self, disk: SimDisk) -> Self {
        self.reopen_from(disk, self.acknowledged())
    }

    pub(super) fn reopen_from(&self, disk: SimDisk, oldest: usize) -> Self {
        let reopened = Self::new(disk, self.options.clone()).expect("the log can be opened");
        let found = reopened.now();
        assert!(
            self.states[oldest..].contains(found),
            "found {:?}, acknowledged {:?}",
            brief(found),
            brief(&self.states[oldest]),
        );
        let committed = reopened.log.recovered().committed;
        assert!(committed.is_none_or(|id| self.committed.contains(&id)
            && found.last.is_some_and(|last| last.index >= id.index)));
        Self { committed: self.committed.clone(), ..reopened }
    }

    /// The power fails, and comes back.
    pub(super) fn power_cut(&self) -> Self {
        self.disk.crash();
        self.reopen_on(self.disk.clone())
    }
}

fn brief(seen: &Seen) -> String {
    let Seen { vote, purged, last, entries } = seen;
    format!("{vote:?}, purged {purged:?}, last {last:?}, {} entries", entries.len())
}

/// Goes on until each file of the log has had an earlier life.
pub(super) fn aged(mut subject: Subject) -> Subject {
    let term = 5;
    for n in 0..40 {
        subject.append(term, &[1500, 700, n]).unwrap();
        let upto = subject.now().last.unwrap();
        subject.round().unwrap();
        if let Some(index) = upto.index.checked_sub(4) {
            subject.purge(LogId { index, ..upto }).unwrap();
            subject.round().unwrap();
        }
    }
    let names = subject.disk.list().unwrap();
    for name in &names {
        let contents = subject.disk.contents(name).unwrap();
        let last_sector = &contents[contents.len() - 4096..];
        let used_to_the_end = last_sector.iter().any(|byte| *byte != 0);
        assert!(used_to_the_end, "{name} of {names:?} is not used again");
    }
    // Some that go together, and are not purged.
    subject.append(term, &[900, 2000, 30]).unwrap();
    subject.round().unwrap();
    subject.append(term, &[700]).unwrap();
    subject.round().unwrap();
    subject
}
