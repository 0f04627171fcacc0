//! What a durable write costs, as the kernel sees it: one write and one
//! `fdatasync`, whatever the log says of itself. Needs `strace`; without it the
//! test says that it proves nothing.

use bytes::Bytes;
use keelstone_store::disk::LogId;
use keelstone_store::disk::log::{Log, LogEntry, LogOptions};
use keelstone_store::disk::storage::FileStorage;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Writes that wait for nobody.
const LONE: u64 = 40;
/// Writes that are queued while others are written.
const CROWD: u64 = 4000;
/// Tells the traced process where to write.
const DIR: &str = "KEELSTONE_TRACED_DIR";

fn append(log: &Log, index: u64) -> mpsc::Receiver<std::io::Result<()>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let payload = Bytes::from(vec![7; 100]);
    let entry = LogEntry { id: LogId { term: 1, index, leader: 1 }, payload };
    log.append(vec![entry], Box::new(move |result| drop(sender.send(result))))
        .expect("the log takes entries");
    receiver
}

/// The traced process: prints how many rounds the log counted.
#[test]
fn traced() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let storage = Arc::new(FileStorage::open(Path::new(&dir)).unwrap());
    let options = LogOptions { segment_bytes: 4 << 20, ..LogOptions::default() };
    let (log, writer) = Log::open(storage, options).unwrap();
    let thread = std::thread::spawn(move || writer.run());
    for index in 0..LONE {
        append(&log, index).recv().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("lone rounds {}", log.stats().rounds);
    let crowd: Vec<_> = (LONE..LONE + CROWD).map(|index| append(&log, index)).collect();
    crowd.last().unwrap().recv().unwrap().unwrap();
    println!("rounds {}", log.stats().rounds);
    log.close();
    thread.join().unwrap();
}

#[test]
fn a_durable_write_is_one_write_and_one_sync() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("SKIPPED, nothing was proven: there is no strace");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let output = Command::new("strace")
        .args(["-f", "-y", "-qq", "-e", "trace=pwrite64,fdatasync,fsync", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["traced", "--exact", "--nocapture"])
        .env(DIR, dir.path().join("log"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let counted = |name: &str| -> u64 {
        let at = printed.find(name).unwrap_or_else(|| panic!("no {name:?} in {printed:?}"));
        let number = printed[at + name.len()..].split_whitespace().next().unwrap();
        number.parse().unwrap()
    };
    assert_eq!(counted("lone rounds "), LONE);
    let rounds = counted("\nrounds ");
    assert!(rounds - LONE < CROWD / 10, "{rounds} rounds");

    let trace = std::fs::read_to_string(trace).unwrap();
    // Of the segment in use; the next one is prepared beside it.
    let calls = |name: &str| {
        let of_segment = |line: &&str| line.contains(name) && line.contains("0001.wal>");
        trace.lines().filter(of_segment).count() as u64
    };
    println!("{} entries, {rounds} rounds, {} fdatasync", LONE + CROWD, calls("fdatasync("));
    // One more of each: the mark of the clean end.
    assert_eq!(calls("fdatasync("), rounds + 1);
    assert_eq!(calls("pwrite64("), rounds + 1);
    assert_eq!(calls("fsync("), 0, "only the directory is synced as a whole");
}
