//! Bits rot: what was acknowledged is reported damaged, never cut off and never
//! served wrong.

use super::super::{Log, LogEntry, LogError, OpenError, Vote, upkeep::segment_name};
use super::support::{Seen, Subject, aged, id, ignore, options};
use crate::disk::storage::{SimDisk, Storage};
use std::sync::Arc;

/// A small log over three segments, of which nothing was lost.
fn small() -> Subject {
    let disk = SimDisk::new(1, 1 << 24);
    let mut subject = Subject::new(disk, options()).unwrap();
    subject.vote(Vote { term: 1, node: 2, committed: true }).unwrap();
    for n in 0..8 {
        subject.append(1, &[100, 2000, n, 1700]).unwrap();
        subject.commit(id(1, 3)).unwrap();
        subject.round().unwrap();
    }
    subject.truncate(Some(id(1, 20))).unwrap();
    subject.append(2, &[400, 300]).unwrap();
    subject.purge(id(1, 1)).unwrap();
    subject.round().unwrap();
    subject.append(2, &[700]).unwrap();
    subject.round().unwrap();
    subject
}

fn segments(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap()
}

fn open(disk: &SimDisk) -> Result<Seen, OpenError> {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    Log::open(storage, options()).map(|(log, _writer)| Seen::of(&log))
}

/// Flips a bit in each byte of each file, and counts what becomes of it: damage
/// reported, nothing noticed and nothing wrong, the last round cut off.
fn flip_everything(subject: &Subject, step: usize) -> (u32, u32, u32) {
    let whole = subject.now();
    let before_last = subject.states.iter().rev().find(|state| *state != whole).unwrap();
    let (mut damaged, mut unnoticed, mut cut) = (0, 0, 0);
    for name in segments(&subject.disk) {
        let contents = subject.disk.contents(&name).unwrap();
        for offset in (0..contents.len()).step_by(step) {
            let disk = subject.disk.fork(0);
            disk.crash();
            disk.flip_bit(&name, offset, u8::try_from(offset % 8).unwrap()).unwrap();
            let damaged_contents = disk.contents(&name).unwrap();
            match open(&disk) {
                Ok(seen) if &seen == whole => unnoticed += 1,
                Ok(seen) if &seen == before_last => cut += 1,
                Ok(seen) => panic!("{name} {offset}: served {seen:?}"),
                Err(OpenError::Damaged(damage)) => {
                    damaged += 1;
                    assert!(segments(&disk).contains(&damage.segment), "{damage}");
                    assert_eq!(disk.contents(&name).unwrap(), damaged_contents, "{damage}");
                }
                // The version has its own report.
                Err(OpenError::Format { .. }) => panic!("{name} {offset}: format"),
                Err(other) => panic!("{name} {offset}: {other}"),
            }
        }
    }
    (damaged, unnoticed, cut)
}

#[test]
fn a_flipped_bit_is_never_served_and_never_cut_off() {
    let subject = small();
    let (damaged, unnoticed, cut) = flip_everything(&subject, 3);
    println!("damaged {damaged}, unnoticed {unnoticed}, cut {cut}");
    // Unnoticed flips lie in zeros: after the end, or after a header.
    assert!(damaged > 5_000);
    assert_eq!(cut, 0, "no flip makes an older stamp");
}

#[test]
fn nor_after_a_clean_end() {
    let mut subject = small();
    subject.log.close();
    while subject.round().unwrap() {}
    let (damaged, _, cut) = flip_everything(&subject, 3);
    assert!(damaged > 5_000);
    assert_eq!(cut, 0);
}

#[test]
fn nor_in_an_entry_of_zeros() {
    let disk = SimDisk::new(1, 1 << 24);
    let mut subject = Subject::new(disk.clone(), options()).unwrap();
    subject.append(1, &[900]).unwrap();
    subject.round().unwrap();
    let zeros = LogEntry { id: id(1, 1), payload: vec![0; 3000].into() };
    subject.log.append(vec![zeros], ignore()).unwrap();
    subject.round().unwrap();
    let name = segment_name(1);
    let contents = disk.contents(&name).unwrap();
    let mut damaged = 0;
    for offset in (4096..4096 + 4300).step_by(5) {
        let fork = disk.fork(0);
        fork.crash();
        fork.flip_bit(&name, offset, 3).unwrap();
        match open(&fork) {
            Ok(seen) => assert_eq!(seen.entries.len(), 2, "{offset}"),
            Err(error) => {
                damaged += 1;
                assert!(matches!(error, OpenError::Damaged(_)), "{error}");
            }
        }
    }
    assert!(damaged > 700, "{damaged}");
    assert_eq!(contents, disk.contents(&name).unwrap());
}

#[test]
fn a_segment_in_which_nothing_is_left_is_not_read() {
    let subject = aged(small());
    let names = segments(&subject.disk);
    let disk = subject.disk.fork(0);
    disk.crash();
    for name in &names[..2] {
        let length = disk.contents(name).unwrap().len();
        disk.overwrite(name, &vec![0xEE; length]).unwrap();
    }
    assert_eq!(&open(&disk).unwrap(), subject.now());
    // But what is still needed is.
    let length = disk.contents(&names[names.len() - 2]).unwrap().len();
    disk.overwrite(&names[names.len() - 2], &vec![0xEE; length]).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::Damaged(_))));
}

#[test]
fn nor_in_segments_that_are_used_again() {
    let mut subject = aged(small());
    let (damaged, unnoticed, cut) = flip_everything(&subject, 7);
    println!("damaged {damaged}, unnoticed {unnoticed}, cut {cut}");
    assert!(damaged > 300);
    assert!(unnoticed > 1_000, "what is left of earlier lives is of no account");
    assert_eq!(cut, 0);
    let cut = blank_everything(&subject);
    assert!((1..=3).contains(&cut), "only sectors of the last round: {cut}");
    subject.log.close();
    while subject.round().unwrap() {}
    assert_eq!(flip_everything(&subject, 7).2, 0);
    assert_eq!(blank_everything(&subject), 0);
}

/// Blanks each sector, and returns how often the last round was cut off.
fn blank_everything(subject: &Subject) -> u32 {
    let whole = subject.now();
    let before_last = subject.states.iter().rev().find(|state| *state != whole).unwrap();
    let mut cut = 0;
    for name in segments(&subject.disk) {
        let contents = subject.disk.contents(&name).unwrap();
        for sector in 0..contents.len() / 512 {
            let mut blanked = contents.clone();
            blanked[sector * 512..][..512].fill(0);
            let disk = subject.disk.fork(0);
            disk.crash();
            disk.overwrite(&name, &blanked).unwrap();
            match open(&disk) {
                Ok(seen) if &seen == whole => {}
                Ok(seen) if &seen == before_last => cut += 1,
                Ok(seen) => panic!("{name} {sector}: served {seen:?}"),
                Err(error) => assert!(matches!(error, OpenError::Damaged(_)), "{error}"),
            }
        }
    }
    cut
}

#[test]
fn a_lost_sector_is_damage_unless_a_crash_could_have_lost_it() {
    let mut subject = small();
    let cut = blank_everything(&subject);
    assert!((1..=3).contains(&cut), "only sectors of the last round: {cut}");
    subject.log.close();
    while subject.round().unwrap() {}
    assert_eq!(blank_everything(&subject), 0);
}

#[test]
fn a_blank_sector_in_the_last_round_is_the_only_doubt() {
    let disk = SimDisk::new(1, 1 << 24);
    let mut subject = Subject::new(disk.clone(), options()).unwrap();
    subject.append(1, &[10]).unwrap();
    subject.round().unwrap();
    let name = segment_name(1);
    // The sector of the only round is blank, as if it had never been written: it
    // cannot be told from one that was not.
    let mut contents = disk.contents(&name).unwrap();
    contents[4096..4096 + 512].fill(0);
    disk.overwrite(&name, &contents).unwrap();
    assert_eq!(open(&disk).unwrap(), Seen::default());
}

#[test]
fn bits_that_rot_while_the_log_is_open_are_found_on_reading() {
    let subject = small();
    let entries = subject.now().entries.clone();
    let mut found = 0;
    for name in segments(&subject.disk) {
        let length = subject.disk.contents(&name).unwrap().len();
        for offset in (0..length).step_by(97) {
            subject.disk.flip_bit(&name, offset, 3).unwrap();
            for entry in &entries {
                let index = entry.id.index;
                match subject.log.read(index, index + 1, 0) {
                    Ok(read) => assert_eq!(read, std::slice::from_ref(entry)),
                    Err(LogError::Damaged(damage)) => {
                        assert_eq!(damage.segment, name);
                        found += 1;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            subject.disk.flip_bit(&name, offset, 3).unwrap();
        }
    }
    assert!(found > 100, "{found}");
}

#[test]
fn a_missing_or_foreign_segment_is_damage() {
    let subject = small();
    let names = segments(&subject.disk);
    assert!(names.len() >= 4, "{names:?}");
    let in_use = &names[..names.len() - 1];
    for name in in_use {
        let disk = subject.disk.fork(0);
        disk.crash();
        disk.remove(name).unwrap();
        let error = open(&disk).expect_err("a segment is missing");
        assert!(matches!(error, OpenError::Damaged(_)), "{error}");
    }
    // The same segment of another log: all its checksums are right.
    let other = {
        let disk = SimDisk::new(1, 1 << 24);
        let mut other = Subject::new(disk, options()).unwrap();
        for _ in 0..12 {
            other.append(1, &[100, 2000, 1, 1700]).unwrap();
            other.round().unwrap();
        }
        other
    };
    for name in in_use {
        let disk = subject.disk.fork(0);
        disk.crash();
        disk.overwrite(name, &other.disk.contents(name).unwrap()).unwrap();
        let error = open(&disk).expect_err("a segment is foreign");
        assert!(matches!(error, OpenError::Damaged(_)), "{error}");
    }
}

#[test]
fn a_later_format_says_so() {
    let subject = small();
    let name = segment_name(1);
    let disk = subject.disk.fork(0);
    disk.crash();
    let mut contents = disk.contents(&name).unwrap();
    contents[8..12].copy_from_slice(&3_u32.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&contents[..12]), &contents[16..512]);
    contents[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite(&name, &contents).unwrap();
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, OpenError::Format { found: 3, expected: 2, .. }), "{error}");
}
