//! Segments before and after their use: prepared ahead, removed behind.
//!
//! A segment in which nothing is left becomes the next one as it is: its file is
//! renamed, and what it contains is overwritten round by round. Its blocks are in
//! use already, so a sync has nothing to note in the file system's journal. Only
//! where there is none to use again is one made, and zeroed to the same end.
//!
//! None of this belongs to a round. A real log does it on a thread of its own
//! ([`Upkeep::run`]), so that neither a large allocation nor a large removal
//! stalls the writer; a simulated one does it after each round. Only when the
//! writer needs a segment that is not ready does it wait for the step that is
//! under way, or make one itself.

use super::index::SegmentPlaces;
use super::{LogOptions, LogStats};
use crate::disk::storage::{PAGE_BYTES, PageBuffer, Storage, StorageFile};
use crate::planted::{self, Bug};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long to wait until a failed preparation or removal is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Zeros written between two looks at whether the writer waits.
const ZEROS: usize = 1024 * 1024;
/// How long the disk is left alone between two such pieces, as long as the active
/// segment does not fill as fast: several replicas may share the disk.
const REST: Duration = Duration::from_millis(100);

/// The file name of a segment. Names sort as sequences do.
pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:020}.wal")
}

/// The sequence in a segment's file name.
pub(super) fn segment_sequence(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    let sequence = digits.parse().ok()?;
    (segment_name(sequence) == name && sequence > 0).then_some(sequence)
}

/// How many segments without entries are kept to be used again, at most.
/// What one checkpoint lets go, so that the next ones need no new segment.
const KEPT_MAX: u64 = 4;
/// Bytes of them at most, as long as that is one.
const KEPT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Ends the name of a segment that is being made.
const UNFINISHED: &str = ".new";

/// Removes what a crash left of segments that were being made.
pub(super) fn remove_unfinished(storage: &dyn Storage) -> io::Result<()> {
    for name in storage.list()?.iter().filter(|name| name.ends_with(UNFINISHED)) {
        storage.remove(name)?;
    }
    Ok(())
}

/// Creates a segment of zeros, in place of another unused one of its sequence if
/// there is one. It and its name are durable on return; whatever ends this, there
/// is never a segment that is not whole, nor a gap where one was.
pub(super) fn make(
    storage: &dyn Storage,
    sequence: u64,
    bytes: u64,
    warm_up: impl FnOnce(&dyn StorageFile) -> io::Result<()>,
) -> io::Result<Blank> {
    let name = segment_name(sequence);
    let unfinished = format!("{name}{UNFINISHED}");
    debug_assert!(bytes.is_multiple_of(PAGE_BYTES as u64), "rounds are written in whole pages");
    let file = match storage.create(&unfinished, bytes) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // An earlier attempt could not even clean up.
            storage.remove(&unfinished)?;
            storage.create(&unfinished, bytes)?
        }
        created => created?,
    };
    let named = warm_up(&*file)
        .and_then(|()| file.sync_data())
        .and_then(|()| storage.rename(&unfinished, &name));
    if let Err(error) = named {
        storage.remove(&unfinished)?;
        return Err(error);
    }
    sync_names(storage)?;
    Ok(Blank { sequence, file, bytes })
}

fn sync_names(storage: &dyn Storage) -> io::Result<()> {
    if planted::is(Bug::SkipDirectorySync) { Ok(()) } else { storage.sync_dir() }
}

/// A segment file that nothing of this life was written to.
pub(super) struct Blank {
    pub(super) sequence: u64,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) bytes: u64,
}

enum Next {
    /// Nobody has begun it.
    Wanted(u64),
    /// Somebody makes it.
    Preparing,
    Ready(Blank),
}

struct Plan {
    next: Next,
    /// The writer waits for what is being prepared: no more zeros.
    hurry: bool,
    /// Segments in which nothing is left, oldest first.
    dead: VecDeque<Blank>,
    problem: Option<String>,
    unprepared: u64,
    stopped: bool,
}

impl From<SegmentPlaces> for Blank {
    fn from(segment: SegmentPlaces) -> Self {
        let SegmentPlaces { sequence, file, bytes, .. } = segment;
        Self { sequence, file, bytes }
    }
}

impl Plan {
    /// Whether the oldest segment in which nothing is left is not to be kept.
    fn has_too_many(&self, segment_bytes: u64) -> bool {
        let kept_max = (KEPT_BYTES_MAX / segment_bytes).clamp(1, KEPT_MAX);
        let of_other_size = |oldest: &Blank| oldest.bytes != segment_bytes;
        self.dead.len() as u64 > kept_max || self.dead.front().is_some_and(of_other_size)
    }
}

/// See the module.
pub(super) struct Upkeep {
    storage: Arc<dyn Storage>,
    segment_bytes: u64,
    zero_ahead: bool,
    /// Bytes of the active segment that are in use.
    active_bytes: AtomicU64,
    plan: Mutex<Plan>,
    changed: Condvar,
}

impl Upkeep {
    /// Upkeep for a log whose next segment is `next`: prepared, or its sequence.
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        options: &LogOptions,
        next: Result<Blank, u64>,
    ) -> Self {
        let next = next.map_or_else(Next::Wanted, Next::Ready);
        let plan = Plan {
            next,
            hurry: false,
            dead: VecDeque::new(),
            problem: None,
            unprepared: 0,
            stopped: false,
        };
        Self {
            storage,
            segment_bytes: options.segment_bytes,
            zero_ahead: options.zero_ahead,
            active_bytes: AtomicU64::new(0),
            plan: Mutex::new(plan),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how much of the active segment is in use.
    pub(super) fn note_active(&self, bytes: u64) {
        self.active_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether a segment of which `done` bytes are zeroed may come too late: no
    /// more than five quarters of what is in use of the active one.
    fn is_late(&self, done: u64) -> bool {
        let used = self.active_bytes.load(Ordering::Relaxed);
        done < used.saturating_add(used / 4)
    }

    /// Lets segments be used again or removed in which nothing is left.
    pub(super) fn remove(&self, dead: Vec<Blank>) {
        if dead.is_empty() {
            return;
        }
        self.lock().dead.extend(dead);
        self.changed.notify_all();
    }

    /// The next segment, with room for `needed` bytes. Waits for it if it is
    /// being prepared, and makes it if it is not.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be made, now that it is needed.
    pub(super) fn take(&self, needed: u64) -> io::Result<Blank> {
        let mut plan = self.lock();
        let mut waited = false;
        loop {
            match std::mem::replace(&mut plan.next, Next::Preparing) {
                Next::Preparing => {
                    // Bounded by one step of preparation: `hurry` ends it.
                    plan.hurry = true;
                    waited = true;
                    plan = self.changed.wait(plan).unwrap_or_else(PoisonError::into_inner);
                }
                Next::Ready(blank) => {
                    plan.next = Next::Wanted(blank.sequence + 1);
                    plan.hurry = false;
                    plan.unprepared += u64::from(waited);
                    self.note_active(0);
                    self.changed.notify_all();
                    drop(plan);
                    return if blank.bytes >= needed {
                        Ok(blank)
                    } else {
                        self.larger(&blank, needed)
                    };
                }
                Next::Wanted(sequence) => {
                    plan.unprepared += 1;
                    plan.hurry = true;
                    drop(plan);
                    let made = self.obtain(sequence, needed.max(self.segment_bytes), false);
                    plan = self.lock();
                    plan.hurry = false;
                    match made {
                        Ok(blank) => plan.next = Next::Ready(blank),
                        Err(error) => {
                            plan.next = Next::Wanted(sequence);
                            return Err(error);
                        }
                    }
                }
            }
        }
    }

    /// Replaces an unused segment by a larger one of the same sequence.
    pub(super) fn larger(&self, blank: &Blank, needed: u64) -> io::Result<Blank> {
        self.make(blank.sequence, needed, false)
    }

    /// A segment for `sequence`: one that is used again, or a new one.
    fn obtain(&self, sequence: u64, bytes: u64, zeros: bool) -> io::Result<Blank> {
        match self.reuse(sequence, bytes)? {
            Some(segment) => Ok(segment),
            None => self.make(sequence, bytes, zeros),
        }
    }

    /// Makes the oldest segment in which nothing is left the one of `sequence`, if
    /// it has the right size and nobody reads it any more. Its new name is durable
    /// on return.
    fn reuse(&self, sequence: u64, bytes: u64) -> io::Result<Option<Blank>> {
        let mut dead = {
            let mut plan = self.lock();
            let Some(oldest) = plan.dead.front_mut() else { return Ok(None) };
            // A reader that has found entries in it holds the file until it has read
            // them; it could read others there instead.
            if oldest.bytes != bytes || Arc::get_mut(&mut oldest.file).is_none() {
                return Ok(None);
            }
            let Some(oldest) = plan.dead.pop_front() else { return Ok(None) };
            oldest
        };
        let (from, to) = (segment_name(dead.sequence), segment_name(sequence));
        match self.storage.rename(&from, &to) {
            // It has the new name already: an attempt before this did it, and failed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                self.lock().dead.push_front(dead);
                return Err(error);
            }
            Ok(()) => {}
        }
        // If this fails, the next attempt replaces the file.
        sync_names(&*self.storage)?;
        dead.sequence = sequence;
        Ok(Some(dead))
    }

    fn make(&self, sequence: u64, bytes: u64, zeros: bool) -> io::Result<Blank> {
        let warm_up = |file: &dyn StorageFile| if zeros { self.fill(file, bytes) } else { Ok(()) };
        match make(&*self.storage, sequence, bytes, warm_up) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                // What is kept to be used again is needed now.
                if self.remove_dead(|plan| !plan.dead.is_empty())? == 0 {
                    return Err(error);
                }
                make(&*self.storage, sequence, bytes, warm_up)
            }
            made => made,
        }
    }

    /// Overwrites a new segment with zeros, until the writer waits for it. They
    /// change nothing that can be read; they save the file system the work of
    /// noting, at each sync, that a block is in use now.
    fn fill(&self, file: &dyn StorageFile, bytes: u64) -> io::Result<()> {
        let mut zeros = PageBuffer::default();
        zeros.begin(ZEROS);
        zeros.extend_zeros(ZEROS);
        let mut at = 0;
        let goes_on = || {
            let plan = self.lock();
            !plan.hurry && !plan.stopped
        };
        while at < bytes && goes_on() {
            let length = ZEROS.min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
            file.write_at(&zeros[..length], at)?;
            // Piece by piece, so that no sync of the log waits behind all of it.
            file.sync_data()?;
            at += length as u64;
            if at < bytes && !self.is_late(at) {
                self.rest();
            }
        }
        Ok(())
    }

    /// Leaves the disk to the log for a while, unless the writer waits.
    fn rest(&self) {
        let plan = self.lock();
        let rested =
            self.changed.wait_timeout_while(plan, REST, |plan| !plan.hurry && !plan.stopped);
        drop(rested);
    }

    /// Prepares and removes what is due. Whether all went well.
    pub(super) fn step(&self) -> bool {
        let prepared = self.prepare();
        let removed = self.remove_dead(|plan| plan.has_too_many(self.segment_bytes));
        let problem = prepared.and(removed.map(drop)).err().map(|error| error.to_string());
        let well = problem.is_none();
        self.lock().problem = problem;
        well
    }

    fn prepare(&self) -> io::Result<()> {
        let sequence = {
            let mut plan = self.lock();
            let Next::Wanted(sequence) = plan.next else { return Ok(()) };
            plan.next = Next::Preparing;
            sequence
        };
        let made = self.obtain(sequence, self.segment_bytes, self.zero_ahead);
        let mut plan = self.lock();
        let (next, result) = match made {
            Ok(blank) => (Next::Ready(blank), Ok(())),
            Err(error) => (Next::Wanted(sequence), Err(error)),
        };
        plan.next = next;
        self.changed.notify_all();
        result
    }

    /// Removes segments in which nothing is left, oldest first, as long as there are
    /// too many. Returns how many were removed.
    fn remove_dead(&self, too_many: impl Fn(&Plan) -> bool) -> io::Result<usize> {
        let mut removed = 0;
        loop {
            let oldest = {
                let mut plan = self.lock();
                // Taken out: the writer may use one again meanwhile.
                let Some(oldest) = too_many(&plan).then(|| plan.dead.pop_front()).flatten() else {
                    return Ok(removed);
                };
                oldest
            };
            match self.storage.remove(&segment_name(oldest.sequence)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.lock().dead.push_front(oldest);
                    return Err(error);
                }
                _ => removed += 1,
            }
        }
    }

    /// Does what is due as it becomes due, until [`stop`](Self::stop).
    pub(super) fn run(&self) {
        loop {
            let well = self.step();
            let plan = self.lock();
            let idle = |plan: &mut Plan| {
                let due =
                    matches!(plan.next, Next::Wanted(_)) || plan.has_too_many(self.segment_bytes);
                !plan.stopped && !due
            };
            let plan = if well {
                self.changed.wait_while(plan, idle).unwrap_or_else(PoisonError::into_inner)
            } else {
                let stopped = |plan: &mut Plan| !plan.stopped;
                self.changed
                    .wait_timeout_while(plan, RETRY, stopped)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            };
            if plan.stopped {
                return;
            }
        }
    }

    pub(super) fn stop(&self) {
        let mut plan = self.lock();
        plan.stopped = true;
        plan.hurry = true;
        self.changed.notify_all();
    }

    /// Bytes of files that hold no entries.
    pub(super) fn spare_bytes(&self) -> u64 {
        let plan = self.lock();
        let dead: u64 = plan.dead.iter().map(|segment| segment.bytes).sum();
        let next = if let Next::Ready(blank) = &plan.next { blank.bytes } else { 0 };
        dead + next
    }

    pub(super) fn report(&self, stats: &mut LogStats) {
        let plan = self.lock();
        stats.next_prepared = matches!(plan.next, Next::Ready(_));
        stats.rotations_unprepared = plan.unprepared;
        stats.space_problem.clone_from(&plan.problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::storage::SimDisk;

    const BYTES: u64 = LogOptions::SEGMENT_BYTES_MIN;

    /// Upkeep on a disk with segments 1 to `count` that contain their numbers; the
    /// next one is to be made.
    fn used(count: u64) -> (SimDisk, Upkeep, Vec<Blank>) {
        let disk = SimDisk::new(7, 32 * BYTES);
        let segments = (1..=count)
            .map(|sequence| {
                let blank = make(&disk, sequence, BYTES, |_| Ok(())).unwrap();
                blank.file.write_at(&[u8::try_from(sequence).unwrap(); 100], 0).unwrap();
                blank.file.sync_data().unwrap();
                blank
            })
            .collect();
        let options = LogOptions { segment_bytes: BYTES, ..LogOptions::default() };
        let upkeep = Upkeep::new(Arc::new(disk.clone()), &options, Err(count + 1));
        (disk, upkeep, segments)
    }

    fn names(disk: &SimDisk) -> Vec<u64> {
        disk.list().unwrap().iter().filter_map(|name| segment_sequence(name)).collect()
    }

    fn first_byte(disk: &SimDisk, sequence: u64) -> u8 {
        disk.contents(&segment_name(sequence)).unwrap()[0]
    }

    #[test]
    fn the_oldest_segment_is_used_again() {
        let (disk, upkeep, segments) = used(3);
        upkeep.remove(segments);
        assert!(upkeep.step());
        disk.crash();
        assert_eq!(names(&disk), [2, 3, 4], "the name is durable");
        assert_eq!(first_byte(&disk, 4), 1);
    }

    #[test]
    fn a_segment_that_is_being_read_is_left_as_it_is() {
        let (disk, upkeep, segments) = used(1);
        let reader = Arc::clone(&segments[0].file);
        upkeep.remove(segments);
        assert!(upkeep.step());
        assert_eq!(names(&disk), [1, 2]);
        assert_eq!(first_byte(&disk, 2), 0, "a new one was made");
        drop(reader);
        upkeep.take(0).unwrap();
        assert!(upkeep.step());
        assert_eq!(names(&disk), [2, 3]);
        assert_eq!(first_byte(&disk, 3), 1);
    }

    #[test]
    fn one_of_another_size_is_not_used_again() {
        let (disk, upkeep, segments) = used(1);
        let segment_bytes = 2 * BYTES;
        let upkeep = Upkeep { segment_bytes, ..upkeep };
        upkeep.remove(segments);
        assert!(upkeep.step());
        assert_eq!(disk.contents(&segment_name(2)).unwrap().len() as u64, segment_bytes);
        assert_eq!(names(&disk), [2], "and not kept");
    }

    #[test]
    fn no_more_are_kept_than_may() {
        let (disk, upkeep, segments) = used(9);
        upkeep.remove(segments);
        assert!(upkeep.step());
        assert_eq!(names(&disk), [6, 7, 8, 9, 10]);
        assert_eq!(upkeep.spare_bytes(), 5 * BYTES);
    }

    #[test]
    fn what_is_kept_is_given_up_when_there_is_no_space() {
        let (disk, upkeep, segments) = used(4);
        disk.set_capacity(6 * BYTES);
        upkeep.remove(segments);
        let larger = upkeep.take(5 * BYTES).unwrap();
        assert_eq!(larger.bytes, 5 * BYTES);
        assert_eq!(names(&disk), [5]);
        upkeep.take(7 * BYTES).map(|_| ()).unwrap_err();
    }

    #[test]
    fn a_failure_to_use_one_again_is_tried_again() {
        for fault in 1..=2 {
            let (disk, upkeep, segments) = used(2);
            upkeep.remove(segments);
            disk.fault_at(disk.operations() + fault, crate::disk::storage::Fault::Eio);
            assert!(!upkeep.step());
            assert!(upkeep.step());
            disk.crash();
            assert!(names(&disk).contains(&3), "{:?}", names(&disk));
        }
    }

    #[test]
    fn preparation_is_late_when_the_active_segment_fills_faster() {
        let segment_bytes = LogOptions::SEGMENT_BYTES_MIN;
        let options = LogOptions { segment_bytes, ..LogOptions::default() };
        let disk = SimDisk::new(7, 16 * segment_bytes);
        let upkeep = Upkeep::new(Arc::new(disk), &options, Err(2));
        assert!(!upkeep.is_late(0), "nothing was written yet");
        upkeep.note_active(8_000);
        assert!(upkeep.is_late(9_999));
        assert!(!upkeep.is_late(10_000));
        let blank = upkeep.take(0).unwrap();
        assert_eq!(blank.sequence, 2);
        upkeep.note_active(8_000);
        upkeep.take(0).unwrap();
        assert!(!upkeep.is_late(0), "another segment is active, and empty");
    }
}
