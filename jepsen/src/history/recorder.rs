//! Recording from many tasks at once.
//!
//! A [`Recorder`] gives each event its index and time under one short lock, so
//! that the order of lines, of indices and of times is the same, and writes it
//! into a bounded buffer. A failure to write is kept and reported by
//! [`Recorder::finish`]: a run whose history is not whole cannot be judged.

use super::{Event, Fault, History, HistoryError, Kind, Op, Process};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Bytes that are kept before they are written to the file.
const BUFFER_BYTES: usize = 1024 * 1024;

/// Tells the time: nanoseconds since the start of the run, never backwards.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Why a recording is not whole.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be written.
    #[error("write the history: {0}")]
    Io(#[from] io::Error),
    /// More happened than was to be kept in memory.
    #[error("the history has more than {0} events")]
    Full(usize),
    /// What was recorded breaks the rules of histories: a mistake of the caller.
    #[error("the history breaks a rule: {0}")]
    Invalid(#[from] HistoryError),
}

/// Records the events of a run. Cheap to share: see [`Arc`].
pub struct Recorder {
    clock: Clock,
    processes: AtomicU64,
    state: Mutex<State>,
}

struct State {
    next: u64,
    time: u64,
    sink: Sink,
    broken: Option<RecordError>,
}

enum Sink {
    Memory { events: Vec<Event>, max: usize },
    File { writer: BufWriter<File>, path: PathBuf },
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("events", &self.len()).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Records into a file that does not exist yet, by the real monotonic clock,
    /// which starts now.
    ///
    /// # Errors
    ///
    /// If the file cannot be created.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).open(path)?;
        let writer = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self::with(monotonic(), Sink::File { writer, path: path.to_owned() }))
    }

    /// Records into memory, at most `max` events, by a clock of the caller's,
    /// such as that of a simulation.
    pub fn in_memory(max: usize, clock: Clock) -> Self {
        Self::with(clock, Sink::Memory { events: Vec::new(), max })
    }

    fn with(clock: Clock, sink: Sink) -> Self {
        let state = State { next: 0, time: 0, sink, broken: None };
        Self { clock, processes: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// A process number that was not used before: for a new client, for each
    /// client whose operation ended in `info`, and for a watch.
    pub fn new_process(&self) -> Process {
        Process::Client(self.processes.fetch_add(1, Ordering::Relaxed))
    }

    /// Nanoseconds since the start of the run.
    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    /// How many events were recorded.
    pub fn len(&self) -> u64 {
        self.lock().next
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records that `op` is about to be asked. Call it before anything is sent.
    pub fn invoke(&self, process: Process, op: Op, node: Option<u64>) -> u64 {
        self.record(process, Kind::Invoke, op, node, None)
    }

    /// Records that `op` happened; `op` has the reply.
    pub fn ok(&self, process: Process, op: Op, node: Option<u64>) -> u64 {
        self.record(process, Kind::Ok, op, node, None)
    }

    /// Records that `op` did not happen and never will.
    pub fn fail(&self, process: Process, op: Op, node: Option<u64>, error: String) -> u64 {
        self.record(process, Kind::Fail, op, node, Some(error))
    }

    /// Records that nobody knows whether `op` happened, and returns the process
    /// under which the client has to go on.
    pub fn info(&self, process: Process, op: Op, node: Option<u64>, error: String) -> Process {
        self.record(process, Kind::Info, op, node, Some(error));
        self.new_process()
    }

    /// Records a fault.
    pub fn fault(&self, fault: Fault) -> u64 {
        self.record(Process::Nemesis, Kind::Info, Op::Nemesis(fault), None, None)
    }

    /// Records an event and returns its index.
    pub fn record(
        &self,
        process: Process,
        kind: Kind,
        op: Op,
        node: Option<u64>,
        error: Option<String>,
    ) -> u64 {
        let mut state = self.lock();
        let index = state.next;
        // Two tasks may read the clock in one order and come here in the other;
        // so it is read under the lock, and never goes back.
        state.time = state.time.max((self.clock)());
        state.next += 1;
        let event = Event { index, time: state.time, process, kind, op, node, error };
        if state.broken.is_none() {
            state.broken = state.sink.take(event).err();
        }
        index
    }

    /// Ends the recording: what was written is on disk, and is read back.
    ///
    /// # Errors
    ///
    /// If an event could not be kept, the file could not be synced, or the
    /// history is not valid.
    pub fn finish(self) -> Result<History, RecordError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(broken) = state.broken {
            return Err(broken);
        }
        match state.sink {
            Sink::Memory { events, .. } => Ok(History::new(events)?),
            Sink::File { writer, path } => {
                sync(writer, &path)?;
                Ok(History::read(&path)?)
            }
        }
    }

    /// A copy of what was recorded in memory so far; nothing if it goes to a file.
    pub fn snapshot(&self) -> Vec<Event> {
        match &self.lock().sink {
            Sink::Memory { events, .. } => events.clone(),
            Sink::File { .. } => Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    fn take(&mut self, event: Event) -> Result<(), RecordError> {
        match self {
            Self::Memory { events, max } if events.len() >= *max => Err(RecordError::Full(*max)),
            Self::Memory { events, .. } => {
                events.push(event);
                Ok(())
            }
            Self::File { writer, .. } => {
                serde_json::to_writer(&mut *writer, &event).map_err(io::Error::from)?;
                Ok(writer.write_all(b"\n")?)
            }
        }
    }
}

fn sync(writer: BufWriter<File>, path: &Path) -> io::Result<()> {
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn monotonic() -> Clock {
    let start = Instant::now();
    Arc::new(move || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}
