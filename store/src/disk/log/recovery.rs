//! Opening a log: what is there, what a crash tore, and what is damage.
//!
//! Rounds follow each other by number and by a chain of checksums, and each is
//! written only after the one before it was synced. So at most one round can be
//! torn, the last, and it was never acknowledged. A place that cannot be read is
//! taken for the torn round only if nothing speaks against it:
//!
//! * no later round and no later segment was begun, and the log was not closed
//!   after it;
//! * bytes of it are missing. A disk writes a sector whole or not at all, and
//!   all of it was zero before, so a torn round shows a stretch of zeros within
//!   a sector or lacks its last byte, which is never zero. If instead every
//!   part of it was written and the checksum is wrong, a bit has rotted in what
//!   may have been acknowledged.
//!
//! Nothing is changed on the disk before all of it was judged.

use super::format::{
    self, Carried, EndMark, HEADER_BYTES, HEADER_SECTOR, Header, HeaderFlaw, Position, ROUND_BYTES,
    Record, Round, RoundFlaw, RoundMark, is_zero,
};
use super::index::{Index, Place, SegmentPlaces};
use super::upkeep::{self, Blank, segment_name, segment_sequence};
use super::writer::Active;
use super::{Damage, LogOptions, OpenError, Recovered};
use crate::disk::LogId;
use crate::disk::storage::{SECTOR_BYTES, Storage, StorageFile};
use crate::planted::{self, Bug};
use std::sync::Arc;

/// Bytes read or zeroed at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// An opened log.
pub(super) struct Opened {
    pub(super) now: Recovered,
    pub(super) index: Index,
    pub(super) active: Active,
    /// The segment after the active one, or its sequence.
    pub(super) next: Result<Blank, u64>,
    pub(super) dead: Vec<SegmentPlaces>,
}

/// The files of a log, sorted out.
struct Files {
    /// Segments with contents, without a gap, up to the newest.
    used: Vec<Blank>,
    /// The segment after them, if it is there and whole.
    spare: Option<Blank>,
    /// Segments before a gap: their removal was under way.
    strays: Vec<u64>,
}

pub(super) fn open(storage: &Arc<dyn Storage>, options: &LogOptions) -> Result<Opened, OpenError> {
    check(options)?;
    upkeep::remove_unfinished(&**storage)
        .and_then(|()| storage.sync_dir())
        .map_err(OpenError::io("syncing the directory"))?;
    let files = sort_out(&**storage, options)?;
    if files.used.is_empty() {
        return create(&**storage, options, files.spare);
    }
    let mut replay = Replay::default();
    let newest = files.used.len() - 1;
    for (at, segment) in files.used.iter().enumerate() {
        replay.segment(segment, at == newest)?;
    }
    if let Some(index) = replay.index.missing() {
        let first = &files.used[0];
        return Err(Damage {
            segment: segment_name(first.sequence),
            offset: 0,
            expected: format!("an earlier segment with the entry of index {index}"),
            found: "none".to_owned(),
        }
        .into());
    }
    replay.finish(&**storage, files)
}

fn check(options: &LogOptions) -> Result<(), OpenError> {
    if options.segment_bytes < LogOptions::SEGMENT_BYTES_MIN {
        return Err(OpenError::Option {
            option: "segment_bytes",
            actual: options.segment_bytes,
            least: LogOptions::SEGMENT_BYTES_MIN,
        });
    }
    Ok(())
}

/// The first segment of a new log.
fn create(
    storage: &dyn Storage,
    options: &LogOptions,
    spare: Option<Blank>,
) -> Result<Opened, OpenError> {
    let segment = match spare {
        Some(blank) => blank,
        None => upkeep::make(storage, 1, options.segment_bytes, |_| Ok(()))
            .map_err(OpenError::io("creating the first segment"))?,
    };
    let carried = Carried::default();
    let active = Active { segment, position: 0, round: 0, chain: 0, carried };
    Ok(Opened {
        now: Recovered::default(),
        index: Index::default(),
        active,
        next: Err(2),
        dead: Vec::new(),
    })
}

fn sort_out(storage: &dyn Storage, options: &LogOptions) -> Result<Files, OpenError> {
    let names = storage.list().map_err(OpenError::io("listing segments"))?;
    let mut found: Vec<u64> = names.iter().filter_map(|name| segment_sequence(name)).collect();
    found.sort_unstable();
    let mut blank: Vec<Blank> = Vec::new();
    let mut used: Vec<Blank> = Vec::new();
    let mut strays = Vec::new();
    for sequence in found.into_iter().rev() {
        if used.last().is_some_and(|above| above.sequence != sequence + 1) || !strays.is_empty() {
            strays.push(sequence);
            continue;
        }
        let segment = open_segment(storage, sequence)?;
        if used.len() < 2 {
            past_the_cache(&segment)?;
        }
        if used.is_empty() && is_blank(&segment)? {
            blank.push(segment);
        } else {
            used.push(segment);
        }
    }
    used.reverse();
    strays.reverse();
    let spare = first_spare(&used, blank, options)?;
    Ok(Files { used, spare, strays })
}

/// Of the blank segments, newest first, the one that follows those in use, if it
/// is whole. Others were being prepared, and will be again.
fn first_spare(
    used: &[Blank],
    mut blank: Vec<Blank>,
    options: &LogOptions,
) -> Result<Option<Blank>, OpenError> {
    blank.reverse();
    let first = used.last().map_or(1, |segment| segment.sequence + 1);
    if let Some((expected, _)) =
        (first..).zip(&blank).find(|(expected, segment)| segment.sequence != *expected)
    {
        return Err(Damage {
            segment: segment_name(expected),
            offset: 0,
            expected: "a segment, since a later one was prepared".to_owned(),
            found: "no file".to_owned(),
        }
        .into());
    }
    let spare = blank.into_iter().next();
    Ok(spare.filter(|segment| segment.bytes >= options.segment_bytes))
}

fn open_segment(storage: &dyn Storage, sequence: u64) -> Result<Blank, OpenError> {
    let name = segment_name(sequence);
    let file = storage.open(&name).map_err(OpenError::io(format!("opening {name}")))?;
    let bytes = file.len().map_err(OpenError::io(format!("measuring {name}")))?;
    Ok(Blank { sequence, file, bytes })
}

/// Makes durable what the last process may have left in the cache, and makes
/// sure that what is read next comes from the disk: after a failed sync the
/// cache shows what the disk does not have.
fn past_the_cache(segment: &Blank) -> Result<(), OpenError> {
    let doing = || format!("syncing {}", segment_name(segment.sequence));
    segment.file.sync_data().map_err(OpenError::io(doing()))?;
    segment.file.drop_cache().map_err(OpenError::io(doing()))
}

fn is_blank(segment: &Blank) -> Result<bool, OpenError> {
    let mut piece = Vec::new();
    let mut at = 0;
    while at < segment.bytes {
        let length =
            usize::try_from(segment.bytes - at).map_or(PIECE_BYTES, |n| n.min(PIECE_BYTES));
        piece.resize(length, 0);
        read(segment, &mut piece, at)?;
        if !is_zero(&piece) {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}

fn read(segment: &Blank, buffer: &mut [u8], offset: u64) -> Result<(), OpenError> {
    let name = segment_name(segment.sequence);
    segment.file.read_at(buffer, offset).map_err(OpenError::io(format!("reading {name}")))
}

/// The log as its segments are read, oldest first.
#[derive(Default)]
struct Replay {
    index: Index,
    carried: Carried,
    round: u64,
    chain: u32,
    started: bool,
    /// Where the newest segment ends; none of it is in use if this is 0.
    position: u64,
    /// Where the newest segment has something that must go.
    torn: Option<std::ops::Range<u64>>,
}

impl Replay {
    fn segment(&mut self, segment: &Blank, newest: bool) -> Result<(), OpenError> {
        let mut contents = vec![0; usize::try_from(segment.bytes).unwrap_or(usize::MAX)];
        read(segment, &mut contents, 0)?;
        let pages = Contents { sequence: segment.sequence, bytes: &contents, newest };
        if !self.header(&pages)? {
            return Ok(());
        }
        let places = SegmentPlaces::new(segment.sequence, Arc::clone(&segment.file), segment.bytes);
        self.index.add_segment(places);
        let mut at = HEADER_BYTES;
        while let Some(round) = self.next_round(&pages, at)? {
            self.apply(&round, at);
            at += round.bytes;
        }
        if let Some(end) = pages.end_mark()
            && end.round > self.round
        {
            let found = format!("none, though the log was closed after round {}", end.round);
            return Err(pages.damage(at, format!("round {}", self.round + 1), found).into());
        }
        self.position = at as u64;
        Ok(())
    }

    /// Reads the header. `false` if the segment was torn before it was in use.
    fn header(&mut self, pages: &Contents<'_>) -> Result<bool, OpenError> {
        let header = match Header::decode(pages.bytes) {
            Ok(header) => header,
            Err(HeaderFlaw::Format(found)) => {
                let segment = segment_name(pages.sequence);
                return Err(OpenError::Format { segment, found, expected: format::FORMAT });
            }
            Err(flaw) => {
                let known = self.started || pages.sequence == 1;
                let cut = flaw != HeaderFlaw::Unreadable && pages.end_mark().is_none();
                if pages.newest && known && cut {
                    pages.refuse_later_rounds(0, self.round + 1)?;
                    self.position = 0;
                    self.torn = Some(0..pages.contents_end());
                    return Ok(false);
                }
                return Err(pages.damage(0, "a segment header", format!("{flaw:?}")).into());
            }
        };
        let Carried { purged, last, .. } = header.carried;
        if !self.started {
            self.index = Index::starting(purged, last);
            self.carried = header.carried;
            self.round = header.round.saturating_sub(1);
            self.chain = header.chain;
            self.started = true;
        }
        let expected = Header {
            segment: pages.sequence,
            bytes: pages.bytes.len() as u64,
            round: self.round + 1,
            chain: self.chain,
            carried: self.carried,
        };
        if header != expected {
            return Err(pages.damage(0, format!("{expected:?}"), format!("{header:?}")).into());
        }
        Ok(true)
    }

    /// The round at `at`, or nothing if the segment ends there.
    fn next_round<'a>(
        &mut self,
        pages: &Contents<'a>,
        at: usize,
    ) -> Result<Option<Round<'a>>, OpenError> {
        let expected = RoundMark {
            position: pages.position(at),
            round: self.round + 1,
            bytes: 0,
            records: 0,
            chain: self.chain,
        };
        let rest = &pages.bytes[at..];
        let flaw = match format::decode_round(rest, expected) {
            Ok(round) => {
                self.round += 1;
                self.chain = round.chain;
                return Ok(Some(round));
            }
            Err(flaw) => flaw,
        };
        let end = pages.contents_end();
        if end <= at as u64 {
            return Ok(None);
        }
        pages.refuse_damage(at, &flaw, expected)?;
        self.torn = Some(at as u64..end);
        Ok(None)
    }

    fn apply(&mut self, round: &Round<'_>, round_at: usize) {
        for (at, bytes, record) in &round.records {
            match *record {
                Record::Entry(id, _) => {
                    self.carried.last = Some(id);
                    self.index.append(id, place(round_at + at, *bytes));
                }
                Record::Vote(vote) => self.carried.vote = Some(vote),
                Record::Truncate(kept) => {
                    self.index.truncate(kept);
                    self.carried.last = self.index.last;
                }
                Record::Purge(upto) => {
                    self.index.purge(upto);
                    self.carried.purged = self.index.purged;
                    self.carried.last = self.index.last;
                }
                Record::Committed(id) => self.carried.committed = Some(id),
                Record::Round(_) => {}
            }
        }
    }

    /// All is judged: repairs what was torn, and says how to go on.
    fn finish(mut self, storage: &dyn Storage, mut files: Files) -> Result<Opened, OpenError> {
        let mut segment = files.used.pop().expect("there is a segment in use");
        if let Some(torn) = self.torn {
            let name = segment_name(segment.sequence);
            erase(&*segment.file, torn).map_err(OpenError::io(format!("repairing {name}")))?;
        }
        if planted::is(Bug::LoseLogTail)
            && let Some(last) = self.carried.last
            && self.index.purged.is_none_or(|purged| purged.index + 1 < last.index)
        {
            let kept = last.index.checked_sub(1).map(|index| LogId { index, ..last });
            self.index.truncate(kept);
            self.carried.last = self.index.last;
        }
        let mut next = files.spare.ok_or(segment.sequence + 1);
        if self.position == 0
            && let Some(before) = files.used.pop()
        {
            // The newest segment was torn before anything in it was durable. The
            // one before it is full, so the writer will come back to this one.
            next = Ok(segment);
            self.position = before.bytes;
            segment = before;
        }
        for stray in files.strays {
            let name = segment_name(stray);
            storage.remove(&name).map_err(OpenError::io(format!("removing {name}")))?;
        }
        let Carried { vote, committed, purged, last } = self.carried;
        let dead = self.index.take_dead();
        let active = Active {
            segment,
            position: self.position,
            round: self.round,
            chain: self.chain,
            carried: self.carried,
        };
        Ok(Opened {
            now: Recovered { vote, committed, purged, last },
            index: self.index,
            active,
            next,
            dead,
        })
    }
}

fn place(offset: usize, bytes: usize) -> Place {
    let number = |n: usize| u32::try_from(n).expect("segments are smaller than 4 GiB");
    Place { offset: number(offset), bytes: number(bytes) }
}

/// Overwrites a range with zeros, durably.
fn erase(file: &dyn StorageFile, range: std::ops::Range<u64>) -> std::io::Result<()> {
    let zeros = vec![0; PIECE_BYTES];
    let mut at = range.start;
    while at < range.end {
        let length =
            usize::try_from(range.end - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        file.write_at(&zeros[..length], at)?;
        at += length as u64;
    }
    file.sync_data()
}

/// A segment's contents while it is judged.
struct Contents<'a> {
    sequence: u64,
    bytes: &'a [u8],
    /// Whether nothing was ever written to a later segment.
    newest: bool,
}

impl Contents<'_> {
    /// Where the zeros at the end begin.
    fn contents_end(&self) -> u64 {
        self.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
    }

    fn end_mark(&self) -> Option<EndMark> {
        EndMark::decode(self.bytes).filter(|mark| mark.segment == self.sequence)
    }

    fn position(&self, at: usize) -> Position {
        Position { segment: self.sequence, offset: at as u64 }
    }

    fn damage(
        &self,
        offset: usize,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Damage {
        Damage {
            segment: segment_name(self.sequence),
            offset: offset as u64,
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// Fails unless the flaw at `at` can only be the end of what a crash tore.
    fn refuse_damage(
        &self,
        at: usize,
        flaw: &RoundFlaw,
        expected: RoundMark,
    ) -> Result<(), Damage> {
        let wanted = format!("round {}", expected.round);
        let damage = |why: &str| {
            let found = format!("{}, {why}", flaw.found);
            Err(self.damage(at + flaw.at, wanted.clone(), found))
        };
        if !self.newest {
            return damage("and a later segment was begun after this was durable");
        }
        self.refuse_later_rounds(at, expected.round)?;
        let length = match flaw.mark {
            Some(mark) if (mark.round, mark.chain) != (expected.round, expected.chain) => {
                return damage("which was written here in no order");
            }
            Some(mark) => mark.bytes as usize,
            None => ROUND_BYTES,
        };
        if self.fully_written(at, at + length) {
            return damage("though all of it was written");
        }
        Ok(())
    }

    /// Fails if there is a record of a round after `round` at or after `from`.
    fn refuse_later_rounds(&self, from: usize, round: u64) -> Result<(), Damage> {
        let start = from.max(HEADER_BYTES);
        for at in (start..self.bytes.len()).step_by(format::ALIGNMENT) {
            let rest = &self.bytes[at..];
            if format::looks_like_record(rest)
                && let Ok(record) = format::decode(rest, self.position(at))
                && format::is_later(record.round_tag, round)
            {
                let found = format!("nothing readable, but a record of a later round at {at}");
                return Err(self.damage(from, format!("round {round}"), found));
            }
        }
        Ok(())
    }

    /// Whether no part of a range is missing: see the module.
    fn fully_written(&self, from: usize, to: usize) -> bool {
        let Some(last) = self.bytes.get(to - 1) else { return true };
        let mut at = from;
        while at < to {
            let end = to.min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
            if is_zero(&self.bytes[at..end]) {
                return false;
            }
            at = end;
        }
        *last != 0
    }
}

// A header is written whole or not at all.
const _: () = assert!(HEADER_SECTOR == SECTOR_BYTES);
