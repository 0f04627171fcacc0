//! The log beside the least that durability costs: a bare file, preallocated and
//! zeroed, with one write and one `fdatasync` per batch.
//!
//! Both take turns, a slice each, in the same run on the same disk; what counts
//! is the ratio, since disks differ and shared machines sway. The project's bar
//! is 80 % of the bare file's entries per second at batches of 8 and 64. A batch
//! is handed over when the one before it is durable, so each also costs the way to
//! the log's thread and back, which the bare file does not have.
//!
//! `cargo bench -p keelstone-store --bench disk`. The directory is
//! `KEELSTONE_BENCH_DIR`, or one below the target directory; a file system in
//! memory proves nothing. `KEELSTONE_BENCH_TURNS` (9) turns are taken, of
//! `KEELSTONE_BENCH_MILLIS` (500) each.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails shall stop")]

use bytes::Bytes;
use keelstone_store::disk::LogId;
use keelstone_store::disk::log::{Log, LogEntry, LogOptions};
use keelstone_store::disk::storage::FileStorage;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of the bare file. When it is full, it is written from its start again.
const BARE_BYTES: u64 = 256 * 1024 * 1024;

/// What all entries contain.
const PAYLOAD: &[u8] = &[7; 2048];

/// After so many segments a log has some to use again.
const WARM_UP_ROTATIONS: u64 = 6;

/// Entries in a batch, and bytes of each.
#[derive(Clone, Copy)]
struct Shape {
    entries: u64,
    bytes: usize,
}

const SHAPES: [Shape; 4] = [
    Shape { entries: 1, bytes: 512 },
    Shape { entries: 8, bytes: 512 },
    Shape { entries: 64, bytes: 512 },
    Shape { entries: 256, bytes: 2048 },
];

/// Something that makes batches durable, one after the other.
trait Subject {
    fn batch(&mut self, shape: Shape);
}

struct Bare {
    file: File,
    position: u64,
}

impl Bare {
    fn new(dir: &Path) -> Self {
        let file = File::create_new(dir.join("bare")).unwrap();
        let zeros = vec![0; 1 << 20];
        for at in (0..BARE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at).unwrap();
        }
        file.sync_all().unwrap();
        Self { file, position: 0 }
    }
}

impl Subject for Bare {
    fn batch(&mut self, shape: Shape) {
        let entries = usize::try_from(shape.entries).unwrap();
        let buffer = vec![7; entries * shape.bytes];
        if self.position + buffer.len() as u64 > BARE_BYTES {
            self.position = 0;
        }
        self.file.write_all_at(&buffer, self.position).unwrap();
        self.file.sync_data().unwrap();
        self.position += buffer.len() as u64;
    }
}

struct Logged {
    log: Log,
    writer: Option<JoinHandle<()>>,
    next: u64,
}

impl Logged {
    /// A log that has been at work for a while.
    fn new(dir: &Path) -> Self {
        let storage = Arc::new(FileStorage::open(dir).unwrap());
        let (log, writer) = Log::open(storage, LogOptions::default()).unwrap();
        let mut logged =
            Self { log, writer: Some(std::thread::spawn(move || writer.run())), next: 0 };
        while logged.log.stats().rotations < WARM_UP_ROTATIONS {
            logged.batch(SHAPES[SHAPES.len() - 1]);
        }
        logged
    }
}

impl Subject for Logged {
    fn batch(&mut self, shape: Shape) {
        let payload = Bytes::from_static(&PAYLOAD[..shape.bytes]);
        let entries = (self.next..self.next + shape.entries)
            .map(|index| LogEntry {
                id: LogId { term: 1, index, leader: 1 },
                payload: payload.clone(),
            })
            .collect();
        self.next += shape.entries;
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = Box::new(move |result| drop(sender.send(result)));
        self.log.append(entries, done).unwrap();
        receiver.recv().unwrap().unwrap();
        // As a replica does: what a snapshot covers is purged.
        if self.next % (1 << 16) < shape.entries && self.next > 1 << 17 {
            self.log.purge(LogId { term: 1, index: self.next - (1 << 16), leader: 1 }).unwrap();
        }
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.log.close();
        self.writer.take().unwrap().join().unwrap();
    }
}

/// Entries per second over one turn.
fn turn(subject: &mut dyn Subject, shape: Shape, length: Duration) -> f64 {
    let started = Instant::now();
    let mut batches = 0_u32;
    while started.elapsed() < length {
        subject.batch(shape);
        batches += 1;
    }
    let entries = f64::from(batches) * f64::from(u32::try_from(shape.entries).unwrap());
    entries / started.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn main() {
    let turns = number("KEELSTONE_BENCH_TURNS", 9);
    let length = Duration::from_millis(number("KEELSTONE_BENCH_MILLIS", 500));
    let root = std::env::var_os("KEELSTONE_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(root).unwrap();
    let mut bare = Bare::new(dir.path());
    let mut log = Logged::new(&dir.path().join("log"));
    let before = log.log.stats();
    println!("batch        bare/s     log/s   ratio (least, most)");
    for shape in SHAPES {
        let mut rates = [Vec::new(), Vec::new()];
        let mut ratios = Vec::new();
        for _ in 0..turns {
            let subjects: [&mut dyn Subject; 2] = [&mut bare, &mut log];
            let [bare, log] = subjects.map(|subject| turn(subject, shape, length));
            rates[0].push(bare);
            rates[1].push(log);
            ratios.push(log / bare);
        }
        let ratio = median(&mut ratios);
        println!(
            "{:>3} x {:>4}  {:>8.0}  {:>8.0}   {ratio:.2}  ({:.2}, {:.2})",
            shape.entries,
            shape.bytes,
            median(&mut rates[0]),
            median(&mut rates[1]),
            ratios[0],
            ratios[ratios.len() - 1],
        );
    }
    let stats = log.log.stats();
    println!(
        "{} rounds, {} syncs, {} rotations, {} of them not prepared",
        stats.rounds - before.rounds,
        stats.syncs - before.syncs,
        stats.rotations - before.rotations,
        stats.rotations_unprepared - before.rotations_unprepared
    );
}
