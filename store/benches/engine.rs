//! State engines side by side, through the real apply path.
//!
//! `cargo bench -p keelstone-store --features sled --bench engine`
//!
//! Log entries of 64 puts each to random keys are decoded, applied and
//! committed, as a replica does it; history is compacted behind them. Then keys
//! and ranges are read, and the state is closed and opened again. The engines
//! take turns, so that a noisy machine is noisy for all; the median round is
//! shown. Trust the ratios and the CPU time; the rates depend on the machine.
//!
//! With `--load KEYS` it fills each engine with that many keys of 512 bytes
//! instead, and tells the memory and the time that a fresh process needs to open
//! the state, read all of it, and send a snapshot.
//!
//! Options: `--rounds N` (3), `--scale N` (1: about 200 MB of values an engine),
//! `--dir PATH` (the system's temporary directory),
//! `--engine NAME` (all of the build), `--value BYTES` (all sizes).

#![expect(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark measures time, prints it and stops when something fails"
)]

use bytes::Bytes;
use keelstone_store::disk::{EngineKind, LogId};
use keelstone_store::machine::{Command, Envelope, Op, Put, Range, Txn, View as _, codec};
use keelstone_store::state::{Payload, State, StateOptions};
use keelstone_store::{Key, Millis, Revision, Space};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const COMMANDS: usize = 64;
/// Entries between two compactions, and how much history is left.
const COMPACT_EVERY: u64 = 64;
const HISTORY: u64 = 4_096;
const CHECKPOINT_BYTES: usize = 64 * 1024 * 1024;

/// One size of values, and how many are written over how many keys.
struct Load {
    value_bytes: usize,
    keys: u64,
    entries: u64,
}

/// What a round measured.
#[derive(Clone, Debug, Default)]
struct Figures {
    puts_per_s: f64,
    cpu_us_per_put: f64,
    batch_p50: Duration,
    batch_p99: Duration,
    batch_max: Duration,
    checkpoint_max: Duration,
    written_per_payload: f64,
    disk_per_live: f64,
    get_us: f64,
    range_us: f64,
    reopen: Duration,
}

struct Options {
    rounds: usize,
    scale: u64,
    dir: PathBuf,
    kinds: Vec<EngineKind>,
    load: Option<u64>,
    value: Option<usize>,
    /// A state to open, for the fresh process of `--load`.
    open: Option<PathBuf>,
}

fn options() -> Options {
    let kinds = EngineKind::ALL.into_iter().filter(|kind| kind.is_available()).collect();
    let dir = std::env::temp_dir();
    let (load, value, open) = (None, None, None);
    let mut options = Options { rounds: 3, scale: 1, dir, kinds, load, value, open };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("an option has a value");
        match word.as_str() {
            "--rounds" => options.rounds = value().parse().expect("--rounds is a number"),
            "--scale" => options.scale = value().parse().expect("--scale is a number"),
            "--dir" => options.dir = value().into(),
            "--engine" => options.kinds = vec![value().parse().expect("--engine is known")],
            "--load" => options.load = Some(value().parse().expect("--load is a number")),
            "--value" => options.value = Some(value().parse().expect("--value is a number")),
            "--open" => options.open = Some(value().into()),
            // Cargo passes its own.
            _ => {}
        }
    }
    options
}

fn main() {
    let options = options();
    if let Some(dir) = &options.open {
        return open_and_read(options.kinds[0], dir);
    }
    if let Some(keys) = options.load {
        return options.kinds.iter().for_each(|kind| fill(*kind, keys, &options.dir));
    }
    compare(&options);
}

/// Rounds of each engine for each size of values, interleaved.
fn compare(options: &Options) {
    let kinds = &options.kinds;
    let loads = [
        Load { value_bytes: 256, keys: 10_000, entries: 4_000 * options.scale },
        Load { value_bytes: 512, keys: 50_000, entries: 2_000 * options.scale },
        Load { value_bytes: 2_048, keys: 20_000, entries: 1_000 * options.scale },
        Load { value_bytes: 48 * 1024, keys: 1_000, entries: 64 * options.scale },
    ];
    println!(
        "{:<8} {:>7} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>7} {:>8} {:>7}",
        "engine",
        "value",
        "puts/s",
        "cpu us",
        "p50 ms",
        "p99 ms",
        "max ms",
        "ckpt ms",
        "written",
        "on disk",
        "get us",
        "range us",
        "open s"
    );
    let wanted = |load: &&Load| options.value.is_none_or(|bytes| bytes == load.value_bytes);
    for load in loads.iter().filter(wanted) {
        let mut rounds = vec![Vec::new(); kinds.len()];
        for _ in 0..options.rounds {
            for (kind, rounds) in kinds.iter().zip(&mut rounds) {
                rounds.push(measure(*kind, load, &options.dir));
            }
        }
        for (kind, mut rounds) in kinds.iter().zip(rounds) {
            rounds.sort_by(|a, b| a.cpu_us_per_put.total_cmp(&b.cpu_us_per_put));
            print(*kind, load, &rounds[rounds.len() / 2]);
        }
    }
}

fn print(kind: EngineKind, load: &Load, figures: &Figures) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    println!(
        "{:<8} {:>7} {:>9.0} {:>8.1} {:>8.2} {:>8.2} {:>8.1} {:>9.1} {:>8.2} {:>8.2} {:>7.1} {:>8.1} {:>7.2}",
        kind.name(),
        load.value_bytes,
        figures.puts_per_s,
        figures.cpu_us_per_put,
        ms(figures.batch_p50),
        ms(figures.batch_p99),
        ms(figures.batch_max),
        ms(figures.checkpoint_max),
        figures.written_per_payload,
        figures.disk_per_live,
        figures.get_us,
        figures.range_us,
        figures.reopen.as_secs_f64(),
    );
}

/// A cheap sequence of numbers, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        self.0 >> 20
    }

    /// Bytes that do not compress.
    fn value(&mut self, bytes: usize) -> Bytes {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.flatten().take(bytes).collect()
    }
}

fn key(number: u64) -> Key {
    Space::Raw.key(format!("bench/key-{number:012}").as_bytes())
}

fn entry(random: &mut Random, load: &Load, value: &Bytes, index: u64) -> Payload {
    let put = |random: &mut Random| {
        let put = Put::new(key(random.next() % load.keys), value.clone());
        Command::Txn(Txn { then: vec![Op::Put(put)], ..Txn::default() })
    };
    let mut commands: Vec<_> = (0..COMMANDS).map(|_| put(random)).collect();
    if index.is_multiple_of(COMPACT_EVERY) && index * COMMANDS as u64 > HISTORY {
        let revision = Revision::new(index * COMMANDS as u64 - HISTORY);
        commands.push(Command::Compact { revision });
    }
    encode(index, commands)
}

fn encode(now: u64, commands: Vec<Command>) -> Payload {
    let envelope = |command| Envelope { write_id: None, command };
    let commands: Vec<_> = commands.into_iter().map(envelope).collect();
    let encoded: Vec<_> = commands.iter().map(codec::encode_envelope).collect();
    Payload::Batch(codec::encode_batch(Millis(now), &encoded))
}

fn measure(kind: EngineKind, load: &Load, dir: &Path) -> Figures {
    let dir = tempfile::tempdir_in(dir).unwrap();
    let state = State::open(dir.path(), kind, StateOptions::default()).unwrap();
    state.format([1; 16]).unwrap();
    let mut figures = Figures::default();
    write(&state, load, &mut figures);
    let live_bytes = load.keys * load.value_bytes as u64;
    figures.disk_per_live = state.size_bytes().unwrap() as f64 / live_bytes as f64;
    read(&state, load, &mut figures);
    if kind != EngineKind::Memory {
        drop(state);
        let start = Instant::now();
        let state = State::open(dir.path(), kind, StateOptions::default()).unwrap();
        state.view().unwrap().get(&key(0)).unwrap();
        figures.reopen = start.elapsed();
    }
    figures
}

fn write(state: &State, load: &Load, figures: &mut Figures) {
    let mut random = Random(42);
    let value = random.value(load.value_bytes);
    let mut times = Vec::new();
    let (mut since_checkpoint, mut cpu) = (0, Duration::ZERO);
    let written_before = written_bytes();
    for index in 1..=load.entries {
        let id = LogId { term: 1, index, leader: 1 };
        let entries = [(id, entry(&mut random, load, &value, index))];
        let (start, cpu_before) = (Instant::now(), cpu_time());
        state.apply(&entries).unwrap();
        times.push(start.elapsed());
        since_checkpoint += COMMANDS * load.value_bytes;
        if index.is_multiple_of(COMPACT_EVERY) {
            while state.compact_step(1_000).unwrap() {}
        }
        if since_checkpoint > CHECKPOINT_BYTES || index == load.entries {
            since_checkpoint = 0;
            let start = Instant::now();
            state.checkpoint().unwrap();
            figures.checkpoint_max = figures.checkpoint_max.max(start.elapsed());
        }
        cpu += cpu_time().saturating_sub(cpu_before);
    }
    let puts = load.entries as f64 * COMMANDS as f64;
    let total: Duration = times.iter().sum();
    figures.puts_per_s = puts / total.as_secs_f64();
    figures.cpu_us_per_put = cpu.as_secs_f64() * 1e6 / puts;
    figures.written_per_payload =
        (written_bytes() - written_before) as f64 / (puts * load.value_bytes as f64);
    times.sort();
    figures.batch_p50 = times[times.len() / 2];
    figures.batch_p99 = times[times.len() * 99 / 100];
    figures.batch_max = *times.last().unwrap();
}

fn read(state: &State, load: &Load, figures: &mut Figures) {
    const GETS: u32 = 5_000;
    const RANGES: u32 = 200;
    let mut random = Random(7);
    let view = state.view().unwrap();
    let start = Instant::now();
    for _ in 0..GETS {
        view.get(&key(random.next() % load.keys)).unwrap();
    }
    figures.get_us = start.elapsed().as_secs_f64() * 1e6 / f64::from(GETS);
    let start = Instant::now();
    for _ in 0..RANGES {
        let first = random.next() % load.keys;
        let range = keelstone_store::KeyRange {
            start: key(first).0,
            end: keelstone_store::RangeEnd::Until(key(first + 100).0),
        };
        view.range(&Range::all(range)).unwrap().unwrap();
    }
    figures.range_us = start.elapsed().as_secs_f64() * 1e6 / f64::from(RANGES);
}

const LOAD_VALUE_BYTES: usize = 512;

/// Fills a state, and has a fresh process open it.
fn fill(kind: EngineKind, keys: u64, dir: &Path) {
    let dir = tempfile::tempdir_in(dir).unwrap();
    let state = State::open(dir.path(), kind, StateOptions::default()).unwrap();
    state.format([1; 16]).unwrap();
    println!("{kind}: empty, {} MiB of memory", resident_mib());
    let mut random = Random(42);
    let (start, cpu) = (Instant::now(), cpu_time());
    for index in 0..keys.div_ceil(COMMANDS as u64) {
        let put = |number| {
            let put = Put::new(key(number), random.value(LOAD_VALUE_BYTES));
            Command::Txn(Txn { then: vec![Op::Put(put)], ..Txn::default() })
        };
        let commands = (0..COMMANDS as u64).map(|place| index * COMMANDS as u64 + place);
        let payload = encode(index, commands.map(put).collect());
        state.apply(&[(LogId { term: 1, index, leader: 1 }, payload)]).unwrap();
    }
    println!(
        "{kind}: {keys} keys of {LOAD_VALUE_BYTES} bytes in {:.1} s ({:.1} s of CPU), {} MiB of memory",
        start.elapsed().as_secs_f64(),
        cpu_time().saturating_sub(cpu).as_secs_f64(),
        resident_mib(),
    );
    let start = Instant::now();
    state.checkpoint().unwrap();
    println!(
        "{kind}: checkpoint {:.2} s, {} MB on disk",
        start.elapsed().as_secs_f64(),
        state.size_bytes().unwrap() / 1_000_000,
    );
    if kind == EngineKind::Memory {
        return read_all(&state);
    }
    drop(state);
    let arguments = ["--engine", kind.name(), "--open"];
    let itself = std::env::current_exe().unwrap();
    let status = std::process::Command::new(itself).args(arguments).arg(dir.path()).status();
    assert!(status.unwrap().success());
}

fn open_and_read(kind: EngineKind, dir: &Path) {
    let start = Instant::now();
    let state = State::open(dir, kind, StateOptions::default()).unwrap();
    state.view().unwrap().get(&key(0)).unwrap();
    println!(
        "{kind}: opened in {:.2} s, {} MiB of memory",
        start.elapsed().as_secs_f64(),
        resident_mib(),
    );
    read_all(&state);
}

fn read_all(state: &State) {
    let view = state.view().unwrap();
    let start = Instant::now();
    view.state_root(view.head().revision).unwrap().unwrap();
    let root = start.elapsed();
    let start = Instant::now();
    let bytes: usize = state.snapshot().unwrap().map(|chunk| chunk.unwrap().len()).sum();
    println!(
        "{}: state root in {:.2} s, snapshot of {} MB in {:.2} s, {} MiB of memory",
        state.engine_name(),
        root.as_secs_f64(),
        bytes / 1_000_000,
        start.elapsed().as_secs_f64(),
        resident_mib(),
    );
}

/// Memory of this process.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// CPU time of this process, all threads.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Bytes that this process has sent to the disk.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
