//! A write buffer in front of a state engine.
//!
//! Engines write a batch twice or thrice: to a journal, into a sorted buffer,
//! and later into files. A state needs none of the first two, since the log has
//! everything: what the state loses in a crash it gets back from there. So
//! batches gather here, in memory, and go to the engine as one batch when there
//! is enough of them, or at a checkpoint. A row that is written over and over
//! (heartbeats) reaches the disk once. Apply does not wait for any of that
//! unless the disk falls behind by more than a buffer.
//!
//! The buffer is a few sorted runs that never change. A batch becomes a run;
//! runs of similar length are merged (Bentley and Saxe, "Decomposable searching
//! problems", 1980: the logarithmic method), so that there are few of them and
//! each key is copied a logarithmic number of times; values stay where they are
//! unless most around them was overwritten. A view is a list of runs
//! and a view of the engine: taking one costs a few reference counts.
//!
//! What [`Engine`] promises stays true. Batches go down in their order and
//! several as one, so that after a crash some prefix of them is there.

mod run;
#[cfg(test)]
mod tests;

use super::batch::WriteBatch;
use super::engine::{Engine, EngineError, EngineView, Rows, Table};
use bytes::Bytes;
use run::Run;
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The thread that writes buffers to the engine.
const THREAD_NAME: &str = "state-flush";

/// It steps back behind those who serve requests, but not far: apply waits for
/// it when it falls behind.
const NICE: i32 = 5;

/// A small run is at most such a part of a buffer.
const SMALL_PARTS: usize = 128;

/// When buffers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushing {
    /// On a thread of its own, beside apply.
    Beside,
    /// By the commit that fills the buffer: for simulation, where there are no
    /// threads.
    Within,
}

/// An engine behind a buffer. See the module.
pub(crate) struct Buffered {
    shared: Arc<Shared>,
    flusher: Option<JoinHandle<()>>,
}

struct Shared {
    engine: Box<dyn Engine>,
    layers: Mutex<Layers>,
    /// Told when a buffer is to be written, or was.
    changed: Condvar,
    buffer_bytes: usize,
}

struct Layers {
    /// What was committed lately, oldest first, each at least twice as long as
    /// the next.
    runs: Vec<Arc<Run>>,
    /// What is being written, likewise.
    leaving: Vec<Arc<Run>>,
    /// The engine before what is being written.
    below: Arc<dyn EngineView>,
    /// Batches committed so far.
    committed: u64,
    /// Those of them that the engine has.
    flushed: u64,
    /// Those that somebody waits for the engine to have.
    wanted: u64,
    /// The engine is closing.
    closing: bool,
    /// Why nothing can be written any more.
    failed: Option<String>,
}

impl Layers {
    fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.bytes()).sum()
    }

    fn push(&mut self, batch: WriteBatch, small_bytes: usize) {
        let mut run = Run::new(batch);
        while let Some(last) = self.runs.last()
            && last.len() < 2 * run.len()
        {
            run = Run::merge(last, &run, small_bytes);
            self.runs.pop();
        }
        self.runs.push(Arc::new(run));
        self.committed += 1;
    }

    fn check(&self) -> Result<(), EngineError> {
        match &self.failed {
            None => Ok(()),
            Some(error) => Err(EngineError::Engine(error.clone())),
        }
    }
}

impl Buffered {
    /// Puts a buffer of about `buffer_bytes` of memory before `engine`. With
    /// what is being written, its copy with checksums, and what comes meanwhile, it
    /// can be six times as much.
    ///
    /// # Errors
    ///
    /// Fails if the engine cannot be read or the thread not be started.
    pub(crate) fn new(
        engine: Box<dyn Engine>,
        buffer_bytes: usize,
        flushing: Flushing,
    ) -> Result<Self, EngineError> {
        let layers = Layers {
            runs: Vec::new(),
            leaving: Vec::new(),
            below: engine.view()?,
            committed: 0,
            flushed: 0,
            wanted: 0,
            closing: false,
            failed: None,
        };
        let layers = Mutex::new(layers);
        let shared = Arc::new(Shared { engine, layers, changed: Condvar::new(), buffer_bytes });
        let flusher = match flushing {
            Flushing::Within => None,
            Flushing::Beside => {
                let shared = Arc::clone(&shared);
                let run = move || {
                    super::priority::lower(NICE);
                    let _told = TellOfPanic(&shared);
                    shared.run();
                };
                Some(std::thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(run)?)
            }
        };
        Ok(Self { shared, flusher })
    }

    /// Waits, or sees to it, that the engine has all that was committed.
    fn flush(&self) -> Result<(), EngineError> {
        let mut layers = self.shared.lock();
        let target = layers.committed;
        layers.wanted = target;
        if self.flusher.is_none() {
            while layers.flushed < target {
                layers = self.shared.write_buffer(layers)?;
            }
            return Ok(());
        }
        self.shared.changed.notify_all();
        while layers.flushed < target {
            layers.check()?;
            layers = self.shared.wait(layers);
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().expect("no holder of this lock panics")
    }

    fn wait<'a>(&self, layers: MutexGuard<'a, Layers>) -> MutexGuard<'a, Layers> {
        self.changed.wait(layers).expect("no holder of this lock panics")
    }

    /// Runs of so many bytes and less are copied when they are merged.
    fn small_bytes(&self) -> usize {
        self.buffer_bytes / SMALL_PARTS
    }

    fn is_full(&self, layers: &Layers) -> bool {
        layers.bytes() >= 2 * self.buffer_bytes
    }

    fn is_nearly_full(&self, layers: &Layers) -> bool {
        layers.bytes() >= self.buffer_bytes + self.buffer_bytes / 2
    }

    fn is_due(&self, layers: &Layers) -> bool {
        layers.bytes() >= self.buffer_bytes || layers.flushed < layers.wanted
    }

    /// The thread's work, until the engine is closed or has failed.
    fn run(&self) {
        let mut layers = self.lock();
        loop {
            if layers.closing {
                return;
            } else if self.is_due(&layers) {
                match self.write_buffer(layers) {
                    Ok(after) => layers = after,
                    // Those who commit or wait are told.
                    Err(_) => return,
                }
            } else {
                layers = self.wait(layers);
            }
        }
    }

    /// Writes what the buffer holds, without the lock.
    fn write_buffer<'a>(
        &'a self,
        mut layers: MutexGuard<'a, Layers>,
    ) -> Result<MutexGuard<'a, Layers>, EngineError> {
        // Only where several threads flush from within: one at a time.
        while !layers.leaving.is_empty() && layers.failed.is_none() {
            layers = self.wait(layers);
        }
        layers.check()?;
        let upto = layers.committed;
        layers.leaving = std::mem::take(&mut layers.runs);
        let leaving = layers.leaving.clone();
        drop(layers);
        let written = write_runs(self.engine.as_ref(), &leaving);
        let mut layers = self.lock();
        let written = match written {
            Ok(below) => {
                layers.below = below;
                layers.leaving.clear();
                layers.flushed = upto;
                Ok(())
            }
            Err(error) => {
                layers.failed = Some(error.to_string());
                Err(error)
            }
        };
        self.changed.notify_all();
        written.map(|()| layers)
    }
}

/// Tells those who wait when the thread panics: they would wait for ever.
struct TellOfPanic<'a>(&'a Shared);

impl Drop for TellOfPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut layers = self.0.layers.lock().unwrap_or_else(PoisonError::into_inner);
            layers.failed = Some("the thread that writes the state's buffers panicked".to_owned());
            self.0.changed.notify_all();
        }
    }
}

/// Writes runs, oldest first, as one batch and returns what the engine then
/// shows.
fn write_runs(engine: &dyn Engine, runs: &[Arc<Run>]) -> Result<Arc<dyn EngineView>, EngineError> {
    let mut newer = Run::default();
    for run in runs.iter().rev() {
        newer = Run::merge(run, &newer, 0);
    }
    engine.commit(newer.into_batch())?;
    engine.view()
}

impl Engine for Buffered {
    fn view(&self) -> Result<Arc<dyn EngineView>, EngineError> {
        let layers = self.shared.lock();
        layers.check()?;
        let runs = layers.runs.iter().rev().chain(layers.leaving.iter().rev()).cloned();
        Ok(Arc::new(BufferedView { runs: runs.collect(), below: Arc::clone(&layers.below) }))
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut layers = self.shared.lock();
        // Memory is bounded: a disk that cannot keep up holds up apply here.
        while self.shared.is_full(&layers) && self.flusher.is_some() {
            layers.check()?;
            layers = self.shared.wait(layers);
        }
        layers.check()?;
        layers.push(batch, self.shared.small_bytes());
        if layers.bytes() >= self.shared.buffer_bytes {
            match self.flusher {
                Some(_) => self.shared.changed.notify_all(),
                None => drop(self.shared.write_buffer(layers)?),
            }
        }
        Ok(())
    }

    fn is_behind(&self) -> bool {
        // Early: what is about to be committed counts too.
        self.flusher.is_some() && self.shared.is_nearly_full(&self.shared.lock())
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        self.flush()?;
        self.shared.engine.checkpoint()
    }

    fn size_bytes(&self) -> Result<u64, EngineError> {
        self.shared.engine.size_bytes()
    }

    fn name(&self) -> &'static str {
        self.shared.engine.name()
    }
}

impl Drop for Buffered {
    /// Ends the thread. What is in the buffer is gone, as after a crash: who
    /// wants it kept takes a checkpoint.
    fn drop(&mut self) {
        let Some(flusher) = self.flusher.take() else {
            return;
        };
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
        if flusher.join().is_err() {
            tracing::error!("the thread that writes the state's buffers has panicked");
        }
    }
}

struct BufferedView {
    /// Newest first.
    runs: Arc<[Arc<Run>]>,
    below: Arc<dyn EngineView>,
}

impl EngineView for BufferedView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match run::get(&self.runs, table, key) {
            Some(row) => Ok(row.value()),
            None => self.below.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        range: (Bound<Bytes>, Bound<Bytes>),
        descending: bool,
    ) -> Rows<'_> {
        let below = self.below.scan(table, range.clone(), descending);
        run::scan(&self.runs, below, table, &range, descending)
    }
}
