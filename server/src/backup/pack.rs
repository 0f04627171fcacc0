//! Packs: the objects that a backup's rows are in.
//!
//! A pack is a run of compressed chunks between a header that says what it
//! belongs to and a trailer that says whether it is whole. It can be checked
//! without anything else, and each chunk can be read by itself. Drawn in
//! `docs/disk-format.md`.
//!
//! This file knows bytes and not rows, and it touches no bucket.

use bytes::{BufMut as _, Bytes, BytesMut};
use keelstone_proto::disk::PackHeader;
use prost::Message as _;
use std::ops::Range;

/// Bytes of the plain rows in a chunk, unless a single row is larger.
pub(super) const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a pack, unless a single chunk is larger.
pub(super) const PACK_BYTES: usize = 32 * 1024 * 1024;
/// No chunk is larger: a full one, and a row of the largest size.
pub(super) const CHUNK_BYTES_MAX: usize = 8 * 1024 * 1024;

const MAGIC: &[u8; 4] = b"KBK1";
const END: &[u8; 4] = b"1KBK";
const VERSION: u8 = 1;
const PREFIX_BYTES: usize = 12;
const FRAME_BYTES: usize = 12;
const TRAILER_BYTES: usize = 4 + 32 + 4;
/// Headers are small; a larger length is damage.
const HEADER_BYTES_MAX: usize = 4096;
/// Level 1 is twice as fast as 3 and no worse on documents.
const LEVEL: i32 = 1;

/// How chunks are compressed.
pub(super) const CODEC: &str = "zstd";

/// What an object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Rows.
    Rows = 1,
    /// The index of all chunks.
    Index = 2,
}

/// A compressed chunk.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) stored: Bytes,
    pub(super) plain_bytes: u32,
    pub(super) plain_hash: [u8; 32],
}

impl Frame {
    /// Compresses a chunk of at most [`CHUNK_BYTES_MAX`] bytes.
    pub(super) fn seal(plain: &[u8]) -> std::io::Result<Self> {
        let stored = zstd::bulk::compress(plain, LEVEL)?;
        Ok(Self {
            stored: stored.into(),
            plain_bytes: u32::try_from(plain.len()).expect("a chunk is below 8 MiB"),
            plain_hash: *blake3::hash(plain).as_bytes(),
        })
    }

    fn bytes(&self) -> usize {
        FRAME_BYTES + self.stored.len()
    }
}

/// A pack that is being filled.
pub(super) struct PackWriter {
    buffer: BytesMut,
    chunks: u32,
}

impl PackWriter {
    pub(super) fn new(kind: Kind, header: &PackHeader) -> Self {
        let header = header.encode_to_vec();
        let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + header.len() + 4);
        buffer.put_slice(MAGIC);
        buffer.put_u8(VERSION);
        buffer.put_u8(kind as u8);
        buffer.put_u16_le(0);
        buffer.put_u32_le(u32::try_from(header.len()).expect("a header is small"));
        buffer.put_slice(&header);
        let crc = crc32c::crc32c(&buffer);
        buffer.put_u32_le(crc);
        Self { buffer, chunks: 0 }
    }

    /// Whether the frame fits into a pack of `pack_bytes`. One always fits into
    /// an empty pack.
    pub(super) fn has_room_for(&self, frame: &Frame, pack_bytes: usize) -> bool {
        let with_frame = self.buffer.len() + frame.bytes() + 4 + TRAILER_BYTES;
        self.chunks == 0 || with_frame <= pack_bytes
    }

    /// Adds a chunk and returns where its frame begins.
    pub(super) fn push(&mut self, frame: &Frame) -> u64 {
        let offset = self.buffer.len() as u64;
        self.buffer.reserve(frame.bytes());
        self.buffer.put_u32_le(u32::try_from(frame.stored.len()).expect("a chunk is below 8 MiB"));
        self.buffer.put_u32_le(frame.plain_bytes);
        self.buffer.put_u32_le(crc32c::crc32c(&frame.stored));
        self.buffer.put_slice(&frame.stored);
        self.chunks += 1;
        offset
    }

    /// The whole object.
    pub(super) fn finish(mut self) -> Bytes {
        self.buffer.put_u32_le(0);
        let crc = crc32c::crc32c(&self.buffer);
        self.buffer.put_u32_le(crc);
        let hash = blake3::hash(&self.buffer);
        self.buffer.put_slice(hash.as_bytes());
        self.buffer.put_slice(END);
        self.buffer.freeze()
    }
}

/// Why an object is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PackError {
    #[error("it is cut off: {0}")]
    Short(&'static str),
    #[error("{0} does not match its checksum")]
    Checksum(&'static str),
    #[error("it is not a pack of a Keelstone backup")]
    Foreign,
    #[error("it is of version {0}, this program reads {VERSION}")]
    Version(u8),
    #[error("its header makes no sense: {0}")]
    Header(&'static str),
    #[error("a chunk cannot be read: {0}")]
    Chunk(String),
}

/// A pack that was checked from its first to its last byte.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) header: PackHeader,
    bytes: Bytes,
    frames: Vec<Place>,
}

/// Where a frame is.
#[derive(Clone, Debug)]
struct Place {
    offset: usize,
    stored: Range<usize>,
    plain_bytes: usize,
}

impl Pack {
    /// Checks an object: checksums, header, frames.
    pub(super) fn open(bytes: Bytes, kind: Kind) -> Result<Self, PackError> {
        check_ends(&bytes)?;
        let (header, mut at) = read_header(&bytes, kind)?;
        let body_end = bytes.len() - TRAILER_BYTES;
        let mut frames = Vec::new();
        loop {
            let stored_bytes = read_u32(&bytes[..body_end], at)? as usize;
            if stored_bytes == 0 {
                break;
            }
            let plain_bytes = read_u32(&bytes[..body_end], at + 4)? as usize;
            let crc = read_u32(&bytes[..body_end], at + 8)?;
            let start = at + FRAME_BYTES;
            let stored = bytes[..body_end].get(start..start.saturating_add(stored_bytes));
            let stored = stored.ok_or(PackError::Short("a chunk"))?;
            if crc32c::crc32c(stored) != crc {
                return Err(PackError::Checksum("a chunk"));
            }
            if plain_bytes > CHUNK_BYTES_MAX {
                return Err(PackError::Chunk(format!("it claims {plain_bytes} bytes")));
            }
            let end = start + stored_bytes;
            frames.push(Place { offset: at, stored: start..end, plain_bytes });
            at = end;
        }
        if at + 4 != body_end {
            return Err(PackError::Header("there are bytes after the last chunk"));
        }
        Ok(Self { header, bytes, frames })
    }

    /// How many chunks there are.
    pub(super) fn chunks(&self) -> usize {
        self.frames.len()
    }

    /// Where a chunk's frame begins, and how many bytes of it are stored.
    pub(super) fn place(&self, chunk: usize) -> (u64, u32) {
        let place = &self.frames[chunk];
        let stored = u32::try_from(place.stored.len()).expect("read from 32 bits");
        (place.offset as u64, stored)
    }

    /// A chunk's plain bytes.
    pub(super) fn plain(&self, chunk: usize) -> Result<Bytes, PackError> {
        let place = &self.frames[chunk];
        let stored = &self.bytes[place.stored.clone()];
        let plain = zstd::bulk::decompress(stored, place.plain_bytes)
            .map_err(|error| PackError::Chunk(error.to_string()))?;
        if plain.len() == place.plain_bytes {
            return Ok(plain.into());
        }
        Err(PackError::Chunk(format!("it has {} bytes, not {}", plain.len(), place.plain_bytes)))
    }
}

/// Magic, end mark and the checksums of the whole.
fn check_ends(bytes: &[u8]) -> Result<(), PackError> {
    if bytes.len() < PREFIX_BYTES + 4 + 4 + TRAILER_BYTES {
        return Err(PackError::Short("it has no room for a header"));
    }
    if &bytes[..4] != MAGIC {
        return Err(PackError::Foreign);
    }
    if bytes[4] != VERSION {
        return Err(PackError::Version(bytes[4]));
    }
    let (rest, end) = bytes.split_at(bytes.len() - 4);
    if end != END {
        return Err(PackError::Short("its end mark is missing"));
    }
    let (rest, hash) = rest.split_at(rest.len() - 32);
    if blake3::hash(rest).as_bytes() != hash {
        return Err(PackError::Checksum("the whole object"));
    }
    let (body, crc) = rest.split_at(rest.len() - 4);
    if crc32c::crc32c(body).to_le_bytes() != crc {
        return Err(PackError::Checksum("the whole object"));
    }
    Ok(())
}

fn read_header(bytes: &[u8], kind: Kind) -> Result<(PackHeader, usize), PackError> {
    if bytes[5] != kind as u8 {
        return Err(PackError::Header("it is of another kind"));
    }
    let length = read_u32(bytes, 8)? as usize;
    if length > HEADER_BYTES_MAX {
        return Err(PackError::Header("it is too long"));
    }
    let end = PREFIX_BYTES + length;
    let header = bytes.get(PREFIX_BYTES..end).ok_or(PackError::Short("the header"))?;
    if read_u32(bytes, end)? != crc32c::crc32c(&bytes[..end]) {
        return Err(PackError::Checksum("the header"));
    }
    let header = PackHeader::decode(header).map_err(|_| PackError::Header("it is malformed"))?;
    if header.codec != CODEC {
        return Err(PackError::Header("it is compressed in another way"));
    }
    if !header.cipher.is_empty() {
        return Err(PackError::Header("it is encrypted, which this version cannot read"));
    }
    Ok((header, end + 4))
}

fn read_u32(bytes: &[u8], at: usize) -> Result<u32, PackError> {
    let field = bytes.get(at..at.saturating_add(4)).ok_or(PackError::Short("a length"))?;
    Ok(u32::from_le_bytes(field.try_into().expect("four bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack() -> Bytes {
        let header = PackHeader {
            backup_id: vec![7; 16].into(),
            number: 3,
            codec: CODEC.into(),
            ..PackHeader::default()
        };
        let mut writer = PackWriter::new(Kind::Rows, &header);
        for plain in [&b"first"[..], b"", &[9; 10_000]] {
            let frame = Frame::seal(plain).unwrap();
            assert!(writer.has_room_for(&frame, PACK_BYTES));
            writer.push(&frame);
        }
        writer.finish()
    }

    #[test]
    fn chunks_come_back() {
        let pack = Pack::open(pack(), Kind::Rows).unwrap();
        assert_eq!((pack.header.number, pack.chunks()), (3, 3));
        assert_eq!(pack.plain(0).unwrap(), "first");
        assert_eq!(pack.plain(1).unwrap(), "");
        assert_eq!(pack.plain(2).unwrap(), [9; 10_000][..]);
        let (offset, stored) = pack.place(1);
        let first = pack.place(0);
        assert_eq!(offset, first.0 + FRAME_BYTES as u64 + u64::from(first.1));
        assert!(stored > 0);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = pack();
        for at in 0..whole.len() {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << (at % 8);
            assert!(Pack::open(flipped.into(), Kind::Rows).is_err(), "byte {at}");
            assert!(Pack::open(whole.slice(..at), Kind::Rows).is_err(), "cut at {at}");
        }
        assert!(Pack::open(whole, Kind::Index).is_err());
    }

    #[test]
    fn a_full_pack_takes_no_more() {
        let mut writer = PackWriter::new(Kind::Rows, &PackHeader::default());
        let frame =
            Frame { stored: vec![1; CHUNK_BYTES].into(), plain_bytes: 1, plain_hash: [0; 32] };
        while writer.has_room_for(&frame, PACK_BYTES) {
            writer.push(&frame);
        }
        assert_eq!(writer.chunks, 7);
        assert!(writer.finish().len() <= PACK_BYTES);
    }
}
