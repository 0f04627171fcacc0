//! Opening a log: what is there, what a crash tore, and what is damage.
//!
//! Rounds follow each other by number and by a chain of checksums, and each is
//! written only after the one before it was synced. So at most one round can be
//! torn, the last, and it was never acknowledged. A place that cannot be read is
//! taken for the torn round, or for the end, only if nothing speaks against it:
//!
//! * no later round and no later segment was begun, and the log was not closed
//!   after it;
//! * a sector of it is missing. A disk writes a sector whole or not at all, and
//!   each carries the stamp of the last round that wrote to it (see `sectors`): a
//!   sector that did not arrive is blank or carries the stamp of an older round,
//!   be it of this segment or of what its file was before. If instead each
//!   sector was written and the checksum is wrong, or a stamp is none, a bit has
//!   rotted in what may have been acknowledged.
//!
//! Nothing is changed on the disk before all of it was judged.

use super::format::{
    self, Carried, EndMark, HEADER_BYTES, HEADER_SECTOR, Header, HeaderFlaw, Position, ROUND_BYTES,
    Record, Round, RoundFlaw, RoundMark,
};
use super::index::{Index, Place, SegmentPlaces};
use super::sectors::{Stream, file_offset};
use super::upkeep::{self, Blank, segment_name, segment_sequence};
use super::writer::Active;
use super::{Damage, LogOptions, OpenError, Recovered};
use crate::disk::LogId;
use crate::disk::storage::{PAGE_BYTES, SECTOR_BYTES, Storage, StorageFile};
use crate::planted::{self, Bug};
use std::sync::Arc;

/// An opened log.
pub(super) struct Opened {
    pub(super) now: Recovered,
    pub(super) index: Index,
    pub(super) active: Active,
    /// The segment after the active one, or its sequence.
    pub(super) next: Result<Blank, u64>,
    pub(super) dead: Vec<Blank>,
}

/// The files of a log, sorted out.
struct Files {
    /// Segments with contents, without a gap, up to the newest.
    used: Vec<Blank>,
    /// The segment after them, if it is there.
    spare: Option<Blank>,
    /// Segments before those, in which nothing is left.
    dead: Vec<Blank>,
    /// Segments before a gap: their removal was under way.
    strays: Vec<u64>,
}

pub(super) fn open(storage: &Arc<dyn Storage>, options: &LogOptions) -> Result<Opened, OpenError> {
    check(options)?;
    upkeep::remove_unfinished(&**storage)
        .and_then(|()| storage.sync_dir())
        .map_err(OpenError::io("syncing the directory"))?;
    let files = sort_out(&**storage)?;
    let mut replay = Replay::default();
    let newest = files.used.last().map(|segment| segment.sequence);
    for segment in &files.used {
        replay.segment(segment, Some(segment.sequence) == newest)?;
    }
    if let Some(spare) = &files.spare {
        replay.spare(spare)?;
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
    replay.repair()?;
    // One that is not whole was being made, and will be again.
    let whole = |spare: &Blank| spare.bytes >= options.segment_bytes;
    let files = Files { spare: files.spare.filter(whole), ..files };
    if files.used.is_empty() {
        return create(&**storage, options, files.spare);
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
    let page = Vec::new();
    let active = Active { segment, position: 0, round: 0, chain: 0, page, carried };
    Ok(Opened {
        now: Recovered::default(),
        index: Index::default(),
        active,
        next: Err(2),
        dead: Vec::new(),
    })
}

fn sort_out(storage: &dyn Storage) -> Result<Files, OpenError> {
    let names = storage.list().map_err(OpenError::io("listing segments"))?;
    let mut found: Vec<u64> = names.iter().filter_map(|name| segment_sequence(name)).collect();
    found.sort_unstable();
    let mut unused: Vec<Blank> = Vec::new();
    let mut used: Vec<Blank> = Vec::new();
    let mut dead: Vec<Blank> = Vec::new();
    let mut strays = Vec::new();
    let mut purged = None;
    let mut above_is_enough = false;
    for sequence in found.into_iter().rev() {
        let above = dead.last().or(used.last());
        if above.is_some_and(|above| above.sequence != sequence + 1) || !strays.is_empty() {
            strays.push(sequence);
            continue;
        }
        let segment = open_segment(storage, sequence)?;
        if above_is_enough {
            dead.push(segment);
            continue;
        }
        if used.len() < 2 {
            past_the_cache(&segment)?;
        }
        let header = read_header(&segment)?;
        if used.is_empty() && is_unused(&header, sequence) {
            unused.push(segment);
            continue;
        }
        if let Ok(Header { carried, .. }) = header {
            purged = purged.or(carried.purged);
            // What it carries is all that counts of what was before it.
            above_is_enough = purged.is_some_and(|purged: LogId| {
                carried.last.is_none_or(|last| last.index <= purged.index)
            });
        }
        used.push(segment);
    }
    used.reverse();
    dead.reverse();
    strays.reverse();
    let spare = first_spare(&used, unused)?;
    Ok(Files { used, spare, dead, strays })
}

/// Of the unused segments, newest first, the one that follows those in use.
fn first_spare(used: &[Blank], mut unused: Vec<Blank>) -> Result<Option<Blank>, OpenError> {
    unused.reverse();
    let first = used.last().map_or(1, |segment| segment.sequence + 1);
    if let Some((expected, _)) =
        (first..).zip(&unused).find(|(expected, segment)| segment.sequence != *expected)
    {
        return Err(Damage {
            segment: segment_name(expected),
            offset: 0,
            expected: "a segment, since a later one was prepared".to_owned(),
            found: "no file".to_owned(),
        }
        .into());
    }
    Ok(unused.into_iter().next())
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

fn read_header(segment: &Blank) -> Result<Result<Header, HeaderFlaw>, OpenError> {
    let length = segment.bytes.min(HEADER_BYTES as u64);
    let mut page = vec![0; usize::try_from(length).unwrap_or(HEADER_BYTES)];
    read(segment, &mut page, 0)?;
    Ok(Header::decode(&page))
}

/// Whether a segment has no header of its own: the one that it has is blank, or
/// of an earlier life of the file. A round may have been torn in it, see
/// [`Replay::spare`].
fn is_unused(header: &Result<Header, HeaderFlaw>, sequence: u64) -> bool {
    match header {
        Ok(header) => header.segment < sequence,
        Err(flaw) => *flaw == HeaderFlaw::Blank,
    }
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
    /// Where the newest segment's stream ends.
    position: u64,
    /// What is to be written where, to take back a round that was torn.
    repairs: Vec<Repair>,
}

/// Bytes to be written to a file.
struct Repair {
    sequence: u64,
    file: Arc<dyn StorageFile>,
    offset: u64,
    bytes: Vec<u8>,
}

impl Replay {
    fn segment(&mut self, segment: &Blank, newest: bool) -> Result<(), OpenError> {
        let contents = Contents::read(segment, newest)?;
        self.header(&contents)?;
        let places = SegmentPlaces::new(segment.sequence, Arc::clone(&segment.file), segment.bytes);
        self.index.add_segment(places);
        let mut at = HEADER_BYTES;
        while let Some(round) = self.next_round(&contents, at)? {
            self.apply(&round, at);
            at += round.bytes;
        }
        if let Some(end) = contents.end_mark()
            && end.round > self.round
        {
            let found = format!("none, though the log was closed after round {}", end.round);
            return Err(contents.damage(at, format!("round {}", self.round + 1), found).into());
        }
        self.position = at as u64;
        if newest {
            self.take_back(segment, &contents, at);
        }
        Ok(())
    }

    /// Looks at the segment after the newest. Its header was never written, so
    /// nothing in it was acknowledged; but its first round may have been torn.
    fn spare(&mut self, segment: &Blank) -> Result<(), OpenError> {
        let contents = Contents::read(segment, true)?;
        if contents.bytes().len() < HEADER_BYTES {
            return Ok(());
        }
        contents.refuse_later_rounds(HEADER_BYTES, self.round + 1)?;
        if contents.end_mark().is_some() {
            let found = "none, though the log was closed in it";
            return Err(contents.damage(0, "a segment header", found).into());
        }
        self.take_back(segment, &contents, HEADER_BYTES);
        Ok(())
    }

    /// Plans to take back what a torn round left behind at `at`.
    fn take_back(&mut self, segment: &Blank, contents: &Contents, at: usize) {
        let torn = self.round + 1;
        if let Some((offset, bytes)) = contents.stream.erasure(at, torn, self.round) {
            let file = Arc::clone(&segment.file);
            self.repairs.push(Repair { sequence: segment.sequence, file, offset, bytes });
        }
    }

    fn header(&mut self, contents: &Contents) -> Result<(), OpenError> {
        let header = match Header::decode(contents.bytes()) {
            Ok(header) => header,
            Err(HeaderFlaw::Format(found)) => {
                let segment = segment_name(contents.sequence);
                return Err(OpenError::Format { segment, found, expected: format::FORMAT });
            }
            Err(flaw) => {
                return Err(contents.damage(0, "a segment header", format!("{flaw:?}")).into());
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
            segment: contents.sequence,
            bytes: contents.file_bytes,
            round: self.round + 1,
            chain: self.chain,
            carried: self.carried,
        };
        if header != expected {
            return Err(contents.damage(0, format!("{expected:?}"), format!("{header:?}")).into());
        }
        Ok(())
    }

    /// The round at `at`, or nothing if the segment ends there.
    fn next_round<'a>(
        &mut self,
        contents: &'a Contents,
        at: usize,
    ) -> Result<Option<Round<'a>>, OpenError> {
        let expected = RoundMark {
            position: contents.position(at),
            round: self.round + 1,
            bytes: 0,
            records: 0,
            chain: self.chain,
        };
        let flaw = match contents.round(at, expected) {
            Ok(round) => {
                self.round += 1;
                self.chain = round.chain;
                return Ok(Some(round));
            }
            Err(flaw) => flaw,
        };
        contents.refuse_damage(at, &flaw, expected)?;
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

    /// All is judged: takes back what was torn, durably.
    fn repair(&mut self) -> Result<(), OpenError> {
        for Repair { sequence, file, offset, bytes } in self.repairs.drain(..) {
            let doing = format!("repairing {}", segment_name(sequence));
            file.write_at(&bytes, offset)
                .and_then(|()| file.sync_data())
                .map_err(OpenError::io(doing))?;
        }
        Ok(())
    }

    /// Says how to go on.
    fn finish(mut self, storage: &dyn Storage, mut files: Files) -> Result<Opened, OpenError> {
        let segment = files.used.pop().expect("there is a segment in use");
        if planted::is(Bug::LoseLogTail)
            && let Some(last) = self.carried.last
            && self.index.purged.is_none_or(|purged| purged.index + 1 < last.index)
        {
            let kept = last.index.checked_sub(1).map(|index| LogId { index, ..last });
            self.index.truncate(kept);
            self.carried.last = self.index.last;
        }
        let next = files.spare.ok_or(segment.sequence + 1);
        for stray in files.strays {
            let name = segment_name(stray);
            storage.remove(&name).map_err(OpenError::io(format!("removing {name}")))?;
        }
        let Carried { vote, committed, purged, last } = self.carried;
        let end = file_offset(self.position);
        let within = end % PAGE_BYTES as u64;
        let mut page = vec![0; usize::try_from(within).unwrap_or(PAGE_BYTES)];
        read(&segment, &mut page, end - within)?;
        let mut dead = files.dead;
        dead.extend(self.index.take_dead().into_iter().map(Blank::from));
        let active = Active {
            segment,
            position: self.position,
            round: self.round,
            chain: self.chain,
            page,
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

/// A segment's contents while it is judged.
struct Contents {
    sequence: u64,
    file_bytes: u64,
    stream: Stream,
    /// Whether nothing was ever acknowledged in a later segment.
    newest: bool,
}

impl Contents {
    fn read(segment: &Blank, newest: bool) -> Result<Self, OpenError> {
        let mut contents = vec![0; usize::try_from(segment.bytes).unwrap_or(usize::MAX)];
        read(segment, &mut contents, 0)?;
        let stream = Stream::new(contents);
        Ok(Self { sequence: segment.sequence, file_bytes: segment.bytes, stream, newest })
    }

    /// The header's page and the stream.
    fn bytes(&self) -> &[u8] {
        &self.stream.bytes
    }

    /// The round at `at`. All or nothing.
    fn round(&self, at: usize, expected: RoundMark) -> Result<Round<'_>, RoundFlaw> {
        let round = format::decode_round(self.bytes().get(at..).unwrap_or_default(), expected)?;
        if self.stream.is_whole(&(at..at + round.bytes), expected.round) {
            return Ok(round);
        }
        let mark = RoundMark { bytes: u32::try_from(round.bytes).unwrap_or(u32::MAX), ..expected };
        let found = "a sector that was not written with it".to_owned();
        Err(RoundFlaw { at: 0, found, mark: Some(mark) })
    }

    fn end_mark(&self) -> Option<EndMark> {
        EndMark::decode(self.bytes()).filter(|mark| mark.segment == self.sequence)
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
            offset: file_offset(offset as u64),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// Fails unless the flaw at `at` can only be the end, or what a crash tore.
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
        self.refuse_later_rounds(at, expected.round)?;
        let length = match flaw.mark {
            Some(mark) if (mark.round, mark.chain) != (expected.round, expected.chain) => {
                return damage("which was written here in no order");
            }
            Some(mark) => mark.bytes as usize,
            None => ROUND_BYTES,
        };
        let range = at..at + length;
        let at_end = at + ROUND_BYTES > self.bytes().len();
        if !at_end && !self.stream.is_missing(&range, expected.round) {
            return damage("though all of it was written");
        }
        if !self.newest && self.stream.has(at, expected.round) {
            return damage("and a later segment was begun after this was durable");
        }
        Ok(())
    }

    /// Fails if a round after `round` was written at or after `from`.
    fn refuse_later_rounds(&self, from: usize, round: u64) -> Result<(), Damage> {
        let Some(at) = self.stream.later_round(from, round) else { return Ok(()) };
        let at = file_offset(at as u64);
        let found = format!("nothing readable, but a later round at {at}");
        Err(self.damage(from, format!("round {round}"), found))
    }
}

// A header is written whole or not at all.
const _: () = assert!(HEADER_SECTOR == SECTOR_BYTES);
