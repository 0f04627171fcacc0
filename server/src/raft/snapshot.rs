//! Snapshots on their way between replicas: chunks of rows, made when they are
//! sent and written to a side directory when they arrive.

use super::convert;
use super::offload;
use super::outgoing::Pace;
use bytes::Bytes;
use keelstone_proto::peer;
use keelstone_store::machine::codec;
use keelstone_store::state::{FinishedSnapshot, SnapshotReader, State};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Chunks that are made before they are sent.
pub(crate) const CHUNKS_AHEAD: usize = 4;

/// What a snapshot consists of at its two ends.
pub(crate) enum SnapshotBody {
    /// A consistent view that rows are read from.
    Outgoing(Box<SnapshotReader>),
    /// Received, verified and durable in a side directory.
    Incoming(Box<FinishedSnapshot>),
}

impl SnapshotBody {
    /// The snapshot, ready to be swapped in.
    pub(crate) fn into_finished(self, state: &Arc<State>) -> io::Result<FinishedSnapshot> {
        let mut reader = match self {
            Self::Incoming(finished) => return Ok(*finished),
            Self::Outgoing(reader) => reader,
        };
        let (applied, head) = reader.header();
        let mut writer = state.begin_install(applied, head).map_err(io::Error::other)?;
        while let Some(chunk) = SnapshotReader::next_chunk(&mut reader).map_err(io::Error::other)? {
            writer.write(chunk).map_err(io::Error::other)?;
        }
        writer.finish(&reader.trailer()).map_err(io::Error::other)
    }
}

/// How snapshots are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendLimits {
    /// Bytes per second of one snapshot, at most.
    pub(crate) bytes_per_second: u64,
    /// How long the receiver may take no chunk.
    pub(crate) silence_max: Duration,
}

/// Sends a snapshot as chunks until its end or until nobody takes them.
///
/// # Errors
///
/// Fails if the state cannot be read, and with [`io::ErrorKind::TimedOut`] if
/// the receiver takes nothing for too long.
pub(crate) async fn send(
    body: SnapshotBody,
    mut header: peer::SnapshotHeader,
    chunks: mpsc::Sender<peer::SnapshotChunk>,
    limits: SendLimits,
) -> io::Result<()> {
    let SnapshotBody::Outgoing(mut reader) = body else {
        return Err(io::Error::other("a received snapshot is not sent on"));
    };
    let (applied, head) = reader.header();
    header.applied = Some(convert::applied_to_proto(&applied));
    header.head = Some(codec::head_to_proto(&head));
    let first = peer::SnapshotChunk { header: Some(header), rows: Bytes::new(), trailer: None };
    if !put(&chunks, first, limits).await? {
        return Ok(());
    }
    let mut pace = Pace::new(limits.bytes_per_second, Instant::now());
    loop {
        let (returned, chunk) = offload::blocking(move || {
            let chunk = SnapshotReader::next_chunk(&mut reader);
            (reader, chunk)
        })
        .await;
        reader = returned;
        let message = match chunk.map_err(io::Error::other)? {
            Some(rows) => peer::SnapshotChunk { header: None, rows, trailer: None },
            None => break,
        };
        tokio::time::sleep_until(pace.next(message.rows.len(), Instant::now())).await;
        if !put(&chunks, message, limits).await? {
            return Ok(());
        }
    }
    let trailer = reader.trailer();
    let trailer = peer::SnapshotTrailer { rows: trailer.rows, hash: trailer.hash.to_vec().into() };
    let last = peer::SnapshotChunk { header: None, rows: Bytes::new(), trailer: Some(trailer) };
    // A receiver that is gone is noticed by the call that it belongs to.
    put(&chunks, last, limits).await.map(drop)
}

/// Waits until a chunk can go. `false` if nobody takes chunks any more.
async fn put(
    chunks: &mpsc::Sender<peer::SnapshotChunk>,
    chunk: peer::SnapshotChunk,
    limits: SendLimits,
) -> io::Result<bool> {
    let silence_max = limits.silence_max;
    let sent = tokio::time::timeout(silence_max, chunks.send(chunk)).await.map_err(|_elapsed| {
        let text = format!("the receiver of a snapshot took nothing for {silence_max:?}");
        io::Error::new(io::ErrorKind::TimedOut, text)
    })?;
    Ok(sent.is_ok())
}
