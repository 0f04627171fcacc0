//! The one writer of a log.

use super::format::{
    self, CONTROL_BYTES_MAX, Carried, END_MARK_AT, EndMark, HEADER_BYTES, Header, Position,
    ROUND_BYTES, RoundEncoder,
};
use super::index::{Place, SegmentPlaces, later};
use super::sectors::{self, file_offset};
use super::shared::{Batch, Item, Placed, Settled, Shared};
use super::upkeep::{Blank, Upkeep};
use super::{Completion, LogError};
use crate::disk::LogId;
use crate::disk::storage::{PAGE_BYTES, PageBuffer};
use crate::planted::{self, Bug};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Where the writer stands.
pub(super) struct Active {
    pub(super) segment: Blank,
    /// Where in the stream the next round goes; 0 if the segment has no header yet.
    pub(super) position: u64,
    /// The number of the last round.
    pub(super) round: u64,
    /// The chain of checksums after it.
    pub(super) chain: u32,
    /// What the file has in the page of the position before the position.
    pub(super) page: Vec<u8>,
    /// The log's state after it.
    pub(super) carried: Carried,
}

impl Active {
    fn room(&self) -> usize {
        let header = if self.position == 0 { HEADER_BYTES as u64 } else { 0 };
        let end = sectors::stream_end(self.segment.bytes);
        let room = end.saturating_sub(self.position + header);
        usize::try_from(room).unwrap_or(usize::MAX)
    }
}

/// Writes what is queued, round by round. There is one per log.
pub struct LogWriter {
    shared: Arc<Shared>,
    upkeep: Arc<Upkeep>,
    active: Active,
    /// The round that is being written: a stream.
    buffer: Vec<u8>,
    /// The same as it goes to the disk: whole pages.
    pages: PageBuffer,
    /// Whether another thread does the upkeep.
    upkeep_runs: bool,
    closed: bool,
}

/// What is left of a batch, with the completions that are due.
struct Pass {
    items: VecDeque<Item>,
    committed: Option<LogId>,
    appended: Option<Completion>,
    votes: Vec<Completion>,
}

impl LogWriter {
    pub(super) fn new(shared: Arc<Shared>, upkeep: Arc<Upkeep>, active: Active) -> Self {
        let (buffer, pages) = (Vec::new(), PageBuffer::default());
        Self { shared, upkeep, active, buffer, pages, upkeep_runs: false, closed: false }
    }

    /// Writes rounds until the log is closed or fails. To be called on a thread
    /// of its own; it waits without spinning, and runs a second thread that
    /// prepares and removes segments.
    ///
    /// When the log is closed, what is queued is written and the end is marked
    /// as clean. After an IO error all completions are told, then
    /// [`LogOptions::on_failure`](super::LogOptions::on_failure) is called.
    pub fn run(mut self) {
        let upkeep = Arc::clone(&self.upkeep);
        let spawned =
            std::thread::Builder::new().name("log-upkeep".to_owned()).spawn(move || upkeep.run());
        // Without the thread, rounds do its work.
        self.upkeep_runs = spawned.is_ok();
        loop {
            let batch = self.shared.wait();
            match self.write(batch) {
                Ok(()) if self.closed => break,
                Ok(()) => {}
                Err(_) => break,
            }
        }
        self.upkeep.stop();
        if let Ok(thread) = spawned {
            // Its panics were printed, and it keeps nothing that matters now.
            drop(thread.join());
        }
    }

    /// Whether the log is closed and complete, or has failed: nothing more will
    /// be written.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes and syncs what is queued. `false` if there was nothing to do, or if
    /// the log is closed and complete. For who drives the log himself.
    ///
    /// # Errors
    ///
    /// Fails if the disk does. All completions have been told.
    pub fn round(&mut self) -> Result<bool, LogError> {
        if self.closed {
            return Ok(false);
        }
        let Some(batch) = self.shared.take() else {
            if !self.upkeep_runs {
                self.upkeep.step();
            }
            return Ok(false);
        };
        self.write(batch)?;
        Ok(true)
    }

    /// Writes a batch, in as many rounds as it takes.
    fn write(&mut self, batch: Batch) -> Result<(), LogError> {
        let mut pass = Pass {
            items: batch.items.into(),
            committed: batch.committed,
            appended: None,
            votes: Vec::new(),
        };
        let written = self.write_pass(&mut pass, batch.closed);
        if let Err(error) = &written {
            self.closed = true;
            self.fail(error, pass);
        }
        written
    }

    fn write_pass(&mut self, pass: &mut Pass, closing: bool) -> Result<(), LogError> {
        while !pass.items.is_empty() {
            self.write_round(pass)?;
        }
        if closing {
            if pass.committed.is_some() {
                self.write_round(pass)?;
            }
            self.mark_end()?;
            self.closed = true;
        }
        if !self.upkeep_runs && !self.closed {
            self.upkeep.step();
        }
        Ok(())
    }

    /// Notes that everything up to here is durable.
    fn mark_end(&self) -> Result<(), LogError> {
        let Active { segment, position, round, chain, .. } = &self.active;
        if *position == 0 {
            return Ok(());
        }
        let mark =
            EndMark { segment: segment.sequence, round: *round, offset: *position, chain: *chain };
        let written = segment.file.write_at(&mark.encode(), END_MARK_AT as u64);
        written
            .and_then(|()| segment.file.sync_data())
            .map_err(|error| LogError::failed("marking the end", &error))
    }

    /// One round: encode, write, sync, report.
    fn write_round(&mut self, pass: &mut Pass) -> Result<(), LogError> {
        self.make_room(pass)?;
        let mut settled = Settled::default();
        let opened = self.active.position == 0;
        self.buffer.clear();
        if opened {
            self.put_header();
            settled.placed.push(Placed::Segment(self.places()));
        }
        let (bytes, chain) = self.encode(pass, &mut settled);
        if bytes > ROUND_BYTES {
            let votes = !pass.votes.is_empty();
            let (written, micros) = self.persist(votes)?;
            self.active.position += written;
            self.upkeep.note_active(file_offset(self.active.position));
            self.active.round += 1;
            self.active.chain = chain;
            settled.bytes = written;
            settled.micros = micros;
            settled.segment_bytes_left = self.active.room() as u64;
            let dead = self.shared.settle(settled);
            self.upkeep.remove(dead.into_iter().map(Blank::from).collect());
        }
        for vote in pass.votes.drain(..) {
            vote(Ok(()));
        }
        if let Some(appended) = pass.appended.take() {
            appended(Ok(()));
        }
        Ok(())
    }

    /// Goes on to the next segment if the next record does not fit.
    fn make_room(&mut self, pass: &Pass) -> Result<(), LogError> {
        let first = pass.items.front().map_or(0, Item::bytes);
        // A committed mark may ride along.
        let needed = ROUND_BYTES + first + CONTROL_BYTES_MAX;
        if self.active.room() >= needed {
            return Ok(());
        }
        let bytes = sectors::file_bytes((HEADER_BYTES + needed) as u64);
        let segment = if self.active.position == 0 {
            // Segments in use follow each other, so a blank one cannot be left behind.
            self.upkeep.larger(&self.active.segment, bytes)
        } else {
            self.upkeep.take(bytes)
        };
        let segment = segment.map_err(|error| LogError::failed("allocating a segment", &error))?;
        self.active.segment = segment;
        self.active.position = 0;
        self.active.page.clear();
        Ok(())
    }

    fn put_header(&mut self) {
        let Active { segment, round, chain, carried, .. } = &self.active;
        let header = Header {
            segment: segment.sequence,
            bytes: segment.bytes,
            round: round + 1,
            chain: *chain,
            carried: *carried,
        };
        header.encode(&mut self.buffer);
    }

    fn places(&self) -> SegmentPlaces {
        let Blank { sequence, file, bytes } = &self.active.segment;
        SegmentPlaces::new(*sequence, Arc::clone(file), *bytes)
    }

    /// Encodes as many items as fit, and returns the round's bytes and the chain
    /// after it.
    fn encode(&mut self, pass: &mut Pass, settled: &mut Settled) -> (usize, u32) {
        let active = &mut self.active;
        let offset = active.position + self.buffer.len() as u64;
        let room = active.room().min(self.shared.options.round_bytes_max);
        let mut encoder = RoundEncoder::begin(
            &mut self.buffer,
            Position { segment: active.segment.sequence, offset },
            active.round + 1,
            active.chain,
        );
        let mut first = true;
        while let Some(item) = pass.items.front() {
            let fits = encoder.bytes() + item.bytes() + CONTROL_BYTES_MAX <= room;
            if !fits && !first {
                break;
            }
            first = false;
            settled.backlog_bytes += item.bytes();
            let Some(item) = pass.items.pop_front() else { break };
            put(item, &mut encoder, offset, &mut active.carried, settled, pass);
        }
        // After everything that was queued when it was saved: a recovered log is
        // never shorter than what it says is committed.
        if pass.items.is_empty()
            && let Some(committed) = pass.committed.take()
        {
            active.carried.committed = Some(committed);
            encoder.committed(committed);
        }
        encoder.finish()
    }

    /// Writes and syncs the buffer; returns the bytes that count as written, and
    /// how long it took.
    fn persist(&mut self, votes: bool) -> Result<(u64, u64), LogError> {
        let written = self.buffer.len();
        let position = self.active.position;
        let header = if position == 0 { HEADER_BYTES } else { 0 };
        let (header, stream) = self.buffer.split_at(header);
        let page = &mut self.active.page;
        let start = file_offset(position) - page.len() as u64;
        let offset = position + header.len() as u64;
        let end = file_offset(position + written as u64);
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        self.pages.begin(length.next_multiple_of(PAGE_BYTES) + PAGE_BYTES);
        self.pages.extend_from_slice(page);
        self.pages.extend_from_slice(header);
        sectors::lay_out(stream, offset, self.active.round + 1, &mut self.pages);
        page.clear();
        page.extend_from_slice(&self.pages[length - length % PAGE_BYTES..length]);
        let file = &self.active.segment.file;
        let started = now();
        file.write_at(&self.pages, start)
            .map_err(|error| LogError::failed("writing a round", &error))?;
        let skip = planted::is(Bug::SkipLogFsync) || (votes && planted::is(Bug::SkipVoteFsync));
        let synced = if skip { Ok(()) } else { file.sync_data() };
        let synced = if planted::is(Bug::IgnoreFsyncError) { Ok(()) } else { synced };
        synced.map_err(|error| LogError::failed("syncing a round", &error))?;
        let micros = u64::try_from((now() - started).as_micros()).unwrap_or(u64::MAX);
        Ok((written as u64, micros))
    }

    /// Ends the log: tells everybody who waits, then the hook.
    fn fail(&mut self, error: &LogError, pass: Pass) {
        let queued = self.shared.fail(error);
        for item in pass.items.into_iter().chain(queued) {
            match item {
                Item::Vote(_, done) | Item::Appended(done) => done(Err(error.to_io())),
                Item::Entry { .. } | Item::Truncate(_) | Item::Purge(_) => {}
            }
        }
        for done in pass.votes.into_iter().chain(pass.appended) {
            done(Err(error.to_io()));
        }
        let hook = self.shared.options.on_failure.as_ref();
        // A writer that was dropped in an orderly way is no failure of the disk.
        if let Some(hook) =
            hook.filter(|_| !matches!(error, LogError::Closed) || std::thread::panicking())
        {
            hook(error);
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.upkeep.stop();
        if !self.closed {
            self.closed = true;
            let pass =
                Pass { items: VecDeque::new(), committed: None, appended: None, votes: Vec::new() };
            self.fail(&LogError::Closed, pass);
        }
    }
}

/// Encodes one item and notes what it changes.
fn put(
    item: Item,
    encoder: &mut RoundEncoder<'_>,
    round_at: u64,
    carried: &mut Carried,
    settled: &mut Settled,
    pass: &mut Pass,
) {
    match item {
        Item::Entry { entry, ticket } => {
            let at = round_at + encoder.entry(&entry) as u64;
            let place = Place {
                offset: u32::try_from(at).expect("segments are smaller than 4 GiB"),
                bytes: u32::try_from(format::entry_bytes(entry.payload.len()))
                    .expect("payloads are bounded"),
            };
            settled.placed.push(Placed::Entry(entry.id, place));
            settled.ticket = Some(ticket);
            settled.entries += 1;
            carried.last = Some(entry.id);
        }
        // A watermark: the newest stands for all before it.
        Item::Appended(done) => pass.appended = Some(done),
        Item::Vote(vote, done) => {
            encoder.vote(vote);
            carried.vote = Some(vote);
            pass.votes.push(done);
        }
        Item::Truncate(kept) => {
            encoder.truncate(kept);
            settled.placed.push(Placed::Truncate(kept));
            carried.last = later(kept, carried.purged);
        }
        Item::Purge(upto) => {
            encoder.purge(upto);
            settled.placed.push(Placed::Purge(upto));
            carried.purged = later(carried.purged, Some(upto));
            carried.last = later(carried.last, Some(upto));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "measures the disk; nothing depends on it")]
fn now() -> Instant {
    Instant::now()
}
