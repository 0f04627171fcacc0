//! The write-ahead log as a subject.

use super::history::{History, Op};
use super::{Ledger, Loss, Random};
use anyhow::{Context, Result, ensure};
use keelstone_store::disk::log::{Completion, Log, LogEntry, LogOptions, LogWriter};
use keelstone_store::disk::storage::FileStorage;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Operations that may be unacknowledged.
const IN_FLIGHT_MAX: u64 = 512;

pub(super) fn open(dir: &Path) -> Result<(Log, LogWriter), String> {
    let storage = FileStorage::open(dir).map_err(|error| error.to_string())?;
    let options = LogOptions {
        // Small: rotation and removal shall happen all the time.
        segment_bytes: 1024 * 1024,
        tail_bytes_max: 64 * 1024,
        ..LogOptions::default()
    };
    Log::open(Arc::new(storage), options).map_err(|error| error.to_string())
}

/// Queues operations, and acknowledges them as they become durable.
struct Writer {
    log: Log,
    history: History,
    ledger: Arc<Ledger>,
    /// Appends that follow each other go together.
    entries: Vec<LogEntry>,
}

impl Writer {
    /// Acknowledges everything up to here when it is called with success.
    fn completion(&self) -> Completion {
        let (ledger, number) = (Arc::clone(&self.ledger), self.history.count);
        Box::new(move |result| {
            if result.is_ok() {
                ledger.acknowledge(number);
            }
        })
    }

    fn append(&mut self, done: Completion) -> Result<()> {
        if !self.entries.is_empty() {
            self.log.append(std::mem::take(&mut self.entries), done)?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        // The number of the operations before this one.
        let before = self.completion();
        match self.history.step() {
            Op::Append(id) => self.entries.push(self.history.entry(id)),
            Op::Vote(vote) => {
                self.append(before)?;
                self.log.save_vote(vote, self.completion())?;
            }
            Op::Truncate(kept) => {
                self.append(before)?;
                self.log.truncate_after(kept)?;
            }
            Op::Purge(upto) => {
                self.append(before)?;
                self.log.purge(upto)?;
            }
        }
        Ok(())
    }
}

pub(super) fn write(dir: &Path, seed: u64, from: u64, ledger: Ledger) -> Result<()> {
    let history = History::at(seed, from);
    let (log, writer) = open(dir).map_err(anyhow::Error::msg)?;
    let found = log.recovered();
    let expected = (history.vote, history.purged, history.last);
    ensure!((found.vote, found.purged, found.last) == expected, "not the log after {from}");
    thread::spawn(move || writer.run());
    let mut random = Random::new(seed ^ from);
    let ledger = Arc::new(ledger);
    ledger.start().context("start the ledger")?;
    let mut writer = Writer { log, history, ledger, entries: Vec::new() };
    loop {
        for _ in 0..=random.below(32) {
            writer.step()?;
        }
        let done = writer.completion();
        writer.append(done)?;
        if let Some(settled) = writer.history.committed.filter(|_| random.below(4) == 0) {
            writer.log.save_committed(settled)?;
        }
        while writer.history.count > writer.ledger.acknowledged() + IN_FLIGHT_MAX {
            // Gone if the disk failed: then the next append says so.
            thread::sleep(Duration::from_micros(200));
            writer.log.read(0, 0, 0)?;
        }
        if random.below(8) == 0 {
            thread::sleep(Duration::from_micros(random.below(3000)));
        }
    }
}

pub(super) fn verify(dir: &Path, seed: u64, acknowledged: u64) -> Result<u64, Loss> {
    let (log, mut writer) = open(dir).map_err(Loss::Unreadable)?;
    let found = find(&log, seed, acknowledged)?;
    if found % 3 == 0 {
        // Sometimes the log is closed in order, mostly it is not.
        log.close();
        while writer.round().map_err(|error| Loss::Unreadable(error.to_string()))? {}
    }
    Ok(found)
}

/// The number of operations after which the log is what `log` shows.
fn find(log: &Log, seed: u64, acknowledged: u64) -> Result<u64, Loss> {
    let now = log.recovered();
    let mut history = History::at(seed, acknowledged);
    let furthest = acknowledged + 4 * IN_FLIGHT_MAX;
    while (now.vote, now.purged, now.last) != (history.vote, history.purged, history.last) {
        history.step();
        if history.count > furthest {
            let detail = format!("acknowledged {acknowledged}, found {now:?}");
            return Err(Loss::Wrong(detail));
        }
    }
    if now.committed.map(|id| id.index) > now.last.map(|id| id.index) {
        return Err(Loss::Wrong("more is committed than there is".to_owned()));
    }
    check_entries(log, &history)?;
    Ok(history.count)
}

/// Whether the entries are those of the history.
fn check_entries(log: &Log, history: &History) -> Result<(), Loss> {
    let mut next = 0;
    let until = history.last.map_or(0, |last| last.index + 1);
    let mut expected = history.ids.iter();
    while next < until {
        let read =
            log.read(next, until, 1 << 20).map_err(|error| Loss::Unreadable(error.to_string()))?;
        let Some(newest) = read.last() else { break };
        next = newest.id.index + 1;
        for entry in &read {
            let right = expected.next().map(|id| history.entry(*id));
            if right.as_ref() != Some(entry) {
                return Err(Loss::Wrong(format!("found {entry:?}, expected {right:?}")));
            }
        }
    }
    match expected.next() {
        None => Ok(()),
        Some(id) => Err(Loss::Wrong(format!("no entry {id:?}"))),
    }
}
