//! Random stories: calls, rounds, clean and unclean ends, over many seeds.

use super::super::{LogError, LogOptions, Vote};
use super::support::{Random, Subject, fresh_seed, id, options};
use crate::disk::storage::{Fault, SimDisk};
use std::collections::BTreeSet;

/// One random call or round.
fn step(subject: &mut Subject, random: &mut Random, term: &mut u64) -> Result<(), LogError> {
    let now = subject.now();
    let first = now.purged.map_or(0, |purged| purged.index + 1);
    let next = now.last.map_or(0, |last| last.index + 1);
    let pick = |random: &mut Random| {
        let entries = &subject.states.last()?.entries;
        let at = usize::try_from(random.below(entries.len().max(1) as u64)).ok()?;
        entries.get(at).map(|entry| entry.id)
    };
    match random.below(20) {
        0..=8 => {
            let count = random.below(6);
            let lengths: Vec<usize> = (0..count).map(|_| length(random)).collect();
            subject.append(*term, &lengths)
        }
        9 | 10 => {
            *term += 1;
            subject.vote(Vote { term: *term, node: random.below(3), committed: false })
        }
        11 | 12 if next > first => {
            let kept = if random.below(6) == 0 { now.purged } else { pick(random) };
            let committed = subject.log.recovered().committed;
            // Raft never takes back what is committed.
            if committed.map(|id| id.index) > kept.map(|id| id.index) {
                return Ok(());
            }
            *term += 1;
            subject.truncate(kept)
        }
        13 => match pick(random) {
            Some(upto) => subject.purge(upto),
            None => Ok(()),
        },
        // A snapshot was installed.
        14 if random.below(4) == 0 => subject.purge(id(*term, next + random.below(10))),
        15 => match subject.now().last {
            Some(last) => subject.commit(last),
            None => Ok(()),
        },
        _ => subject.round().map(|_| ()),
    }
}

fn length(random: &mut Random) -> usize {
    let bound = match random.below(40) {
        0 => 40_000,
        1..=4 => 5_000,
        5..=20 => 600,
        _ => 40,
    };
    usize::try_from(random.below(bound)).unwrap()
}

/// A story of several lives of a log.
fn story(seed: u64) {
    let mut random = Random(seed);
    let disk = SimDisk::new(random.next(), 1 << 24);
    let mut subject = Subject::new(disk.clone(), options()).unwrap();
    let mut term = 1;
    for _life in 0..6 {
        if random.below(3) > 0 {
            let soon = disk.operations() + 1 + random.below(60);
            let faults = [Fault::Eio, Fault::PowerCut, Fault::Killed];
            let fault = faults[usize::try_from(random.below(3)).unwrap()];
            disk.fault_at(soon, fault);
        }
        let mut failed = false;
        for _ in 0..random.below(60) {
            // The power may fail where it hurts nobody yet: while a segment is prepared.
            if step(&mut subject, &mut random, &mut term).is_err() || disk.is_off() {
                failed = true;
                break;
            }
            subject.check_now();
        }
        disk.clear_faults();
        if !failed && random.below(3) == 0 {
            subject.log.close();
            while subject.round().unwrap() {}
            let complete = subject.states.len() - 1;
            subject = subject.reopen_from(disk.clone(), complete);
            continue;
        }
        if random.below(2) == 0 {
            // The process ends, the machine does not.
            disk.restart();
            let reopened = subject.reopen_on(disk.clone());
            // What a process has found must stay, whatever happens then.
            let found = reopened.states.len() - 1;
            disk.crash();
            subject = reopened.reopen_from(disk.clone(), found);
        } else {
            subject = subject.power_cut();
        }
        term = term.max(subject.now().last.map_or(1, |last| last.term)) + 1;
    }
}

#[test]
fn no_story_loses_or_invents_anything() {
    let first = fresh_seed();
    for seed in (0..400).map(|n| first.wrapping_add(n)) {
        println!("KEELSTONE_SEED={seed}");
        story(seed);
    }
}

#[test]
fn fixed_stories() {
    for seed in 0..200 {
        println!("KEELSTONE_SEED={seed}");
        story(seed);
    }
}

#[test]
fn segments_are_whole_pages_whatever_is_asked_for() {
    let disk = SimDisk::new(1, 1 << 24);
    let odd = LogOptions { segment_bytes: 20_000, ..options() };
    let mut subject = Subject::new(disk.clone(), odd).unwrap();
    for _ in 0..4 {
        subject.append(1, &[7000, 7000, 700]).unwrap();
        subject.round().unwrap();
    }
    let complete = subject.states.len() - 1;
    disk.crash();
    let subject = subject.reopen_from(disk.clone(), complete);
    subject.check_now();
    let name = super::super::upkeep::segment_name(1);
    assert_eq!(disk.contents(&name).unwrap().len(), 20_480);
}

/// Rounds that leave less of their segment than a round needs.
#[test]
fn a_segment_may_be_full_to_its_last_byte() {
    let mut left = BTreeSet::new();
    for spared in (0..320).step_by(8) {
        let disk = SimDisk::new(1, 1 << 24);
        let mut subject = Subject::new(disk.clone(), options()).unwrap();
        subject.append(1, &[100]).unwrap();
        subject.round().unwrap();
        let room = subject.log.stats().segment_bytes_left;
        let length = usize::try_from(room).unwrap() - 320 + spared;
        let before = subject.now().last.unwrap();
        subject.append(1, &[length]).unwrap();
        subject.commit(before).unwrap();
        subject.round().unwrap();
        if subject.log.stats().segments == 1 {
            left.insert(subject.log.stats().segment_bytes_left);
        }
        let complete = subject.states.len() - 1;
        disk.crash();
        let mut subject = subject.reopen_from(disk.clone(), complete);
        subject.append(1, &[100]).unwrap();
        subject.round().unwrap();
        subject.check_now();
        let complete = subject.states.len() - 1;
        disk.crash();
        subject.reopen_from(disk, complete).check_now();
    }
    assert!(left.first().is_some_and(|least| *least < 16), "{left:?}");
}
