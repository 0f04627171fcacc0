//! Tests of the log.
use super::*;
use crate::disk::storage::{FileStorage, SimDisk, Storage};
use std::sync::Arc;

fn entry(index: u64, payload: &[u8]) -> LogEntry {
    LogEntry { id: LogId { term: 1, index, leader: 1 }, payload: Bytes::copy_from_slice(payload) }
}

fn ignore() -> Completion {
    Box::new(|_: io::Result<()>| {})
}

#[test]
fn what_was_written_is_there_after_opening() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let storage = Arc::new(FileStorage::open(dir.path()).unwrap());
        let options = LogOptions { segment_bytes: 16 * 1024, ..LogOptions::default() };
        Log::open(storage, options).unwrap()
    };
    {
        let (log, writer) = open();
        let thread = std::thread::spawn(move || writer.run());
        for index in 0..100 {
            log.append(vec![entry(index, &[7; 1000])], ignore()).unwrap();
        }
        log.save_vote(Vote { term: 3, node: 2, committed: true }, ignore()).unwrap();
        drop(log);
        thread.join().unwrap();
    }
    let (log, _writer) = open();
    let now = log.recovered();
    assert_eq!(now.last.unwrap().index, 99);
    assert_eq!(now.vote, Some(Vote { term: 3, node: 2, committed: true }));
    let read = log.read(0, 1000, usize::MAX).unwrap();
    assert_eq!(read.len(), 100);
    assert!(read.iter().all(|entry| entry.payload.as_ref() == [7; 1000]));
}

#[test]
fn simulated_disks_work_too() {
    let disk = SimDisk::new(1, 1 << 20);
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let options = LogOptions { segment_bytes: 16 * 1024, ..LogOptions::default() };
    let (log, mut writer) = Log::open(Arc::clone(&storage), options.clone()).unwrap();
    for index in 0..50 {
        log.append(vec![entry(index, &[9; 1000])], ignore()).unwrap();
        assert!(writer.round().unwrap());
    }
    log.append(vec![entry(50, &[9; 1000])], ignore()).unwrap();
    disk.crash();
    let (log, _writer) = Log::open(storage, options).unwrap();
    assert_eq!(log.recovered().last.unwrap().index, 49);
    assert_eq!(log.read(0, 1000, usize::MAX).unwrap().len(), 50);
}
