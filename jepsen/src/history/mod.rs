//! Histories: what clients asked of a store, what they were told, and when.
//!
//! # The form
//!
//! One [`Event`] a line, in Jepsen's shape:
//!
//! ```json
//! {"index":0,"time":1201,"process":3,"type":"invoke","f":"txn","value":{"success":[{"put":{"key":"a","value":"1"}}]},"node":1}
//! {"index":1,"time":9377,"process":3,"type":"ok","f":"txn","value":{"success":[{"put":{"key":"a","value":"1"}}],"reply":{"revision":7,"succeeded":true,"results":[{"put":{}}]}},"node":1}
//! ```
//!
//! `time` is in nanoseconds on one monotonic clock, that of the process which
//! records (or the simulated one). `index` counts from 0 without gaps. A line's
//! order is the order in which it was recorded: an invocation before the request
//! leaves, a completion after the answer has come.
//!
//! # The rules
//!
//! * A process is a client with one operation at a time: an `invoke`, then one
//!   completion of the same `f`: `ok` (it happened, the reply is in `value`),
//!   `fail` (it did not happen and never will), or `info` (nobody knows).
//! * A process whose operation ended in `info`, or never ended, is not used
//!   again: its client goes on under a new number ([`Recorder::new_process`]).
//! * A completion repeats the request. Checkers read the request from the
//!   invocation and nothing but the reply from the completion.
//! * A watch is one `invoke` and any number of `ok` events of the same `watch`
//!   number; it is not paired like an operation, and has a process of its own.
//! * Faults are events of the process `"nemesis"`, of type `info`.
//!
//! # What is not here
//!
//! Judgement: see [`crate::check`].

mod edn;
mod event;
mod kv;
mod operation;
mod recorder;
#[cfg(test)]
mod tests;
mod watch;

pub use edn::write_edn;
pub use event::{
    Backup, BackupRestore, Claim, ConfigGet, ConfigSet, CounterAdd, CounterRead, Enqueue,
    EntityPatch, EntityRead, Fault, FaultPhase, Finish, LeaseGrant, LeaseRenew, LeaseRevoke,
    LeaseTtl, LockAcquire, LockRelease, MemberAction, MemberChange, MemberView, ResourceRead,
    ResourceWrite, StateHash,
};
pub use event::{Event, Kind, Op, Process};
pub use kv::{
    Action, ActionReply, Compare, KeyValue, Operand, Relation, Target, Txn, TxnReply, prefix_end,
    spans,
};
pub use operation::{Operation, Outcome};
pub use recorder::{Clock, RecordError, Recorder};
pub use watch::{Change, ChangeKind, Watch, WatchStep};

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Bytes of one line of a history. Longer ones are refused on reading.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What happened in one run, in the order in which it was recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    events: Vec<Event>,
}

/// Why a history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file could not be read.
    #[error("read the history: {0}")]
    Io(#[from] std::io::Error),
    /// A line is no event.
    #[error("line {line} is no event: {reason}")]
    Malformed {
        /// From 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// The events contradict the rules of histories.
    #[error("event {index}: {reason}")]
    Impossible {
        /// The event's index.
        index: u64,
        /// The rule that it breaks.
        reason: String,
    },
}

impl History {
    /// A history of these events.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Impossible`] if indices or times run backwards, a process
    /// has two operations at once, a completion has no invocation or another
    /// `f`, or a process is used after an unknown outcome.
    pub fn new(events: Vec<Event>) -> Result<Self, HistoryError> {
        operation::validate(&events)?;
        Ok(Self { events })
    }

    /// Reads a file of JSON lines.
    ///
    /// # Errors
    ///
    /// As [`History::parse`].
    pub fn read(path: &Path) -> Result<Self, HistoryError> {
        Self::parse(BufReader::new(File::open(path)?))
    }

    /// Reads JSON lines. Empty lines are skipped.
    ///
    /// # Errors
    ///
    /// If reading fails, a line is malformed or longer than [`LINE_BYTES_MAX`],
    /// or as [`History::new`].
    pub fn parse(mut lines: impl BufRead) -> Result<Self, HistoryError> {
        let mut events = Vec::new();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let bound = LINE_BYTES_MAX as u64 + 1;
            let taken = std::io::Read::take(&mut lines, bound).read_until(b'\n', &mut line)?;
            if taken == 0 {
                break;
            }
            if taken > LINE_BYTES_MAX {
                let reason = format!("longer than {LINE_BYTES_MAX} bytes");
                return Err(HistoryError::Malformed { line: number, reason });
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let event = serde_json::from_slice(&line).map_err(|error| HistoryError::Malformed {
                line: number,
                reason: error.to_string(),
            })?;
            events.push(event);
        }
        Self::new(events)
    }

    /// All events.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// When the last event was recorded, in nanoseconds; 0 if there is none.
    pub fn end(&self) -> u64 {
        self.events.last().map_or(0, |event| event.time)
    }

    /// The operations of clients, each an invocation with its completion, in the
    /// order of their invocations. Watches and faults are not among them.
    pub fn operations(&self) -> Vec<Operation<'_>> {
        operation::pair(&self.events)
    }

    /// The requests for and responses of watches, in the order of recording.
    pub fn watches(&self) -> impl Iterator<Item = (&Event, &Watch)> {
        self.events.iter().filter_map(|event| match &event.op {
            Op::Watch(watch) => Some((event, watch)),
            _ => None,
        })
    }

    /// The faults, in the order of recording.
    pub fn faults(&self) -> impl Iterator<Item = (&Event, &Fault)> {
        self.events.iter().filter_map(|event| match &event.op {
            Op::Nemesis(fault) => Some((event, fault)),
            _ => None,
        })
    }
}
