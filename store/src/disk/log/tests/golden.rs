//! The format on the disk does not change unseen: a committed log of format 2
//! opens, and writing the same log today gives the same bytes.
//!
//! After the first release: when the format changes, keep the old files and their test, and write new
//! ones beside them with `KEELSTONE_WRITE_GOLDEN=1`.

use super::super::Vote;
use super::support::{Seen, Subject, id, options};
use crate::disk::storage::{SimDisk, Storage};
use std::path::PathBuf;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/log-v2")
}

/// One of each record, over two segments, closed cleanly, and gone on after it.
fn written() -> Subject {
    let disk = SimDisk::new(1, 1 << 24);
    let mut subject = Subject::new(disk.clone(), options()).unwrap();
    subject.vote(Vote { term: 1, node: 2, committed: false }).unwrap();
    subject.append(1, &[0, 1, 7, 8, 9, 500]).unwrap();
    subject.round().unwrap();
    subject.vote(Vote { term: 1, node: 2, committed: true }).unwrap();
    subject.append(1, &[6000]).unwrap();
    subject.commit(id(1, 3)).unwrap();
    subject.round().unwrap();
    subject.truncate(Some(id(1, 4))).unwrap();
    subject.append(2, &[7000, 40]).unwrap();
    subject.purge(id(1, 0)).unwrap();
    subject.round().unwrap();
    subject.log.close();
    subject.round().unwrap();
    let complete = subject.states.len() - 1;
    let mut subject = subject.reopen_from(disk, complete);
    subject.append(3, &[100]).unwrap();
    subject.round().unwrap();
    subject
}

#[test]
fn a_log_of_format_2_opens() {
    let disk = SimDisk::new(1, 1 << 24);
    for name in names(&written().disk) {
        let contents = std::fs::read(golden().join(&name)).unwrap();
        disk.create(&name, contents.len() as u64).unwrap().sync_data().unwrap();
        disk.overwrite(&name, &contents).unwrap();
    }
    disk.sync_dir().unwrap();
    let found = Subject::new(disk, options()).unwrap();
    assert_eq!(&Seen::of(&found.log), written().now());
    assert_eq!(found.log.recovered().committed, Some(id(1, 3)));
}

#[test]
fn the_format_is_still_format_2() {
    let disk = written().disk;
    for name in names(&disk) {
        let path = golden().join(&name);
        let contents = disk.contents(&name).unwrap();
        if std::env::var_os("KEELSTONE_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(golden()).unwrap();
            std::fs::write(&path, &contents).unwrap();
        }
        // Not `assert_eq`: nobody wants to see 16 KiB.
        assert!(contents == std::fs::read(&path).unwrap(), "{name} differs from the golden file");
    }
}

/// The segments in use; the spare one has nothing to say.
fn names(disk: &SimDisk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.pop();
    names
}
