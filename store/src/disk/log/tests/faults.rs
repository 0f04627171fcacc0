//! The disk fails or is full while the machine goes on.

use super::super::{FailureHook, LogError, LogOptions, Vote};
use super::support::{SEGMENT, Subject, ignore, options};
use crate::disk::storage::{Fault, SimDisk};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};

/// Eight rounds over a few segments.
fn life(subject: &mut Subject) -> Result<(), LogError> {
    for n in 0..8 {
        subject.append(1, &[2000, 2500, 10])?;
        subject.vote(Vote { term: n, node: 1, committed: false })?;
        subject.round()?;
    }
    Ok(())
}

#[test]
fn an_io_error_is_final_and_nothing_acknowledged_is_lost() {
    let whole = SimDisk::new(0, 1 << 24);
    life(&mut Subject::new(whole.clone(), options()).unwrap()).unwrap();
    let mut fatal = 0;
    for operation in 1..=whole.operations() {
        let disk = SimDisk::new(0, 1 << 24);
        disk.fault_at(operation, Fault::Eio);
        let Ok(mut subject) = Subject::new(disk.clone(), options()) else { continue };
        if let Err(error) = life(&mut subject) {
            fatal += 1;
            assert!(matches!(error, LogError::Failed { .. }), "{error}");
            let syncs = disk.syncs();
            subject.log.append(Vec::new(), ignore()).unwrap_err();
            subject.log.read(0, 1, 1).unwrap_err();
            assert!(subject.round().is_ok_and(|more| !more), "a failed log does nothing");
            assert_eq!(disk.syncs(), syncs, "a failed sync is never tried again");
        }
        // A new process finds the cache as the failed sync left it.
        let reopened = subject.reopen_on(disk.clone());
        let found = reopened.states.len() - 1;
        disk.crash();
        reopened.reopen_from(disk, found);
    }
    assert!(fatal >= 16, "{fatal}");
}

#[test]
fn everybody_who_waits_is_told_of_a_failure() {
    let disk = SimDisk::new(0, 1 << 24);
    let told = Arc::new(AtomicU32::new(0));
    let hook: FailureHook = {
        let told = Arc::clone(&told);
        Arc::new(move |_: &LogError| {
            told.fetch_add(1000, Ordering::SeqCst);
        })
    };
    let options = LogOptions { on_failure: Some(hook), ..options() };
    let mut subject = Subject::new(disk.clone(), options).unwrap();
    let completion = || {
        let told = Arc::clone(&told);
        Box::new(move |result: io::Result<()>| {
            result.unwrap_err();
            told.fetch_add(1, Ordering::SeqCst);
        })
    };
    // More than a round: the first one fails.
    for index in 0..4 {
        let entry = super::support::entry(1, index, 6000);
        subject.log.append(vec![entry], completion()).unwrap();
        let vote = Vote { term: index, node: 1, committed: false };
        subject.log.save_vote(vote, completion()).unwrap();
    }
    disk.fault_at(disk.operations() + 2, Fault::Eio);
    subject.round().unwrap_err();
    assert_eq!(told.load(Ordering::SeqCst), 1008);
}

#[test]
fn a_dropped_writer_leaves_nobody_waiting() {
    let disk = SimDisk::new(0, 1 << 24);
    let subject = Subject::new(disk, options()).unwrap();
    let (sender, receiver) = mpsc::sync_channel(1);
    let done = Box::new(move |result: io::Result<()>| sender.send(result.is_err()).unwrap());
    subject.log.append(Vec::new(), done).unwrap();
    drop(subject.writer);
    assert!(receiver.recv().unwrap());
    assert!(matches!(subject.log.append(Vec::new(), ignore()), Err(LogError::Closed)));
}

#[test]
fn a_full_disk_is_reported_before_it_hurts() {
    let disk = SimDisk::new(0, 3 * SEGMENT);
    let mut subject = Subject::new(disk.clone(), options()).unwrap();
    while subject.log.stats().space_problem.is_none() {
        subject.append(1, &[1000]).unwrap();
        subject.round().unwrap();
    }
    // Two segments are full, and the third is there: nothing has failed yet.
    assert_eq!(subject.log.free_bytes().unwrap(), 0);
    assert!(!subject.log.stats().next_prepared);
    for _ in 0..3 {
        subject.append(1, &[1000]).unwrap();
        subject.round().unwrap();
    }
    // There is room again: nothing was lost, and it goes on.
    disk.set_capacity(5 * SEGMENT);
    subject.append(1, &[1000]).unwrap();
    subject.round().unwrap();
    assert_eq!(subject.log.stats().space_problem, None);
    assert!(subject.log.stats().next_prepared);
    subject.check_now();

    // Nobody refuses writes this time: it fails when there is no room at all.
    let failed = (0..1000).any(|_| {
        subject.append(1, &[1000]).unwrap();
        subject.round().is_err()
    });
    assert!(failed);
    disk.crash();
    disk.set_capacity(1 << 24);
    let mut subject = subject.reopen_on(disk);
    life(&mut subject).unwrap();
}

#[test]
fn a_purge_gives_space_back() {
    let disk = SimDisk::new(0, 4 * SEGMENT);
    let mut subject = Subject::new(disk.clone(), options()).unwrap();
    for _ in 0..300 {
        subject.append(1, &[1000, 1000]).unwrap();
        let purged = subject.now().entries.iter().rev().nth(5).map(|entry| entry.id);
        if let Some(upto) = purged {
            subject.purge(upto).unwrap();
        }
        subject.round().unwrap();
    }
    subject.check_now();
    assert_eq!(subject.log.size_bytes(), (4 * SEGMENT) - subject.log.free_bytes().unwrap());
    let subject = subject.power_cut();
    assert_eq!(subject.now().entries.len(), 5);
}

#[test]
fn too_much_waiting_is_refused() {
    let disk = SimDisk::new(0, 1 << 24);
    let options = LogOptions { backlog_bytes_max: 10_000, ..options() };
    let mut subject = Subject::new(disk, options).unwrap();
    let entry = |index| super::support::entry(1, index, 6000);
    subject.log.append(vec![entry(0)], ignore()).unwrap();
    let refused = subject.log.append(vec![entry(1)], ignore());
    assert!(matches!(refused, Err(LogError::Backlog { bytes_max: 10_000, .. })), "{refused:?}");
    subject.round().unwrap();
    subject.log.append(vec![entry(1)], ignore()).unwrap();
    let hole = subject.log.append(vec![entry(3)], ignore());
    assert!(matches!(hole, Err(LogError::Hole { expected: 2, actual: 3 })), "{hole:?}");
}
