//! Real files and threads: rounds, readers beside truncation and purge.

use super::super::{Log, LogEntry, LogOptions, Vote};
use super::support::{Random, entry, fresh_seed, id, ignore, options};
use crate::disk::storage::{FileStorage, Storage};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// A log on real files whose writer runs.
fn start(dir: &Path, options: LogOptions) -> (Log, JoinHandle<()>) {
    let storage = Arc::new(FileStorage::open(dir).unwrap());
    let (log, writer) = Log::open(storage, options).unwrap();
    (log, std::thread::spawn(move || writer.run()))
}

/// Waits for everything queued so far.
fn wait(log: &Log) {
    let (sender, receiver) = mpsc::sync_channel(1);
    let done = Box::new(move |result: io::Result<()>| sender.send(result).unwrap());
    log.append(Vec::new(), done).unwrap();
    receiver.recv().unwrap().unwrap();
}

#[test]
fn what_was_written_is_there_after_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a").join("log");
    let vote = Vote { term: 3, node: 2, committed: true };
    let (log, thread) = start(&path, options());
    for index in 0..100 {
        log.append(vec![entry(1, index, 1000)], ignore()).unwrap();
    }
    log.save_vote(vote, ignore()).unwrap();
    log.save_committed(id(1, 50)).unwrap();
    drop(log);
    thread.join().unwrap();

    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for file in std::fs::read_dir(&path).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    let (log, thread) = start(&path, LogOptions::default());
    let now = log.recovered();
    assert_eq!((now.last, now.vote, now.committed), (Some(id(1, 99)), Some(vote), Some(id(1, 50))));
    let read = log.read(0, 1000, usize::MAX).unwrap();
    assert_eq!(read, (0..100).map(|index| entry(1, index, 1000)).collect::<Vec<_>>());
    drop(log);
    thread.join().unwrap();
}

#[test]
fn two_processes_cannot_open_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let first = FileStorage::open(dir.path()).unwrap();
    let second = FileStorage::open(dir.path()).map(|_| ()).unwrap_err();
    assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
    drop(first);
    FileStorage::open(dir.path()).unwrap();
}

#[test]
fn a_round_is_one_sync_and_takes_all_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(dir.path()).unwrap());
    let (log, mut writer) = Log::open(storage, LogOptions::default()).unwrap();
    let reported = Arc::new(AtomicU64::new(0));
    for index in 0..100 {
        let reported = Arc::clone(&reported);
        let done = Box::new(move |_: io::Result<()>| {
            reported.fetch_add(1000 + index, Ordering::SeqCst);
        });
        log.append(vec![entry(1, index, 100)], done).unwrap();
        log.save_committed(id(1, index)).unwrap();
    }
    assert_eq!(log.read(0, 100, usize::MAX).unwrap().len(), 100, "readable before durable");
    assert!(writer.round().unwrap());
    let stats = log.stats();
    assert_eq!((stats.rounds, stats.syncs, stats.entries), (1, 1, 100));
    assert_eq!(stats.round_micros.iter().sum::<u64>(), 1);
    assert_eq!(reported.load(Ordering::SeqCst), 1099, "only the newest append is reported");
    // A committed mark alone is no reason for a round.
    log.save_committed(id(1, 99)).unwrap();
    assert!(!writer.round().unwrap());
    assert_eq!(log.stats().syncs, 1);
}

#[test]
fn recent_entries_are_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { tail_bytes_max: 5000, ..options() };
    let (log, thread) = start(dir.path(), options);
    let entries: Vec<LogEntry> = (0..10).map(|index| entry(1, index, 1000)).collect();
    log.append(entries.clone(), ignore()).unwrap();
    wait(&log);
    assert_eq!(log.stats().tail_entries, 5);
    let read = log.read(5, 10, usize::MAX).unwrap();
    for (read, written) in read.iter().zip(&entries[5..]) {
        assert_eq!(read.payload.as_ptr(), written.payload.as_ptr());
    }
    // Bounds: at least one, then no more than asked for.
    assert_eq!(log.read(6, 10, 0).unwrap().len(), 1);
    assert_eq!(log.read(6, 10, 2999).unwrap().len(), 2);
    assert_eq!(log.read(0, 10, 0).unwrap(), entries[..1]);
    assert_eq!(log.read(0, 10, 2999).unwrap(), entries[..2]);
    assert_eq!(log.read(10, 20, 100).unwrap(), []);
    assert_eq!(log.read(3, 3, 100).unwrap(), []);
    drop(log);
    thread.join().unwrap();
}

/// Reads at random until `stop`, and checks what comes.
fn read_at_random(log: &Log, stop: &AtomicBool, seed: u64) -> u64 {
    let mut random = Random(seed);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = log.recovered();
        let last = now.last.map_or(0, |last| last.index);
        let from = random.below(last + 2);
        let bytes_max = usize::try_from(random.below(20_000)).unwrap();
        let read = log.read(from, from + 1 + random.below(50), bytes_max).unwrap();
        for (one, next) in read.iter().zip(read.iter().skip(1)) {
            assert_eq!(one.id.index + 1, next.id.index, "seed {seed}");
            assert!(one.id.term <= next.id.term, "seed {seed}");
        }
        for found in &read {
            let LogEntry { id, payload } = found;
            assert_eq!(*found, entry(id.term, id.index, payload.len()), "seed {seed}");
        }
        count += read.len() as u64;
    }
    count
}

/// Ends the readers, also if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn readers_see_whole_entries_while_the_log_is_truncated_and_purged() {
    let dir = tempfile::tempdir().unwrap();
    let seed = fresh_seed();
    println!("KEELSTONE_SEED={seed}");
    let options = LogOptions { tail_bytes_max: 8_000, ..options() };
    let (log, thread) = start(dir.path(), options);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|n| {
                let (log, stop) = (log.clone(), &stop);
                scope.spawn(move || read_at_random(&log, stop, seed + n))
            })
            .collect();
        let stopped = Stop(&stop);
        let mut random = Random(seed);
        let mut term = 1;
        let mut next = 0;
        let mut first = 0;
        for _ in 0..600 {
            let count = 1 + random.below(8);
            let entries = (next..next + count)
                .map(|index| entry(term, index, usize::try_from(index * 97 % 1500).unwrap()))
                .collect();
            log.append(entries, ignore()).unwrap();
            next += count;
            match random.below(12) {
                0 => {
                    let kept = next - 1 - random.below((next - first).min(40));
                    let read = log.read(kept, kept + 1, 0).unwrap();
                    log.truncate_after(Some(read[0].id)).unwrap();
                    next = kept + 1;
                    term += 1;
                }
                1 if next - first > 60 => {
                    first = next - 50;
                    let read = log.read(first - 1, first, 0).unwrap();
                    log.purge(read[0].id).unwrap();
                }
                2 => wait(&log),
                _ => {}
            }
        }
        wait(&log);
        drop(stopped);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    assert!(log.stats().rotations > 20);
    let now = log.recovered();
    drop(log);
    thread.join().unwrap();
    let (log, thread) = start(dir.path(), LogOptions::default());
    assert_eq!(log.recovered(), now);
    drop(log);
    thread.join().unwrap();
}
