//! Readers of all changes: a watch that is resumed, at the same replica or at
//! another, whenever its stream ends.

use super::World;
use crate::client::{Failure, Raw, prefix_span, revision, text};
use keelstone_jepsen::history::{
    Change, ChangeKind, KeyValue, Kind, Op, Process, Watch, WatchStep, prefix_end,
};
use keelstone_proto::v1;
use keelstone_proto::v1::watch_request::Request;
use keelstone_proto::v1::watch_response::Response;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// How often an idle watch is told how far it is.
const PROGRESS: Duration = Duration::from_millis(500);
/// A stream that is silent for so long is given up.
const SILENCE: Duration = Duration::from_secs(4);
/// How long a broken reader waits before it goes on.
const PAUSE: Duration = Duration::from_millis(100);

/// Numbers of streams and of readers, unique in the process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// What a reader reads, and how.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    /// Keys with this prefix.
    pub(crate) prefix: String,
    /// The replica to stay at; `None`: another one each time.
    pub(crate) home: Option<u64>,
    /// The first revision; 0: what comes after the creation.
    pub(crate) start: u64,
    /// How long each response takes to be read.
    pub(crate) slowness: Duration,
    /// How long a stream is kept before it is left for another.
    pub(crate) patience: Option<Duration>,
}

impl Watcher {
    /// All changes with `prefix`, from `start` on.
    pub(crate) fn new(prefix: &str, start: u64) -> Self {
        let (prefix, slowness) = (prefix.to_owned(), Duration::ZERO);
        Self { prefix, home: None, start, slowness, patience: None }
    }
}

/// A reader that runs.
pub(crate) struct Following {
    /// The last revision up to which it knows everything.
    pub(crate) reached: Arc<AtomicU64>,
    /// Ends soon after its `stop`.
    pub(crate) task: JoinHandle<()>,
}

/// Starts a reader, which goes on until `stop`.
pub(crate) fn follow(world: &Arc<World>, watcher: Watcher, stop: CancellationToken) -> Following {
    let reached = Arc::new(AtomicU64::new(0));
    let reader = Reader {
        world: Arc::clone(world),
        reader: NUMBERS.fetch_add(1, Ordering::Relaxed),
        next: watcher.start,
        rng: StdRng::seed_from_u64(world.seed ^ NUMBERS.load(Ordering::Relaxed)),
        reached: Arc::clone(&reached),
        watcher,
        stop,
    };
    Following { reached, task: tokio::spawn(reader.run()) }
}

struct Reader {
    world: Arc<World>,
    reader: u64,
    watcher: Watcher,
    next: u64,
    rng: StdRng,
    reached: Arc<AtomicU64>,
    stop: CancellationToken,
}

/// One stream.
struct Stream {
    watch: u64,
    process: Process,
    node: u64,
    start: u64,
}

impl Reader {
    async fn run(mut self) {
        while !self.stop.is_cancelled() {
            if let Some(raw) = self.choose() {
                self.stream(raw).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn choose(&mut self) -> Option<Raw> {
        let nodes = self.world.directory.nodes();
        let home = self.watcher.home.and_then(|home| nodes.iter().find(|(id, _)| *id == home));
        let (id, endpoint) = match home {
            Some(home) => home,
            None => nodes.get(self.rng.random_range(0..nodes.len().max(1)))?,
        };
        self.world.directory.raw(*id, endpoint).ok()
    }

    /// Reads one stream to its end.
    async fn stream(&mut self, raw: Raw) {
        let watch = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let process = self.world.recorder.new_process();
        let stream = Stream { watch, process, node: raw.node, start: self.next };
        self.record(&stream, Kind::Invoke, None, WatchStep::Create, None);
        let (asks, requests) = mpsc::channel(4);
        asks.send(self.create(&stream)).await.ok();
        let mut client = raw.watch();
        let stop = self.stop.clone();
        let reading = async {
            let opened = client.watch(ReceiverStream::new(requests));
            match tokio::time::timeout(SILENCE, opened).await {
                Ok(Ok(responses)) => self.read(&stream, responses.into_inner()).await,
                Ok(Err(status)) => Some(Failure::of(&status).text()),
                Err(_) => Some("the stream was not opened".to_owned()),
            }
        };
        // Leaving it is recorded like any other end.
        let error = tokio::select! {
            error = reading => error,
            () = stop.cancelled() => None,
        };
        drop(asks);
        self.record(&stream, Kind::Ok, None, WatchStep::Closed, error);
    }

    /// The error that ended it, if one did.
    async fn read(
        &mut self,
        stream: &Stream,
        mut responses: tonic::Streaming<v1::WatchResponse>,
    ) -> Option<String> {
        let until = self.watcher.patience.map(|patience| {
            let part = self.rng.random_range(0.2..1.8);
            tokio::time::Instant::now() + patience.mul_f64(part)
        });
        loop {
            if until.is_some_and(|until| tokio::time::Instant::now() > until) {
                return None;
            }
            let response = match tokio::time::timeout(SILENCE, responses.message()).await {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => return None,
                Ok(Err(status)) => return Some(Failure::of(&status).text()),
                Err(_) => return Some(format!("silent for {SILENCE:?}")),
            };
            if !self.take(stream, response) {
                return None;
            }
            if !self.watcher.slowness.is_zero() {
                tokio::time::sleep(self.watcher.slowness).await;
            }
        }
    }

    /// Records a response; `false` if it was the last.
    fn take(&mut self, stream: &Stream, response: v1::WatchResponse) -> bool {
        let header = Some(revision(response.header.as_ref())).filter(|revision| *revision > 0);
        let (step, goes_on) = match response.response {
            Some(Response::Created(created)) => {
                let start = created.start_revision;
                self.next = self.next.max(start);
                (WatchStep::Created { start }, true)
            }
            Some(Response::Events(events)) => {
                let changes: Vec<Change> = events.events.into_iter().map(change).collect();
                if let Some(last) = changes.iter().map(|change| change.revision).max() {
                    self.reach(last);
                }
                (WatchStep::Changes(changes), true)
            }
            Some(Response::Progress(revision)) => {
                self.reach(revision);
                (WatchStep::Progress(revision), true)
            }
            Some(Response::Canceled(canceled)) => (self.canceled(&canceled), false),
            None => return true,
        };
        self.record(stream, Kind::Ok, header, step, None);
        goes_on
    }

    fn reach(&mut self, revision: u64) {
        self.next = self.next.max(revision + 1);
        self.reached.fetch_max(revision, Ordering::Relaxed);
    }

    fn canceled(&mut self, canceled: &v1::WatchCanceled) -> WatchStep {
        use v1::watch_canceled::Reason;
        let reason = match canceled.reason() {
            Reason::Compacted => {
                // What is missing is gone; whoever reads on from here is another
                // reader.
                self.reader = NUMBERS.fetch_add(1, Ordering::Relaxed);
                self.next = self.next.max(canceled.compact_revision);
                "compacted"
            }
            Reason::HistoryChanged => "history-changed",
            Reason::Shutdown => "shutdown",
            Reason::Requested => "requested",
            Reason::Invalid => "invalid",
            Reason::Unspecified => "unspecified",
        };
        let compact_revision = Some(canceled.compact_revision).filter(|revision| *revision > 0);
        WatchStep::Canceled { reason: reason.to_owned(), compact_revision }
    }

    fn create(&self, stream: &Stream) -> v1::WatchRequest {
        let create = v1::WatchCreate {
            watch_id: 1,
            span: Some(prefix_span(&self.watcher.prefix)),
            start_revision: stream.start,
            previous: true,
            progress_interval_ms: u64::try_from(PROGRESS.as_millis()).unwrap_or(500),
            ..v1::WatchCreate::default()
        };
        v1::WatchRequest { request: Some(Request::Create(create)) }
    }

    fn record(
        &self,
        stream: &Stream,
        kind: Kind,
        revision: Option<u64>,
        step: WatchStep,
        error: Option<String>,
    ) {
        let watch = Watch {
            watch: stream.watch,
            reader: self.reader,
            key: self.watcher.prefix.clone(),
            end: Some(prefix_end(&self.watcher.prefix)),
            start: stream.start,
            prev: true,
            revision,
            step,
        };
        let node = Some(stream.node);
        self.world.recorder.record(stream.process, kind, Op::Watch(watch), node, error);
    }
}

fn change(event: v1::Event) -> Change {
    let kv = event.kv.clone().unwrap_or_default();
    let put = event.kind() == v1::event::Kind::Put;
    Change {
        revision: kv.mod_revision,
        kind: if put { ChangeKind::Put } else { ChangeKind::Delete },
        key: text(&kv.key),
        kv: put.then(|| crate::client::key_value(kv)),
        prev: event.previous.map(crate::client::key_value as fn(v1::KeyValue) -> KeyValue),
    }
}
