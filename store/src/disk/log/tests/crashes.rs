//! The power fails at each operation of the disk, and within each write.

use super::super::{LogError, Vote};
use super::support::{SEGMENT, Subject, aged, id, options};
use crate::disk::storage::{Fault, SimDisk};

/// A life that touches everything: rotation, large entries, truncation over a
/// segment's border, purge with removal, votes, committed marks.
fn life(subject: &mut Subject) -> Result<(), LogError> {
    subject.vote(Vote { term: 1, node: 1, committed: false })?;
    subject.round()?;
    subject.append(1, &[10, 700, 0, 3000])?;
    subject.vote(Vote { term: 1, node: 1, committed: true })?;
    subject.round()?;
    for _ in 0..6 {
        subject.append(1, &[1500, 1500, 1500])?;
        subject.round()?;
    }
    subject.commit(id(1, 9))?;
    subject.truncate(Some(id(1, 9)))?;
    subject.append(2, &[20, 9000, 20])?;
    subject.vote(Vote { term: 3, node: 2, committed: false })?;
    subject.round()?;
    subject.append(3, &[30_000, 5])?;
    subject.round()?;
    subject.purge(id(1, 8))?;
    subject.round()?;
    subject.append(3, &[4000, 4000])?;
    subject.purge(id(2, 11))?;
    subject.round()?;
    subject.purge(id(4, 30))?;
    subject.append(4, &[100])?;
    subject.round()?;
    subject.log.close();
    subject.round()?;
    Ok(())
}

fn run(disk: &SimDisk) -> (Result<Subject, ()>, bool) {
    let Ok(mut subject) = Subject::new(disk.clone(), options()) else { return (Err(()), true) };
    let failed = life(&mut subject).is_err();
    (Ok(subject), failed)
}

#[test]
fn a_power_cut_at_each_operation_loses_nothing_acknowledged() {
    let whole = SimDisk::new(0, 1 << 24);
    assert!(!run(&whole).1);
    let operations = whole.operations();
    assert!(operations > 60, "{operations} operations");
    for operation in 1..=operations {
        for seed in 0..12 {
            println!("operation {operation}, seed {seed}");
            let disk = SimDisk::new(seed, 1 << 24);
            disk.fault_at(operation, Fault::PowerCut);
            let (subject, failed) = run(&disk);
            assert!(failed);
            disk.crash();
            let Ok(subject) = subject else {
                Subject::new(disk, options()).expect("a log that never was can be made");
                continue;
            };
            go_on(subject.reopen_on(disk), seed);
        }
    }
}

#[test]
fn what_a_process_has_found_survives_the_next_power_cut() {
    let whole = SimDisk::new(0, 1 << 24);
    assert!(!run(&whole).1);
    for operation in 1..=whole.operations() {
        for seed in 0..4 {
            println!("operation {operation}, seed {seed}");
            let disk = SimDisk::new(seed, 1 << 24);
            disk.fault_at(operation, Fault::Killed);
            let (subject, failed) = run(&disk);
            assert!(failed);
            disk.restart();
            let Ok(subject) = subject else { continue };
            let found = subject.reopen_on(disk.clone());
            let complete = found.states.len() - 1;
            let cut = disk.fork(seed);
            cut.crash();
            found.reopen_from(cut, complete);
            go_on(found, seed);
        }
    }
}

/// After a crash the log works, and a second crash brings nothing back.
fn go_on(mut subject: Subject, seed: u64) {
    let disk = subject.disk.clone();
    disk.fault_at(disk.operations() + 1 + seed % 5, Fault::PowerCut);
    let more = |subject: &mut Subject| -> Result<(), LogError> {
        for _ in 0..4 {
            subject.append(9, &[100, 2500])?;
            subject.round()?;
        }
        Ok(())
    };
    assert!(more(&mut subject).is_err());
    let mut subject = subject.power_cut();
    more(&mut subject).expect("no more faults");
    let complete = subject.states.len() - 1;
    disk.crash();
    subject.reopen_from(disk, complete);
}

#[test]
fn repair_itself_may_be_cut() {
    repair_may_be_cut(false, &[3000, 500]);
    repair_may_be_cut(true, &[3000, 500]);
    // The round that is torn is the first of a segment.
    repair_may_be_cut(true, &[4000, 4000, 4000, 1500]);
}

fn repair_may_be_cut(again: bool, before: &[usize]) {
    let disk = SimDisk::new(3, 1 << 24);
    let mut subject = Subject::new(disk.clone(), options()).unwrap();
    if again {
        subject = aged(subject);
    }
    subject.append(7, before).unwrap();
    while subject.round().unwrap() {}
    subject.append(7, &[2000; 3]).unwrap();
    disk.fault_at(disk.operations() + 2, Fault::PowerCut);
    subject.round().unwrap_err();
    for seed in 0..200 {
        let torn = disk.fork(seed);
        torn.crash();
        let mut at = 1;
        loop {
            let attempt = torn.fork(seed);
            attempt.fault_at(at, Fault::PowerCut);
            let opened = Subject::new(attempt.clone(), options()).is_ok();
            attempt.crash();
            subject.reopen_on(attempt);
            if opened {
                break;
            }
            at += 1;
        }
    }
}

/// A closed-over copy of the newest segment, and where its last round begins.
struct Torn {
    subject: Subject,
    name: String,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// A log of which the last round was written, but not yet synced: in the middle
/// of a segment or the first of one, in new segments or in some used again.
fn torn(again: bool, first: bool) -> Torn {
    let disk = SimDisk::new(1, 1 << 24);
    let mut subject = Subject::new(disk.clone(), options()).unwrap();
    if again {
        subject = aged(subject);
    }
    subject.vote(Vote { term: 8, node: 1, committed: false }).unwrap();
    let term = 8;
    let last: &[usize] = if first { &[1300, 700, 0, 300] } else { &[300, 0, 700, 1300] };
    // Room for no entry of 1,300 bytes, or for all of them.
    let is_there = |left: u64| if first { left < 1300 } else { left > 5000 };
    subject.append(term, &[900, 300]).unwrap();
    subject.round().unwrap();
    while !is_there(subject.log.stats().segment_bytes_left) {
        subject.append(term, &[250]).unwrap();
        subject.round().unwrap();
    }
    let names = |disk: &SimDisk| crate::disk::storage::Storage::list(disk).unwrap();
    let old: Vec<(String, Vec<u8>)> = names(&disk)
        .into_iter()
        .map(|name| (name.clone(), disk.contents(&name).unwrap()))
        .collect();
    // Unseen by the disk's own acknowledgement: copied before the log reports it.
    subject.append(9, last).unwrap();
    let acknowledged = subject.acknowledged();
    disk.fault_at(disk.operations() + 2, Fault::PowerCut);
    subject.round().unwrap_err();
    assert_eq!(subject.acknowledged(), acknowledged);
    let copy = disk.fork(0);
    let changed = |(name, before): &(String, Vec<u8>)| {
        let after = copy.contents(name).unwrap();
        (after != *before).then(|| (name.clone(), before.clone(), after))
    };
    let (name, before, after) = old.iter().find_map(changed).expect("a segment was written");
    Torn { subject, name, before, after }
}

impl Torn {
    /// The range of bytes that the last round changed.
    fn written(&self) -> std::ops::Range<usize> {
        let differs = |at: &usize| self.before[*at] != self.after[*at];
        let all = 0..self.after.len();
        all.clone().find(differs).unwrap()..all.rev().find(differs).unwrap() + 1
    }

    /// Opens the log with these contents of the segment.
    fn check(&self, contents: &[u8]) {
        let disk = self.subject.disk.fork(0);
        disk.crash();
        disk.overwrite(&self.name, contents).unwrap();
        let mut found = self.subject.reopen_on(disk.clone());
        found.append(9, &[64]).unwrap();
        found.round().unwrap();
        let complete = found.states.len() - 1;
        disk.crash();
        found.reopen_from(disk, complete);
    }
}

#[test]
fn a_tail_torn_by_sectors_is_cut() {
    for (again, first) in [(false, false), (false, true), (true, false), (true, true)] {
        let torn = torn(again, first);
        let written = torn.written();
        assert_eq!(written.start < 512, first, "the case is what it says");
        let sectors: Vec<usize> = (written.start / 512..written.end.div_ceil(512))
            .filter(|s| torn.before[s * 512..][..512] != torn.after[s * 512..][..512])
            .collect();
        // With one after the round's, that the write blanks up to the page's end.
        assert!((4..=16).contains(&sectors.len()), "{sectors:?}");
        for subset in 0..1_u32 << sectors.len() {
            let mut contents = torn.before.clone();
            for (at, sector) in sectors.iter().enumerate() {
                if subset >> at & 1 == 1 {
                    let bytes = sector * 512..(sector + 1) * 512;
                    contents[bytes.clone()].copy_from_slice(&torn.after[bytes]);
                }
            }
            torn.check(&contents);
        }
    }
}

#[test]
fn the_next_segment_may_be_found_in_any_state() {
    let disk = SimDisk::new(5, 1 << 24);
    let mut subject = Subject::new(disk.clone(), options()).unwrap();
    subject.append(1, &[5000]).unwrap();
    subject.round().unwrap();
    for bytes in [0, 100, SEGMENT, 2 * SEGMENT] {
        let fork = disk.fork(1);
        fork.crash();
        let spare = super::super::upkeep::segment_name(2);
        fork.overwrite(&spare, &vec![0; usize::try_from(bytes).unwrap()]).unwrap();
        let mut found = subject.reopen_from(fork.clone(), subject.states.len() - 1);
        for _ in 0..8 {
            found.append(1, &[4000]).unwrap();
            found.round().unwrap();
        }
        fork.crash();
        let complete = found.states.len() - 1;
        found.reopen_from(fork, complete);
    }
}
