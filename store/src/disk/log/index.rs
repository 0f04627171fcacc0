//! Where each durable entry lies.
//!
//! Eight bytes of memory per entry. Fed in the order of the record stream, by
//! recovery and by the writer alike; what Raft has already asked for but the
//! writer has not written yet is not known here.

use super::format;
use crate::disk::LogId;
use crate::disk::storage::StorageFile;
use std::collections::VecDeque;
use std::sync::Arc;

/// Where a record lies in its segment's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

/// A segment, and the entries of the log that lie in it.
pub(super) struct SegmentPlaces {
    pub(super) sequence: u64,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) bytes: u64,
    /// Index of the entry at the first place; meaningless if there is none.
    first: u64,
    places: VecDeque<Place>,
}

impl SegmentPlaces {
    pub(super) fn new(sequence: u64, file: Arc<dyn StorageFile>, bytes: u64) -> Self {
        Self { sequence, file, bytes, first: 0, places: VecDeque::new() }
    }

    fn end(&self) -> u64 {
        self.first + self.places.len() as u64
    }
}

/// An entry to be read from the disk.
#[derive(Clone)]
pub(super) struct Located {
    pub(super) index: u64,
    pub(super) sequence: u64,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) place: Place,
}

/// The places of all durable entries.
#[derive(Default)]
pub(super) struct Index {
    segments: VecDeque<SegmentPlaces>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    /// Entries below this index, if they are still part of the log, lay in
    /// segments that are no longer there.
    gone_until: u64,
}

impl Index {
    /// An index that starts where the first segment's header says.
    pub(super) fn starting(purged: Option<LogId>, last: Option<LogId>) -> Self {
        let gone_until = last.map_or(0, |last| last.index + 1);
        Self { segments: VecDeque::new(), purged, last, gone_until }
    }

    pub(super) fn add_segment(&mut self, segment: SegmentPlaces) {
        self.segments.push_back(segment);
    }

    /// The entry `id` was written to the newest segment.
    pub(super) fn append(&mut self, id: LogId, place: Place) {
        let segment = self.segments.back_mut().expect("entries are written into segments");
        if segment.places.is_empty() {
            segment.first = id.index;
        }
        debug_assert_eq!(segment.end(), id.index, "entries follow each other");
        segment.places.push_back(place);
        self.last = Some(id);
    }

    /// Entries after `kept` are no longer part of the log.
    pub(super) fn truncate(&mut self, kept: Option<LogId>) {
        let next = kept.map_or(0, |kept| kept.index + 1);
        for segment in self.segments.iter_mut().rev() {
            let live = next.saturating_sub(segment.first);
            segment.places.truncate(usize::try_from(live).unwrap_or(usize::MAX));
        }
        self.gone_until = self.gone_until.min(next);
        self.last = later(kept, self.purged);
    }

    /// Entries up to `upto` are no longer part of the log.
    pub(super) fn purge(&mut self, upto: LogId) {
        self.purged = later(self.purged, Some(upto));
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = self.purged;
            for segment in &mut self.segments {
                segment.places.clear();
            }
        }
    }

    /// The index after the last entry.
    pub(super) fn next(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    /// The first entry of the log that has no place.
    pub(super) fn missing(&self) -> Option<u64> {
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        (first < self.gone_until.min(self.next())).then_some(first)
    }

    /// Takes the segments off the front in which no entry of the log lies. The
    /// newest is never among them.
    pub(super) fn take_dead(&mut self) -> Vec<SegmentPlaces> {
        let purged = self.purged;
        let mut dead = Vec::new();
        while self.segments.len() > 1 {
            let front = &self.segments[0];
            let alive = !front.places.is_empty()
                && purged.is_none_or(|purged| purged.index + 1 < front.end());
            if alive {
                break;
            }
            dead.extend(self.segments.pop_front());
        }
        dead
    }

    pub(super) fn segments(&self) -> &VecDeque<SegmentPlaces> {
        &self.segments
    }

    /// Where the entries from `from` to before `until` lie, as many as there are
    /// up to `bytes_max`, and at least one if there is any.
    pub(super) fn locate(&self, from: u64, until: u64, bytes_max: usize) -> Vec<Located> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for segment in &self.segments {
            for index in from.max(segment.first)..until.min(segment.end()) {
                let at = usize::try_from(index - segment.first).expect("places are in memory");
                let place = segment.places[at];
                bytes += (place.bytes as usize).saturating_sub(format::entry_bytes(0));
                if bytes > bytes_max && !found.is_empty() {
                    return found;
                }
                let file = Arc::clone(&segment.file);
                found.push(Located { index, sequence: segment.sequence, file, place });
            }
        }
        found
    }
}

/// The one that stands later in the log.
pub(super) fn later(a: Option<LogId>, b: Option<LogId>) -> Option<LogId> {
    if a.map(|id| id.index) >= b.map(|id| id.index) { a } else { b }
}
