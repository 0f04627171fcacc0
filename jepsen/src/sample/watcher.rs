//! The watches of a sample: readers that follow the log, leave, and come back.

use super::plant::Plant;
use super::run::Tape;
use super::store::Store;
use crate::history::{Change, Kind, Op, Watch, WatchStep, spans};
use rand::Rng as _;
use rand::rngs::StdRng;

/// A reader with its place.
#[derive(Debug)]
pub(super) struct Watcher {
    reader: u64,
    key: String,
    end: String,
    /// The next revision, once it has one.
    place: Option<u64>,
    /// The stream that is open: its number and what it asked for.
    stream: Option<(u64, u64)>,
    stuck: bool,
    last: Vec<Change>,
}

impl Watcher {
    /// The first one watches everything, the others a part.
    pub(super) fn new(number: usize) -> Self {
        let (key, end) = if number == 0 { ("", "") } else { ("k/0", "k/2") };
        Self {
            reader: number as u64,
            key: key.to_owned(),
            end: end.to_owned(),
            place: None,
            stream: None,
            stuck: false,
            last: Vec::new(),
        }
    }

    /// Whether it may go on, or stays behind for ever.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Does something: begins, takes what is new, announces, or leaves.
    pub(super) fn step(&mut self, store: &Store, tape: &mut Tape, rng: &mut StdRng, leave: bool) {
        if self.stuck {
            return;
        }
        let Some((stream, _)) = self.stream else {
            self.open(store, tape);
            return;
        };
        if leave && rng.random_bool(0.08) {
            self.tell(tape, Kind::Ok, stream, WatchStep::Closed);
            self.stream = None;
            return;
        }
        let place = self.place.unwrap_or(1);
        if place > store.revision() {
            if rng.random_bool(0.3) {
                self.tell(tape, Kind::Ok, stream, WatchStep::Progress(place - 1));
            }
            return;
        }
        let to = store.revision().min(place + rng.random_range(0..6));
        self.deliver(store, tape, stream, place, to);
        if self.stuck {
            return;
        }
        self.place = Some(to + 1);
        if rng.random_bool(0.3) {
            self.tell(tape, Kind::Ok, stream, WatchStep::Progress(to));
        }
    }

    fn open(&mut self, store: &Store, tape: &mut Tape) {
        let stream = tape.unique();
        let asked = self.place.unwrap_or(0);
        self.stream = Some((stream, asked));
        self.tell(tape, Kind::Invoke, stream, WatchStep::Create);
        if asked != 0 && asked < store.compacted {
            let compact_revision = Some(store.compacted);
            let reason = "compacted".to_owned();
            self.tell(tape, Kind::Ok, stream, WatchStep::Canceled { reason, compact_revision });
            // It begins anew, as another reader.
            self.reader = tape.unique() + 1000;
            (self.place, self.stream) = (None, None);
            return;
        }
        let start = self.place.unwrap_or(store.revision() + 1);
        self.place = Some(start);
        self.tell(tape, Kind::Ok, stream, WatchStep::Created { start });
    }

    fn deliver(&mut self, store: &Store, tape: &mut Tape, stream: u64, from: u64, to: u64) {
        let mut changes: Vec<Change> = Vec::new();
        for revision in from..=to {
            let place = usize::try_from(revision - 1).unwrap_or(usize::MAX);
            let all = store.log.get(place).into_iter().flatten();
            changes.extend(all.filter(|change| self.wants(change)).cloned());
        }
        if changes.is_empty() {
            return;
        }
        if let Some(plant) = tape.plant_ready()
            && self.spoil(plant, &mut changes, store, tape, stream, to)
        {
            tape.planted = true;
        }
        if !changes.is_empty() && !self.stuck {
            self.last.clone_from(&changes);
            self.tell(tape, Kind::Ok, stream, WatchStep::Changes(changes));
        }
    }

    fn wants(&self, change: &Change) -> bool {
        spans(&self.key, Some(&self.end), &change.key)
    }

    /// Makes a mistake of watches; returns whether there was an occasion.
    fn spoil(
        &mut self,
        plant: Plant,
        changes: &mut Vec<Change>,
        store: &Store,
        tape: &mut Tape,
        stream: u64,
        to: u64,
    ) -> bool {
        match plant {
            Plant::WatchGap => {
                changes.remove(0);
                true
            }
            Plant::WatchTwice if !self.last.is_empty() => {
                let again = self.last.clone();
                self.tell(tape, Kind::Ok, stream, WatchStep::Changes(again));
                true
            }
            Plant::WatchOrder => {
                let (first, last) = (changes[0].revision, changes[changes.len() - 1].revision);
                changes.reverse();
                first != last
            }
            Plant::WatchSplit => {
                let double =
                    changes.windows(2).position(|pair| pair[0].revision == pair[1].revision);
                let Some(place) = double else { return false };
                let rest = changes.split_off(place + 1);
                self.tell(tape, Kind::Ok, stream, WatchStep::Changes(changes.clone()));
                *changes = rest;
                true
            }
            Plant::WatchEarlyProgress => {
                self.tell(tape, Kind::Ok, stream, WatchStep::Progress(to));
                true
            }
            Plant::WatchForeignKey if !self.key.is_empty() => {
                let newest = changes[changes.len() - 1].revision;
                let foreign = store.log.iter().flatten().find(|change| {
                    change.revision > newest && change.revision <= to && !self.wants(change)
                });
                let Some(foreign) = foreign else { return false };
                changes.push(foreign.clone());
                true
            }
            Plant::WatchWrongPrevious => {
                let prev = changes.iter_mut().find_map(|change| change.prev.as_mut());
                let Some(prev) = prev else { return false };
                "other".clone_into(&mut prev.value);
                true
            }
            Plant::WatchStuck => {
                self.stuck = true;
                true
            }
            Plant::WatchAfterEnd => {
                let reason = "shutdown".to_owned();
                let end = WatchStep::Canceled { reason, compact_revision: None };
                self.tell(tape, Kind::Ok, stream, end);
                true
            }
            _ => false,
        }
    }

    fn tell(&self, tape: &mut Tape, kind: Kind, stream: u64, step: WatchStep) {
        let start = self.stream.map_or(0, |(_, asked)| asked);
        let op = Op::Watch(Watch {
            watch: stream,
            reader: self.reader,
            key: self.key.clone(),
            end: Some(self.end.clone()),
            start,
            prev: true,
            revision: None,
            step,
        });
        tape.record(1_000_000 + self.reader, kind, op, None, None);
    }
}
