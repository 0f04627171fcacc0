//! Watchers: readers with a place, which go on at another node when their
//! stream breaks.

use super::convert;
use super::{Client, PATIENCE};
use crate::sim::HostId;
use keelstone_jepsen::history::{Change, ChangeKind, Kind, Op, Watch, WatchStep, prefix_end};
use keelstone_server::watch::{Create, End, Output, Session, Shape};
use keelstone_store::Revision;
use keelstone_store::machine::{Event, KeyRecord};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Responses between a node and a watcher.
const UNDER_WAY_MAX: usize = 4;
/// How long a stream may tell of nothing new.
const STILL_MAX: Duration = Duration::from_secs(4);
/// The numbers of a reader's streams are apart from those of others.
const STREAMS: u64 = 1_000_000;

/// A reader.
struct Reader {
    client: Client,
    number: u64,
    lives: u64,
    streams: u64,
    key: String,
    end: Option<String>,
    /// The first revision that it has not seen; 0 before it knows one.
    next: u64,
    prev: bool,
    /// How slow it is at most, in milliseconds.
    slow_ms: u64,
}

/// A watcher; the first one watches everything from the beginning.
pub(super) async fn run(client: Client, number: u64) {
    let mut client = client;
    let all = number == 0;
    // Keys of clients and of leases: those that only transactions change.
    let key = if all { "k".to_owned() } else { format!("k{}", client.random.below(5)) };
    let end = if all { prefix_end("l") } else { "k9".to_owned() };
    let single = !all && client.random.below(3) == 0;
    let slow_ms = if client.random.below(3) == 0 { 400 } else { 20 };
    let reader = Reader {
        number,
        lives: 0,
        streams: 0,
        key,
        end: Some(end).filter(|_| !single),
        // The store begins at revision 1.
        next: if all { 2 } else { 0 },
        prev: all || client.random.below(2) == 0,
        slow_ms: if all { 5 } else { slow_ms },
        client,
    };
    reader.read().await;
}

impl Reader {
    fn watch(&self, start: u64, step: WatchStep) -> Op {
        Op::Watch(Watch {
            watch: self.number * STREAMS + self.streams,
            reader: self.number * STREAMS + self.lives,
            key: self.key.clone(),
            end: self.end.clone(),
            start,
            prev: self.prev,
            revision: None,
            step,
        })
    }

    fn note(&self, kind: Kind, start: u64, step: WatchStep, node: HostId) {
        let (process, op) = (self.client.process, self.watch(start, step));
        self.client.all.recorder.record(process, kind, op, Some(node), None);
    }

    async fn read(mut self) {
        while self.client.all.stage.watches() {
            let node = self.client.node();
            let start = self.next;
            self.streams += 1;
            // A stream of its own is a process of its own.
            self.client.process = self.client.all.recorder.new_process();
            self.note(Kind::Invoke, start, WatchStep::Create, node);
            if let Some(outputs) = self.open(node, start).await {
                self.follow(outputs, start, node).await;
            }
            self.note(Kind::Ok, start, WatchStep::Closed, node);
            self.client.think(200).await;
        }
    }

    async fn open(&mut self, node: HostId, start: u64) -> Option<mpsc::Receiver<Output>> {
        let drawn = if self.client.random.below(2) == 0 { 0 } else { 300 };
        let interval = if self.number == 0 { 300 } else { drawn };
        let create = Create {
            id: 1,
            range: convert::range(&self.key, self.end.as_deref()),
            start: Revision::new(start),
            history: Vec::new(),
            shape: Shape { previous: self.prev, keys_only: false },
            progress_interval: Duration::from_millis(interval),
        };
        let asked = self.client.all.doors.ask(node, PATIENCE, move |services| async move {
            let mut session = Session::open(services.hub.clone()).await.ok()?;
            session.create(create).await.ok()?;
            let (sender, receiver) = mpsc::channel(UNDER_WAY_MAX);
            tokio::spawn(pump(session, sender));
            Some(receiver)
        });
        asked.await.ok().flatten()
    }

    /// Takes what comes until the stream ends.
    async fn follow(&mut self, mut outputs: mpsc::Receiver<Output>, start: u64, node: HostId) {
        let patience = Duration::from_millis(500 + self.client.random.below(4_000));
        let mut moved = (self.next, Instant::now());
        while self.client.all.stage.watches() {
            if self.client.all.doors.is_shut(node) {
                return;
            }
            // A watcher that hears nothing for long goes elsewhere.
            let output = tokio::time::timeout(patience, outputs.recv()).await;
            let Ok(Some(output)) = output else { return };
            let goes_on = self.take(output, start, node);
            if self.number == 0 {
                self.client.all.watched.store(self.next.saturating_sub(1), Ordering::Relaxed);
            }
            if !goes_on {
                return;
            }
            // A node that was removed, or is cut off, has nothing new to tell and
            // may not know: the library asks the cluster, and goes elsewhere.
            if moved.0 != self.next {
                moved = (self.next, Instant::now());
            } else if moved.1.elapsed() > STILL_MAX {
                return;
            }
            self.client.think(self.slow_ms).await;
        }
    }

    /// Notes a response. Whether the stream goes on.
    fn take(&mut self, output: Output, start: u64, node: HostId) -> bool {
        match output {
            Output::Created { start: first, .. } => {
                self.next = self.next.max(first.get());
                self.note(Kind::Ok, start, WatchStep::Created { start: first.get() }, node);
                true
            }
            Output::Events { events, .. } => {
                let prev = self.prev;
                let changes: Vec<Change> =
                    events.into_iter().map(|event| change(event, prev)).collect();
                let last = changes.last().map_or(0, |change| change.revision);
                self.next = self.next.max(last + 1);
                self.note(Kind::Ok, start, WatchStep::Changes(changes), node);
                true
            }
            Output::Progress { revision, .. } => {
                self.next = self.next.max(revision.get() + 1);
                self.note(Kind::Ok, start, WatchStep::Progress(revision.get()), node);
                true
            }
            Output::Canceled { end, .. } => {
                let compact_revision = match &end {
                    End::Compacted { oldest } => Some(oldest.get()),
                    _ => None,
                };
                let reason = end.reason().replace('_', "-");
                let step = WatchStep::Canceled { reason, compact_revision };
                self.note(Kind::Ok, start, step, node);
                if let Some(oldest) = compact_revision {
                    // Another reader, from what is left.
                    self.lives += 1;
                    self.next = oldest;
                }
                false
            }
        }
    }
}

/// Sends what a session has to say for as long as somebody listens.
async fn pump(mut session: Session, sender: mpsc::Sender<Output>) {
    loop {
        while let Some(output) = session.take() {
            if sender.send(output).await.is_err() {
                return;
            }
        }
        if session.is_ended() {
            return;
        }
        tokio::select! {
            biased;
            () = sender.closed() => return,
            () = session.advance() => {}
        }
    }
}

/// As the service shows it: the record before only if that was asked for.
fn change(event: Event, prev: bool) -> Change {
    let record = |record: Option<keelstone_store::machine::Record>| {
        let key = event.key.clone();
        record.map(|record| convert::key_value(KeyRecord { key, record }))
    };
    let kv = record(event.record.clone());
    Change {
        revision: event.revision.get(),
        kind: if kv.is_some() { ChangeKind::Put } else { ChangeKind::Delete },
        key: convert::name(&event.key),
        prev: record(event.previous.clone()).filter(|_| prev),
        kv,
    }
}
