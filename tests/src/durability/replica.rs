//! Log and state as a replica keeps them: an entry is acknowledged when the log
//! has it, then applied; the log is purged only below a checkpoint of the state.
//! Operation `n` is the entry of index `n - 1`.

use super::log::open as open_log;
use super::{Ledger, Loss, Random};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use keelstone_store::disk::log::{Log, LogEntry};
use keelstone_store::disk::{EngineKind, EngineOptions, LogId};
use keelstone_store::machine::{Command, Envelope, Op, Put, Txn, codec};
use keelstone_store::state::{Payload, State, StateOptions};
use keelstone_store::{LeaseId, Millis, Space};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const HISTORY: [u8; 16] = *b"a replica's name";
/// Entries that may be unacknowledged.
const IN_FLIGHT_MAX: u64 = 64;
/// Entries between two checkpoints, and kept in the log after one.
const CHECKPOINT_ENTRIES: u64 = 100;

fn id(number: u64) -> LogId {
    LogId { term: 1, index: number - 1, leader: 1 }
}

/// An encoded batch of a few puts.
fn payload(seed: u64, number: u64) -> Bytes {
    let mut random = Random::of(seed, number);
    let envelopes: Vec<Bytes> = (0..=random.below(3))
        .map(|_| {
            let name = format!("key-{:04}", random.below(300));
            let length = random.below_usize(900);
            let put = Put {
                key: Space::Raw.key(name.as_bytes()),
                value: random.bytes(length).into(),
                lease: LeaseId::default(),
                previous: false,
                ignore_value: false,
                ignore_lease: false,
            };
            let txn = Txn { compares: Vec::new(), then: vec![Op::Put(put)], otherwise: Vec::new() };
            codec::encode_envelope(&Envelope { write_id: None, command: Command::Txn(txn) })
        })
        .collect();
    codec::encode_batch(Millis(number), &envelopes)
}

fn open_state(dir: &Path, kind: EngineKind) -> Result<State> {
    let engine = EngineOptions { write_buffer_bytes: 1024 * 1024, ..EngineOptions::default() };
    let state = State::open(dir, kind, StateOptions { engine })?;
    state.format(HISTORY)?;
    Ok(state)
}

/// The number of the newest entry in a state.
fn applied(state: &State) -> Result<u64> {
    Ok(state.view()?.applied().id.map_or(0, |id| id.index + 1))
}

/// Applies what the log has and the state has not.
fn catch_up(log: &Log, state: &State) -> Result<u64> {
    let last = log.recovered().last.map_or(0, |last| last.index + 1);
    let mut next = applied(state)?;
    while next < last {
        let read = log.read(next, last, 1 << 20)?;
        ensure!(read.first().is_some_and(|entry| entry.id.index == next), "no entry {next}");
        for LogEntry { id, payload } in read {
            state.apply(&[(id, Payload::Batch(payload))])?;
            next += 1;
        }
    }
    Ok(next)
}

pub(super) fn write(
    dir: &Path,
    kind: EngineKind,
    seed: u64,
    from: u64,
    ledger: Ledger,
) -> Result<()> {
    let (log, writer) = open_log(&dir.join("log")).map_err(anyhow::Error::msg)?;
    thread::spawn(move || writer.run());
    let state = open_state(&dir.join("state"), kind)?;
    let found = catch_up(&log, &state)?;
    ensure!(found == from, "found entry {found}, expected {from}");
    let ledger = Arc::new(ledger);
    ledger.start().context("start the ledger")?;
    let mut done = from;
    for number in from + 1.. {
        let entry = LogEntry { id: id(number), payload: payload(seed, number) };
        let acknowledge = {
            let ledger = Arc::clone(&ledger);
            Box::new(move |result: std::io::Result<()>| {
                if result.is_ok() {
                    ledger.acknowledge(number);
                }
            })
        };
        log.append(vec![entry], acknowledge)?;
        while number > ledger.acknowledged() + IN_FLIGHT_MAX {
            thread::sleep(Duration::from_micros(200));
            log.read(0, 0, 0)?;
        }
        while done < ledger.acknowledged() {
            done += 1;
            state.apply(&[(id(done), Payload::Batch(payload(seed, done)))])?;
        }
        if number % CHECKPOINT_ENTRIES == 0 {
            let durable = state.checkpoint()?.id.map_or(0, |id| id.index + 1);
            if durable > CHECKPOINT_ENTRIES {
                log.purge(id(durable - CHECKPOINT_ENTRIES))?;
            }
        }
    }
    Ok(())
}

pub(super) fn verify(
    dir: &Path,
    kind: EngineKind,
    seed: u64,
    acknowledged: u64,
) -> Result<u64, Loss> {
    let unreadable = |error: anyhow::Error| Loss::Unreadable(format!("{error:#}"));
    let (log, _writer) = open_log(&dir.join("log")).map_err(Loss::Unreadable)?;
    let state = open_state(&dir.join("state"), kind).map_err(unreadable)?;
    let logged = log.recovered().last.map_or(0, |last| last.index + 1);
    let before = applied(&state).map_err(unreadable)?;
    if logged < acknowledged || before > logged {
        let detail = format!("acknowledged {acknowledged}, logged {logged}, applied {before}");
        return Err(Loss::Wrong(detail));
    }
    let found = catch_up(&log, &state).map_err(unreadable)?;
    let right = State::in_memory();
    let expected = (|| {
        right.format(HISTORY)?;
        for number in 1..=found {
            right.apply(&[(id(number), Payload::Batch(payload(seed, number)))])?;
        }
        anyhow::Ok(right.view()?)
    })()
    .map_err(unreadable)?;
    let view = state.view().map_err(|error| Loss::Unreadable(error.to_string()))?;
    // The chain of hashes covers every transition: equal heads, equal histories.
    if head(&view) != head(&expected) {
        return Err(Loss::Wrong(format!("another state after entry {found}")));
    }
    Ok(found)
}

fn head(view: &keelstone_store::state::StateView) -> keelstone_store::machine::Head {
    keelstone_store::machine::View::head(view)
}
