//! How the stream of rounds lies in a segment's sectors.
//!
//! Each sector behind the header's page ends with a *stamp* that names the last
//! round that wrote to it. A disk writes a sector whole or not at all, so stamps
//! tell which sectors of a round arrived and which still hold what was there
//! before, be it zeros or what an earlier life of the file left. Therefore a
//! segment can be used again as it is: see the module `recovery`.
//!
//! Offsets into the *stream* leave the stamps out. They start at
//! [`HEADER_BYTES`], as in the file, and are what records, places and rounds are
//! known by; only here are they turned into offsets of the file.

use super::format::HEADER_BYTES;
use crate::disk::storage::{PAGE_BYTES, PageBuffer, SECTOR_BYTES};
use crc32c::crc32c;
use std::ops::Range;

const STAMP_BYTES: usize = 12;
/// Bytes of the stream in each sector.
const ROOM: usize = SECTOR_BYTES - STAMP_BYTES;

const fn u64_of(n: usize) -> u64 {
    n as u64
}

/// The offset in the file of an offset of the stream.
pub(super) const fn file_offset(offset: u64) -> u64 {
    let Some(behind) = offset.checked_sub(u64_of(HEADER_BYTES)) else { return offset };
    let (sector, within) = (behind / u64_of(ROOM), behind % u64_of(ROOM));
    u64_of(HEADER_BYTES) + sector * u64_of(SECTOR_BYTES) + within
}

/// Where the stream of a file of `bytes` ends.
pub(super) const fn stream_end(bytes: u64) -> u64 {
    let Some(behind) = bytes.checked_sub(u64_of(HEADER_BYTES)) else { return 0 };
    u64_of(HEADER_BYTES) + behind / u64_of(SECTOR_BYTES) * u64_of(ROOM)
}

/// Bytes of the smallest file of whole pages whose stream ends at `end` or later.
pub(super) const fn file_bytes(end: u64) -> u64 {
    let behind = end.saturating_sub(u64_of(HEADER_BYTES));
    let sectors = behind.div_ceil(u64_of(ROOM));
    (u64_of(HEADER_BYTES) + sectors * u64_of(SECTOR_BYTES)).next_multiple_of(u64_of(PAGE_BYTES))
}

/// The range of the file in which a range of the stream lies. Neither may be
/// empty.
pub(super) const fn file_range(stream: &Range<u64>) -> Range<u64> {
    file_offset(stream.start)..file_offset(stream.end - 1) + 1
}

/// The number of the sector, counted from the header's page on, in which an
/// offset of the stream lies.
const fn sector_of(offset: usize) -> usize {
    (offset - HEADER_BYTES) / ROOM
}

/// Where a sector starts in the file.
const fn sector_at(sector: usize) -> usize {
    HEADER_BYTES + sector * SECTOR_BYTES
}

/// The stamp of a round on the sector that starts at `at` in the file: its number,
/// and a checksum of place and number.
fn stamp(round: u64, at: usize) -> [u8; STAMP_BYTES] {
    let mut covered = [0; 16];
    covered[..8].copy_from_slice(&u64_of(at).to_le_bytes());
    covered[8..].copy_from_slice(&round.to_le_bytes());
    let mut stamp = [0; STAMP_BYTES];
    stamp[..8].copy_from_slice(&round.to_le_bytes());
    stamp[8..].copy_from_slice(&crc32c(&covered).to_le_bytes());
    stamp
}

/// Appends to `file` what is to be written there at the file's offset of
/// `offset`: the stream's bytes, with the stamps of the round that writes them,
/// and zeros up to the end of the page.
pub(super) fn lay_out(stream: &[u8], offset: u64, round: u64, file: &mut PageBuffer) {
    let mut at = usize::try_from(file_offset(offset)).expect("segments are in memory on opening");
    let mut rest = stream;
    while !rest.is_empty() {
        let room = ROOM - at % SECTOR_BYTES;
        let (piece, later) = rest.split_at(room.min(rest.len()));
        rest = later;
        file.extend_from_slice(piece);
        file.extend_zeros(room - piece.len());
        let sector = at - at % SECTOR_BYTES;
        file.extend_from_slice(&stamp(round, sector));
        at = sector + SECTOR_BYTES;
    }
    file.extend_zeros(at.next_multiple_of(PAGE_BYTES) - at);
}

/// What a sector's stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    /// Nothing was ever written there.
    Blank,
    /// The number of the round that wrote it last.
    Round(u64),
    /// It has rotted.
    Unreadable,
}

impl Stamp {
    fn read(sector: &[u8], at: usize) -> Self {
        let found = &sector[ROOM..];
        let round = u64::from_le_bytes(found[..8].try_into().unwrap_or_default());
        if found == [0; STAMP_BYTES] {
            Self::Blank
        } else if found == stamp(round, at) {
            Self::Round(round)
        } else {
            Self::Unreadable
        }
    }
}

/// Takes the stamps out of what was read from a file at the file's offset of
/// `offset`.
pub(super) fn strip(file: &mut Vec<u8>, offset: u64) {
    let within = usize::try_from(file_offset(offset) % u64_of(SECTOR_BYTES)).unwrap_or_default();
    let mut kept = (ROOM - within).min(file.len());
    let mut at = SECTOR_BYTES - within;
    while at < file.len() {
        let piece = ROOM.min(file.len() - at);
        file.copy_within(at..at + piece, kept);
        kept += piece;
        at += SECTOR_BYTES;
    }
    file.truncate(kept);
}

/// The contents of a segment, taken apart.
pub(super) struct Stream {
    /// The header's page, then the stream.
    pub(super) bytes: Vec<u8>,
    stamps: Vec<Stamp>,
}

impl Stream {
    /// Takes a file's contents apart.
    pub(super) fn new(mut file: Vec<u8>) -> Self {
        let sectors = file.get(HEADER_BYTES..).unwrap_or_default().chunks_exact(SECTOR_BYTES);
        let stamps: Vec<Stamp> = sectors
            .enumerate()
            .map(|(number, sector)| Stamp::read(sector, sector_at(number)))
            .collect();
        for sector in 0..stamps.len() {
            let at = sector_at(sector);
            file.copy_within(at..at + ROOM, HEADER_BYTES + sector * ROOM);
        }
        file.truncate((HEADER_BYTES + stamps.len() * ROOM).min(file.len()));
        Self { bytes: file, stamps }
    }

    /// The stamps of the sectors in which a range of the stream lies.
    fn stamps(&self, range: &Range<usize>) -> &[Stamp] {
        let end = sector_of(range.end.max(range.start + 1) - 1) + 1;
        &self.stamps[sector_of(range.start).min(self.stamps.len())..end.min(self.stamps.len())]
    }

    /// Whether a range was written by one round as a whole: each of its sectors,
    /// the last of which later rounds may have written again.
    pub(super) fn is_whole(&self, range: &Range<usize>, round: u64) -> bool {
        let Some((last, others)) = self.stamps(range).split_last() else { return false };
        let or_later = matches!(last, Stamp::Round(found) if *found >= round);
        or_later && others.iter().all(|stamp| *stamp == Stamp::Round(round))
    }

    /// Whether some sector of a range still holds what was there before the
    /// round `round`.
    pub(super) fn is_missing(&self, range: &Range<usize>, round: u64) -> bool {
        self.stamps(range).iter().any(|stamp| match stamp {
            Stamp::Blank => true,
            Stamp::Round(found) => *found < round,
            Stamp::Unreadable => false,
        })
    }

    /// Where a later round than `round` wrote to the sector of
    /// `from` or behind it: an offset of the stream.
    pub(super) fn later_round(&self, from: usize, round: u64) -> Option<usize> {
        let first = sector_of(from).min(self.stamps.len());
        let is_later = |stamp: &Stamp| matches!(stamp, Stamp::Round(found) if *found > round);
        let found = self.stamps[first..].iter().position(is_later)?;
        Some(HEADER_BYTES + (first + found) * ROOM)
    }

    /// Whether the round `round` wrote to the sector of `from` or behind it.
    pub(super) fn has(&self, from: usize, round: u64) -> bool {
        let first = sector_of(from).min(self.stamps.len());
        self.stamps[first..].contains(&Stamp::Round(round))
    }

    /// What must be written to take back the round `round` that was torn
    /// at `from`, and where in the file: nothing if nothing of it arrived.
    /// `before` is the round before it.
    pub(super) fn erasure(&self, from: usize, round: u64, before: u64) -> Option<(u64, Vec<u8>)> {
        let first = sector_of(from).min(self.stamps.len());
        let is_of_it = |stamp: &Stamp| *stamp == Stamp::Round(round);
        let until = first + self.stamps[first..].iter().rposition(is_of_it).map_or(0, |at| at + 1);
        let at = sector_at(first);
        let start = HEADER_BYTES + first * ROOM;
        let mut bytes = Vec::new();
        if from > start {
            let rest = &self.bytes[from..start + ROOM];
            if until == first && rest.iter().all(|byte| *byte == 0) {
                return None;
            }
            bytes.extend_from_slice(&self.bytes[start..from]);
            bytes.resize(ROOM, 0);
            bytes.extend_from_slice(&stamp(before, at));
        } else if until == first {
            return None;
        }
        let length = (until - first) * SECTOR_BYTES;
        bytes.resize(length.max(bytes.len()), 0);
        Some((u64_of(at), bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: usize = 64 * 1024;

    /// Writes a round of `length` bytes as the writer does.
    fn write(file: &mut [u8], at: usize, length: usize, number: u64) -> Vec<u8> {
        let round: Vec<u8> =
            (0..length).map(|n| u8::try_from((n * 7 + length) % 251 + 1).unwrap()).collect();
        let mut out = PageBuffer::default();
        out.begin(length * 2);
        lay_out(&round, u64_of(at), number, &mut out);
        let start = usize::try_from(file_offset(u64_of(at))).unwrap();
        file[start..start + out.len()].copy_from_slice(&out);
        assert_eq!((start + out.len()) % PAGE_BYTES, 0);
        round
    }

    proptest! {
        #[test]
        fn what_is_laid_out_is_read_back(
            lengths in prop::collection::vec(1_usize..1500, 1..20),
            first in 1..u64::MAX / 2,
        ) {
            let mut file = vec![0; FILE];
            let (mut at, mut tag) = (HEADER_BYTES, first);
            let mut rounds = Vec::new();
            for length in lengths {
                let length = length * 8;
                // With room for the header of the round after it.
                if stream_end(u64_of(FILE)) < u64_of(at + length + 64) {
                    break;
                }
                let round = write(&mut file, at, length, tag);
                rounds.push((at..at + length, tag, round));
                at += length;
                tag += 1;
            }
            let stream = Stream::new(file.clone());
            for (range, tag, round) in &rounds {
                prop_assert_eq!(&stream.bytes[range.clone()], &round[..]);
                prop_assert!(stream.is_whole(range, *tag));
                prop_assert!(!stream.is_missing(range, *tag));
                let stored = file_range(&(u64_of(range.start)..u64_of(range.end)));
                let stored = usize::try_from(stored.start).unwrap()..usize::try_from(stored.end).unwrap();
                let mut alone = file[stored].to_vec();
                strip(&mut alone, u64_of(range.start));
                prop_assert_eq!(&alone, round);
            }
            prop_assert_eq!(stream.later_round(HEADER_BYTES, tag - 1), None);
            prop_assert!(stream.is_missing(&(at..at + 64), tag));
            prop_assert_eq!(stream.erasure(at, tag, tag - 1), None);
        }

        #[test]
        fn a_torn_round_is_missed_and_taken_back(
            stale in any::<bool>(),
            before in 1_usize..200,
            length in 1_usize..1000,
            kept in any::<u64>(),
        ) {
            let (before, length) = (before * 8, length * 8);
            let mut file = vec![0; FILE];
            if stale {
                // An earlier life: other rounds, at other places.
                write(&mut file, HEADER_BYTES, 20_000, 3);
                write(&mut file, HEADER_BYTES + 20_000, 30_000, 4);
            }
            write(&mut file, HEADER_BYTES, before, 10);
            let intact = file.clone();
            let at = HEADER_BYTES + before;
            let mut whole = file.clone();
            write(&mut whole, at, length, 11);
            let range = at..at + length;
            let changed: Vec<usize> = (0..FILE / SECTOR_BYTES)
                .filter(|sector| {
                    let bytes = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                    whole[bytes.clone()] != file[bytes]
                })
                .collect();
            for (n, sector) in changed.iter().enumerate() {
                if kept >> (n % 64) & 1 == 1 {
                    let bytes = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                    file[bytes.clone()].copy_from_slice(&whole[bytes]);
                }
            }
            let torn = Stream::new(file.clone());
            prop_assert_eq!(torn.is_whole(&range, 11), !torn.is_missing(&range, 11));
            if torn.is_missing(&range, 11) {
                if let Some((start, bytes)) = torn.erasure(at, 11, 10) {
                    let start = usize::try_from(start).unwrap();
                    file[start..start + bytes.len()].copy_from_slice(&bytes);
                }
                let repaired = Stream::new(file);
                let kept = Stream::new(intact);
                prop_assert_eq!(&repaired.bytes[..at], &kept.bytes[..at]);
                prop_assert!(repaired.is_whole(&(HEADER_BYTES..at), 10));
                prop_assert_eq!(repaired.later_round(HEADER_BYTES, 10), None);
                prop_assert_eq!(repaired.erasure(at, 11, 10), None);
            }
        }
    }

    #[test]
    fn sizes_agree() {
        for end in (HEADER_BYTES..200_000).step_by(8) {
            let bytes = file_bytes(u64_of(end));
            assert!(stream_end(bytes) >= u64_of(end));
            assert!(bytes == 4096 || stream_end(bytes - 4096) < u64_of(end), "no page too many");
            assert!(file_offset(u64_of(end)) <= bytes);
        }
        assert_eq!(stream_end(4096), 4096);
        assert_eq!(stream_end(100), 0);
    }

    #[test]
    fn a_stamp_belongs_to_its_place() {
        let mut sector = vec![1; ROOM];
        sector.extend_from_slice(&stamp(9, 8192));
        assert_eq!(Stamp::read(&sector, 8192), Stamp::Round(9));
        assert_eq!(Stamp::read(&sector, 8192 + 512), Stamp::Unreadable);
        for bit in 0..8 * STAMP_BYTES {
            let mut flipped = sector.clone();
            flipped[ROOM + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::read(&flipped, 8192), Stamp::Unreadable);
        }
    }
}
