//! The bytes of the log: segment headers, rounds, records.
//!
//! Drawn in `docs/disk-format.md`; this is the only place that knows them.
//! Numbers are little-endian. Nothing here does IO.

use super::{LogEntry, Vote};
use crate::disk::LogId;
use crate::planted::{self, Bug};
use bytes::{Buf, BufMut};
use crc32c::{crc32c, crc32c_append};

pub(super) const FORMAT: u32 = 2;
/// The first round of a segment starts here: the header has a page for itself.
pub(super) const HEADER_BYTES: usize = 4096;
/// The part of the header's page that is written: a sector, so it cannot tear.
pub(super) const HEADER_SECTOR: usize = 512;
const MAGIC: [u8; 8] = *b"KSTN-LOG";

pub(super) const RECORD_HEADER: usize = 16;
/// Ends the header of each record.
const MARK: [u8; 3] = [b'K', b'L', PAD];
/// Fills records up to a multiple of eight, by at least one byte, and ends the
/// header's sector.
const PAD: u8 = 0xA5;
const ID_BYTES: usize = 24;
const ROUND_BODY: usize = 40;
/// Bytes of the record that begins a round.
pub(super) const ROUND_BYTES: usize = RECORD_HEADER + ROUND_BODY + 8;

/// Bytes of the largest payload.
pub(super) const PAYLOAD_BYTES_MAX: usize = 256 * 1024 * 1024;

const ROUND: u8 = 1;
const ENTRY: u8 = 2;
const VOTE: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const COMMITTED: u8 = 6;

/// Records begin at multiples of this.
const ALIGNMENT: usize = 8;

/// Bytes that a record with this body takes.
const fn record_bytes(body: usize) -> usize {
    RECORD_HEADER + (body / ALIGNMENT + 1) * ALIGNMENT
}

/// Bytes that an entry takes.
pub(super) const fn entry_bytes(payload: usize) -> usize {
    record_bytes(ID_BYTES + payload)
}

/// Bytes of the largest record that is not an entry.
pub(super) const CONTROL_BYTES_MAX: usize = record_bytes(8 + ID_BYTES);

/// A place in the log: an offset into a segment's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

impl Position {
    /// Where a record starts that comes `bytes` later.
    pub(super) fn plus(self, bytes: usize) -> Self {
        Self { offset: self.offset + bytes as u64, ..self }
    }

    /// What a record's checksum starts from: one that was written elsewhere never
    /// passes.
    fn seed(self) -> u32 {
        let mut place = [0; 16];
        place[..8].copy_from_slice(&self.segment.to_le_bytes());
        place[8..].copy_from_slice(&self.offset.to_le_bytes());
        crc32c(&place)
    }
}

/// The low half of a round's number, which its records carry.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is meant")]
pub(super) const fn round_tag(round: u64) -> u32 {
    round as u32
}

/// The state of the log where a segment begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) segment: u64,
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// The number of the segment's first round.
    pub(super) round: u64,
    /// The chain of checksums before that round.
    pub(super) chain: u32,
    pub(super) carried: Carried,
}

/// Why a header was not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderFlaw {
    /// All zeros: the segment was never used.
    Blank,
    /// Written by a later version.
    Format(u32),
    /// Anything else.
    Unreadable,
}

fn put_id(out: &mut impl BufMut, id: LogId) {
    out.put_u64_le(id.term);
    out.put_u64_le(id.index);
    out.put_u64_le(id.leader);
}

fn take_id(bytes: &mut &[u8]) -> LogId {
    LogId { term: bytes.get_u64_le(), index: bytes.get_u64_le(), leader: bytes.get_u64_le() }
}

impl Header {
    /// The header's page.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let Carried { vote, committed, purged, last } = self.carried;
        let present = u32::from(vote.is_some())
            | u32::from(vote.is_some_and(|vote| vote.committed)) << 1
            | u32::from(committed.is_some()) << 2
            | u32::from(purged.is_some()) << 3
            | u32::from(last.is_some()) << 4;
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(0);
        out.put_u64_le(self.segment);
        out.put_u64_le(self.bytes);
        out.put_u64_le(self.round);
        out.put_u32_le(self.chain);
        out.put_u32_le(present);
        out.put_u64_le(vote.map_or(0, |vote| vote.term));
        out.put_u64_le(vote.map_or(0, |vote| vote.node));
        for id in [committed, purged, last] {
            put_id(out, id.unwrap_or_default());
        }
        out.resize(start + HEADER_SECTOR - 1, 0);
        out.put_u8(PAD);
        let crc = header_crc(&out[start..start + HEADER_SECTOR]);
        out[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + HEADER_BYTES, 0);
    }

    /// Reads the header of the segment whose contents start with `bytes`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderFlaw> {
        let sector = &bytes[..bytes.len().min(HEADER_SECTOR)];
        if is_zero(sector) {
            return Err(HeaderFlaw::Blank);
        }
        if sector.len() < HEADER_SECTOR {
            return Err(HeaderFlaw::Unreadable);
        }
        let mut rest = &sector[8..];
        let format = rest.get_u32_le();
        let crc = rest.get_u32_le();
        if sector[..8] != MAGIC || crc != header_crc(sector) || format == 0 {
            return Err(HeaderFlaw::Unreadable);
        }
        if format != FORMAT {
            return Err(HeaderFlaw::Format(format));
        }
        let (segment, bytes, round) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
        let (chain, present) = (rest.get_u32_le(), rest.get_u32_le());
        let has = |bit: u32| present >> bit & 1 == 1;
        let vote = Vote { term: rest.get_u64_le(), node: rest.get_u64_le(), committed: has(1) };
        let [committed, purged, last] = std::array::from_fn(|_| take_id(&mut rest));
        let carried = Carried {
            vote: has(0).then_some(vote),
            committed: has(2).then_some(committed),
            purged: has(3).then_some(purged),
            last: has(4).then_some(last),
        };
        Ok(Self { segment, bytes, round, chain, carried })
    }
}

/// The checksum of a header's sector, leaving out the checksum itself.
fn header_crc(sector: &[u8]) -> u32 {
    crc32c_append(crc32c(&sector[..12]), &sector[16..])
}

/// Where the mark of a clean end is kept: the sector after the header's.
pub(super) const END_MARK_AT: usize = HEADER_SECTOR;
const END_MAGIC: [u8; 8] = *b"KSTN-END";
const END_BYTES: usize = 48;

/// Says that a log was closed when everything up to a round was durable. It
/// stays true, so it is left in place when the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndMark {
    pub(super) segment: u64,
    pub(super) round: u64,
    /// Where the next round goes.
    pub(super) offset: u64,
    /// The chain of checksums after the round.
    pub(super) chain: u32,
}

impl EndMark {
    /// The mark's sector.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_SECTOR);
        out.put_slice(&END_MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(0);
        out.put_u64_le(self.segment);
        out.put_u64_le(self.round);
        out.put_u64_le(self.offset);
        out.put_u32_le(self.chain);
        out.put_u32_le(0);
        let crc = header_crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out.resize(HEADER_SECTOR, 0);
        out
    }

    /// Reads the mark of the segment whose contents are `bytes`. One that is not
    /// readable claims nothing.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let sector = bytes.get(END_MARK_AT..END_MARK_AT + END_BYTES)?;
        let mut rest = &sector[8..];
        let (format, crc) = (rest.get_u32_le(), rest.get_u32_le());
        let mark = Self {
            segment: rest.get_u64_le(),
            round: rest.get_u64_le(),
            offset: rest.get_u64_le(),
            chain: rest.get_u32_le(),
        };
        (sector[..8] == END_MAGIC && format == FORMAT && crc == header_crc(sector)).then_some(mark)
    }
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk == &[0; 64]) && rest.iter().all(|byte| *byte == 0)
}

/// A record as it is read. Payloads stay where they are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Round(RoundMark),
    Entry(LogId, &'a [u8]),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    Committed(LogId),
}

/// What begins each round, and says where and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoundMark {
    pub(super) position: Position,
    pub(super) round: u64,
    /// Bytes of the round, from its mark on.
    pub(super) bytes: u32,
    /// Records that follow the mark.
    pub(super) records: u32,
    /// The chain of checksums before this round.
    pub(super) chain: u32,
}

/// Why no record could be read at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordFlaw {
    #[error("zeros")]
    Blank,
    #[error("no record mark")]
    Mark,
    #[error("a length past the end")]
    Length,
    #[error("a checksum that does not match")]
    Checksum,
    #[error("a record of an unknown kind or form")]
    Form,
}

/// A record, and where the next one starts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded<'a> {
    pub(super) record: Record<'a>,
    /// The low half of the number of the round it was written in.
    pub(super) round_tag: u32,
    pub(super) crc: u32,
    pub(super) bytes: usize,
}

/// Reads the record that `bytes` start with, which must have been written at
/// `position`.
pub(super) fn decode(bytes: &[u8], position: Position) -> Result<Decoded<'_>, RecordFlaw> {
    let mut header = bytes.get(..RECORD_HEADER).ok_or(RecordFlaw::Length)?;
    if is_zero(header) {
        return Err(RecordFlaw::Blank);
    }
    if header[13..16] != MARK {
        return Err(RecordFlaw::Mark);
    }
    let crc = header.get_u32_le();
    let body_bytes = header.get_u32_le() as usize;
    let round_tag = header.get_u32_le();
    let kind = header.get_u8();
    if body_bytes > PAYLOAD_BYTES_MAX + ID_BYTES {
        return Err(RecordFlaw::Length);
    }
    let whole = bytes.get(..record_bytes(body_bytes)).ok_or(RecordFlaw::Length)?;
    let sound = crc32c_append(position.seed(), &whole[4..]) == crc;
    if !sound && !planted::is(Bug::AcceptBadChecksum) {
        return Err(RecordFlaw::Checksum);
    }
    let body = &whole[RECORD_HEADER..RECORD_HEADER + body_bytes];
    let record = decode_body(kind, body).ok_or(RecordFlaw::Form)?;
    Ok(Decoded { record, round_tag, crc, bytes: whole.len() })
}

fn decode_body(kind: u8, mut body: &[u8]) -> Option<Record<'_>> {
    let record = match (kind, body.len()) {
        (ROUND, ROUND_BODY) => Record::Round(RoundMark {
            position: Position { segment: body.get_u64_le(), offset: body.get_u64_le() },
            round: body.get_u64_le(),
            bytes: body.get_u32_le(),
            records: body.get_u32_le(),
            chain: body.get_u32_le(),
        }),
        (ENTRY, ID_BYTES..) => Record::Entry(take_id(&mut body), body),
        (VOTE, 24) => Record::Vote(Vote {
            term: body.get_u64_le(),
            node: body.get_u64_le(),
            committed: body.get_u64_le() == 1,
        }),
        (TRUNCATE, 32) => {
            let kept = body.get_u64_le() == 1;
            Record::Truncate(kept.then(|| take_id(&mut body)))
        }
        (PURGE, ID_BYTES) => Record::Purge(take_id(&mut body)),
        (COMMITTED, ID_BYTES) => Record::Committed(take_id(&mut body)),
        _ => return None,
    };
    Some(record)
}

/// Writes one round into a buffer.
pub(super) struct RoundEncoder<'a> {
    out: &'a mut Vec<u8>,
    /// Where the round starts in the buffer.
    start: usize,
    mark: RoundMark,
    chain: u32,
}

impl<'a> RoundEncoder<'a> {
    /// Begins round `round` at `position`.
    pub(super) fn begin(out: &'a mut Vec<u8>, position: Position, round: u64, chain: u32) -> Self {
        let start = out.len();
        // The mark is known when the round is complete.
        out.resize(start + ROUND_BYTES, 0);
        let mark = RoundMark { position, round, bytes: 0, records: 0, chain };
        Self { out, start, mark, chain }
    }

    /// Bytes of the round so far.
    pub(super) fn bytes(&self) -> usize {
        self.out.len() - self.start
    }

    /// Adds an entry, and returns its offset within the round.
    pub(super) fn entry(&mut self, entry: &LogEntry) -> usize {
        let at = self.bytes();
        self.record(ENTRY, ID_BYTES + entry.payload.len(), |out| {
            put_id(out, entry.id);
            out.put_slice(&entry.payload);
        });
        at
    }

    pub(super) fn vote(&mut self, vote: Vote) {
        self.record(VOTE, 24, |out| {
            out.put_u64_le(vote.term);
            out.put_u64_le(vote.node);
            out.put_u64_le(u64::from(vote.committed));
        });
    }

    pub(super) fn truncate(&mut self, kept: Option<LogId>) {
        self.record(TRUNCATE, 8 + ID_BYTES, |out| {
            out.put_u64_le(u64::from(kept.is_some()));
            put_id(out, kept.unwrap_or_default());
        });
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        self.record(PURGE, ID_BYTES, |out| put_id(out, upto));
    }

    pub(super) fn committed(&mut self, id: LogId) {
        self.record(COMMITTED, ID_BYTES, |out| put_id(out, id));
    }

    fn record(&mut self, kind: u8, body_bytes: usize, body: impl FnOnce(&mut Vec<u8>)) {
        let tag = round_tag(self.mark.round);
        let position = self.mark.position.plus(self.bytes());
        let crc = put_record(self.out, position, tag, kind, body_bytes, body);
        self.chain = crc32c_append(self.chain, &crc.to_le_bytes());
        self.mark.records += 1;
    }

    /// Writes the mark, and returns the round's bytes and the new chain.
    pub(super) fn finish(mut self) -> (usize, u32) {
        let bytes = self.bytes();
        self.mark.bytes = u32::try_from(bytes).expect("a round is smaller than 4 GiB");
        let mut encoded = Vec::with_capacity(ROUND_BYTES);
        let mark = self.mark;
        let tag = round_tag(mark.round);
        let crc = put_record(&mut encoded, mark.position, tag, ROUND, ROUND_BODY, |out| {
            out.put_u64_le(mark.position.segment);
            out.put_u64_le(mark.position.offset);
            out.put_u64_le(mark.round);
            out.put_u32_le(mark.bytes);
            out.put_u32_le(mark.records);
            out.put_u32_le(mark.chain);
            out.put_u32_le(0);
        });
        self.out[self.start..self.start + ROUND_BYTES].copy_from_slice(&encoded);
        (bytes, crc32c_append(self.chain, &crc.to_le_bytes()))
    }
}

/// Appends one record, and returns its checksum.
fn put_record(
    out: &mut Vec<u8>,
    position: Position,
    round_tag: u32,
    kind: u8,
    body_bytes: usize,
    body: impl FnOnce(&mut Vec<u8>),
) -> u32 {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u32_le(u32::try_from(body_bytes).expect("payloads are bounded"));
    out.put_u32_le(round_tag);
    out.put_u8(kind);
    out.put_slice(&MARK);
    body(out);
    out.resize(start + record_bytes(body_bytes), PAD);
    let crc = crc32c_append(position.seed(), &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// A round that was read.
pub(super) struct Round<'a> {
    pub(super) bytes: usize,
    /// The chain after it.
    pub(super) chain: u32,
    /// Its records, each with its offset within the round and its bytes.
    pub(super) records: Vec<(usize, usize, Record<'a>)>,
}

/// What is wrong with a round, and how far into it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RoundFlaw {
    /// From the round's start.
    pub(super) at: usize,
    pub(super) found: String,
    /// The mark, if it is readable.
    pub(super) mark: Option<RoundMark>,
}

/// Reads the round that `bytes` start with, and which must be `expected` (of
/// which `bytes` and `records` are not looked at). All or nothing.
pub(super) fn decode_round(bytes: &[u8], expected: RoundMark) -> Result<Round<'_>, RoundFlaw> {
    let start = expected.position;
    let flaw = |at, found: String, mark| RoundFlaw { at, found, mark };
    let first = decode(bytes, start).map_err(|found| flaw(0, found.to_string(), None))?;
    let Record::Round(mark) = first.record else {
        return Err(flaw(0, "a record outside of a round".to_owned(), None));
    };
    let wanted = RoundMark { bytes: mark.bytes, records: mark.records, ..expected };
    if mark != wanted {
        return Err(flaw(0, format!("another round: {mark:?}"), Some(mark)));
    }
    let Some(whole) = bytes.get(..mark.bytes as usize) else {
        return Err(flaw(0, "a round past the end".to_owned(), Some(mark)));
    };
    let mut chain = mark.chain;
    let mut records = Vec::with_capacity(mark.records as usize);
    let mut at = first.bytes;
    while at < whole.len() {
        let next = decode(&whole[at..], start.plus(at))
            .map_err(|found| flaw(at, found.to_string(), Some(mark)))?;
        if next.round_tag != round_tag(mark.round) {
            return Err(flaw(at, "a record of another round".to_owned(), Some(mark)));
        }
        chain = crc32c_append(chain, &next.crc.to_le_bytes());
        records.push((at, next.bytes, next.record));
        at += next.bytes;
    }
    if records.len() != mark.records as usize {
        return Err(flaw(at, format!("{} records", records.len()), Some(mark)));
    }
    let chain = crc32c_append(chain, &first.crc.to_le_bytes());
    Ok(Round { bytes: at, chain, records })
}
