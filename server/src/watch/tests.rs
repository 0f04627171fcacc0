//! One test for each promise of a watch, over the machine and a state in memory.

use super::*;
use crate::metrics::WatchState;
use crate::solo::Solo;
use bytes::Bytes;
use keelstone_store::machine::{Command, Delete, Event, Op, Put, Txn};
use keelstone_store::{KeyRange, Space};

const TICK: Duration = Duration::from_millis(20);

/// A store, its hub, and what can be done to them.
struct Bench {
    core: Arc<Solo>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

fn limits() -> Limits {
    Limits { streams_max: 100, watches_per_stream_max: 10, bytes_max: 64 * 1024 }
}

impl Bench {
    fn new() -> Self {
        Self::with(Solo::new(), limits())
    }

    fn with(core: Arc<Solo>, limits: Limits) -> Self {
        let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
        let hub = Hub::new(core.clone(), limits, metrics.clone(), stop.clone());
        Self { core, hub, metrics, stop }
    }

    fn txn(&self, then: Vec<Op>) -> u64 {
        let txn = Txn { then, ..Txn::default() };
        self.core.apply_command(Command::Txn(txn)).unwrap().revision.get()
    }

    fn put(&self, key: &str, value: &str) -> u64 {
        self.txn(vec![put(key, value)])
    }

    fn delete(&self, key: &str) -> u64 {
        self.txn(vec![delete(key)])
    }

    fn compact(&self, revision: u64) {
        let revision = Revision::new(revision);
        self.core.apply_command(Command::Compact { revision }).unwrap();
        self.core.remove_compacted();
    }

    async fn session(&self) -> Session {
        Session::open(self.hub.clone()).await.unwrap()
    }

    /// A session with watch 1 of keys that begin with `prefix`.
    async fn watching(&self, prefix: &str, start: u64) -> Session {
        let mut session = self.session().await;
        session.create(create(1, prefix, start)).await.unwrap();
        session
    }

    fn watches(&self, state: &'static str) -> i64 {
        self.metrics.watches.get_or_create(&WatchState { state }).get()
    }
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(Put::new(Space::Raw.key(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes())))
}

fn delete(key: &str) -> Op {
    let range = KeyRange::single(&Space::Raw.key(key.as_bytes()));
    Op::Delete(Delete { range, previous: false })
}

fn create(id: u64, prefix: &str, start: u64) -> Create {
    Create {
        id,
        range: KeyRange::prefix(Space::Raw.key(prefix.as_bytes()).0),
        start: Revision::new(start),
        history: Vec::new(),
        shape: Shape { previous: true, keys_only: false },
        progress_interval: Duration::ZERO,
    }
}

/// `r3 a=1<0` for a put, `r4 a-<1` for a deletion; `<` is followed by the value
/// before.
fn shown(event: &Event) -> String {
    let value = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let key = value(&event.key.name());
    let now = event.record.as_ref().map_or("-".into(), |r| format!("={}", value(&r.value)));
    let before = event.previous.as_ref().map(|r| format!("<{}", value(&r.value)));
    format!("{} {key}{now}{}", event.revision, before.unwrap_or_default())
}

/// One line for what is told, `1: r3 a=1, r3 b=1`.
fn line(output: &Output) -> String {
    match output {
        Output::Created { id, start } => format!("{id}: created {start}"),
        Output::Events { id, events, .. } => {
            format!("{id}: {}", events.iter().map(shown).collect::<Vec<_>>().join(", "))
        }
        Output::Progress { id, revision } => format!("{id}: progress {revision}"),
        Output::Canceled { id, end } => format!("{id}: canceled {}", end.reason()),
    }
}

/// What the session tells until it has nothing more to tell for a tick.
async fn told(session: &mut Session) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        while let Some(output) = session.take() {
            lines.push(line(&output));
        }
        if tokio::time::timeout(TICK, session.advance()).await.is_err() || session.is_ended() {
            lines.extend(std::iter::from_fn(|| session.take()).map(|output| line(&output)));
            return lines;
        }
    }
}

#[tokio::test]
async fn events_come_in_order_with_the_record_before() {
    let bench = Bench::new();
    let mut session = bench.watching("a", 0).await;
    bench.put("a", "1");
    bench.put("b", "1");
    bench.put("a", "2");
    bench.delete("a");
    bench.put("a", "3");
    assert_eq!(told(&mut session).await, ["1: created r2", "1: r2 a=1, r4 a=2<1, r5 a-<2, r6 a=3"]);
}

#[tokio::test]
async fn all_events_of_a_revision_are_in_one_response() {
    let value = "x".repeat(40_000);
    let bench = Bench::new();
    let mut session = bench.watching("", 0).await;
    bench.txn(vec![put("a", &value), put("b", &value), put("c", &value)]);
    bench.txn(vec![put("d", &value)]);
    bench.txn(vec![put("e", &value), put("f", &value)]);
    told(&mut session).await;
    // Read from history, in steps of 64 KiB: the same cuts between revisions.
    let mut late = bench.watching("", 2).await;
    let mut revisions = Vec::new();
    late.advance().await;
    while let Some(output) = late.take() {
        if let Output::Events { events, .. } = output {
            let numbers: Vec<_> = events.iter().map(|event| event.revision.get()).collect();
            revisions.push(numbers);
        }
        if tokio::time::timeout(TICK, late.advance()).await.is_err() {
            break;
        }
    }
    assert_eq!(revisions, [vec![2, 2, 2], vec![3, 4, 4]]);
}

#[tokio::test]
async fn a_watch_is_created_before_it_is_told_anything() {
    let bench = Bench::new();
    bench.put("a", "1");
    let mut session = bench.watching("a", 2).await;
    assert_eq!(told(&mut session).await, ["1: created r2", "1: r2 a=1"]);
}

#[tokio::test]
async fn a_start_in_the_past_reads_history_from_disk_and_goes_on() {
    // No memory for changes at all: everything comes from disk.
    let bench = Bench::with(Solo::with_changes_bytes(0), limits());
    for number in 0..50 {
        bench.put("a", &number.to_string());
    }
    let mut session = bench.watching("a", 3).await;
    let lines = told(&mut session).await.join(" ");
    assert_eq!(lines.matches("a=").count(), 49);
    assert!(lines.contains("r3 a=1<0") && lines.ends_with("r51 a=49<48"), "{lines}");
    assert!(bench.metrics.watch_history_reads.get() >= 1);
    bench.put("a", "50");
    assert_eq!(told(&mut session).await, ["1: r52 a=50<49"]);
    assert_eq!((bench.watches("synced"), bench.watches("behind")), (1, 0));
}

#[tokio::test]
async fn a_start_in_the_future_is_told_nothing_older() {
    let bench = Bench::new();
    let mut session = bench.session().await;
    let interval = Duration::from_millis(1);
    session.create(Create { progress_interval: interval, ..create(1, "a", 5) }).await.unwrap();
    session.ask_progress(1);
    bench.put("a", "1");
    bench.put("a", "2");
    tokio::time::sleep(PROGRESS_MIN * 2).await;
    // Neither events nor progress before revision 5.
    assert_eq!(told(&mut session).await, ["1: created r5"]);
    bench.put("a", "3");
    bench.put("a", "4");
    let lines = told(&mut session).await;
    assert_eq!(lines[0], "1: r5 a=4<3", "{lines:?}");
    assert_eq!(lines[1], "1: progress r5", "{lines:?}");
}

#[tokio::test]
async fn a_slow_stream_falls_behind_and_misses_nothing() {
    // Memory for a few changes only.
    let bench = Bench::with(Solo::with_changes_bytes(1000), limits());
    let mut slow = bench.watching("a", 0).await;
    let mut other = bench.watching("a", 0).await;
    let mut quick_lines = told(&mut other).await;
    for number in 0..100 {
        bench.put("a", &number.to_string());
        if number % 3 == 0 {
            quick_lines.extend(told(&mut other).await);
        }
    }
    quick_lines.extend(told(&mut other).await);
    let events = |lines: &[String]| {
        let all = lines.iter().filter_map(|line| line.strip_prefix("1: r"));
        all.collect::<Vec<_>>().join(", r").split(", ").map(str::to_owned).collect::<Vec<_>>()
    };
    let slow_lines = told(&mut slow).await;
    assert_eq!(events(&slow_lines).len(), 100);
    assert_eq!(events(&slow_lines), events(&quick_lines));
    assert_eq!((bench.watches("synced"), bench.watches("behind")), (2, 0));
}

#[tokio::test]
async fn a_watch_that_is_behind_does_not_hold_up_the_others() {
    let small = Limits { bytes_max: 10, ..limits() };
    let bench = Bench::with(Solo::with_changes_bytes(0), small);
    for number in 0..10 {
        bench.put("a", &number.to_string());
    }
    let mut session = bench.watching("a", 2).await;
    session.create(create(2, "b", 0)).await.unwrap();
    bench.put("b", "new");
    let lines = told(&mut session).await;
    let position = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
    // Watch 1 reads one revision a step; watch 2 is told in between.
    assert!(position("2: r12 b=new") < position("1: r11 a=9"), "{lines:#?}");
}

#[tokio::test]
async fn progress_comes_after_the_events_and_when_asked() {
    let bench = Bench::new();
    let mut session = bench.watching("a", 0).await;
    bench.put("a", "1");
    bench.put("b", "1");
    session.ask_progress(1);
    session.ask_progress(77);
    assert_eq!(told(&mut session).await, ["1: created r2", "1: r2 a=1", "1: progress r3"]);
    assert_eq!(told(&mut session).await, Vec::<String>::new());
}

#[tokio::test]
async fn progress_is_told_when_idle() {
    let bench = Bench::new();
    let mut session = bench.session().await;
    let progress_interval = Duration::from_millis(150);
    session.create(Create { progress_interval, ..create(1, "a", 0) }).await.unwrap();
    bench.put("b", "1");
    assert_eq!(told(&mut session).await, ["1: created r2"]);
    session.advance().await;
    assert_eq!(line(&session.take().unwrap()), "1: progress r2");
    session.advance().await;
    assert_eq!(line(&session.take().unwrap()), "1: progress r2");
    // Events postpone it.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(70)).await;
        bench.put("a", "1");
        session.advance().await;
        assert!(line(&session.take().unwrap()).contains("a=1"));
    }
}

#[tokio::test]
async fn a_compacted_start_is_told_the_oldest_revision() {
    let bench = Bench::with(Solo::with_changes_bytes(0), limits());
    for number in 0..10 {
        bench.put("a", &number.to_string());
    }
    bench.delete("a");
    bench.compact(12);
    let mut session = bench.watching("a", 5).await;
    let Some(Output::Canceled { id: 1, end: End::Compacted { oldest } }) = session.take() else {
        panic!("it was not cancelled");
    };
    assert_eq!(oldest.get(), 12);
    // At exactly the oldest revision what is kept is told, the deletion too.
    session.create(create(1, "a", 12)).await.unwrap();
    let lines = told(&mut session).await;
    assert_eq!(lines[0], "1: created r12");
    assert!(lines[1].starts_with("1: r12 a-"), "{lines:?}");
}

#[tokio::test]
async fn a_stream_whose_place_was_compacted_is_told() {
    let bench = Bench::with(Solo::with_changes_bytes(0), limits());
    let mut session = bench.watching("a", 0).await;
    told(&mut session).await;
    for number in 0..10 {
        bench.put("a", &number.to_string());
    }
    bench.compact(9);
    assert_eq!(told(&mut session).await, ["1: canceled compacted"]);
    bench.put("a", "x");
    assert_eq!(told(&mut session).await, Vec::<String>::new());
}

#[tokio::test]
async fn another_history_is_told() {
    let bench = Bench::new();
    bench.put("a", "1");
    let mut session = bench.session().await;
    let with = |history: Vec<u8>| Create { history, ..create(1, "a", 2) };
    session.create(with(vec![9; 16])).await.unwrap();
    assert_eq!(told(&mut session).await, ["1: canceled history_changed"]);
    session.create(with(session.history().to_vec())).await.unwrap();
    assert_eq!(told(&mut session).await, ["1: created r2", "1: r2 a=1"]);
}

#[tokio::test]
async fn after_a_snapshot_nothing_is_told_twice_or_left_out() {
    let (bench, leader) = (Bench::new(), Bench::new());
    let both = |key: &str, value: &str| {
        bench.put(key, value);
        leader.put(key, value);
    };
    both("a", "1");
    both("b", "1");
    let mut session = bench.watching("a", 2).await;
    assert_eq!(told(&mut session).await, ["1: created r2", "1: r2 a=1"]);
    // This node does not hear of these, and is given a snapshot instead.
    leader.put("a", "2");
    leader.put("b", "2");
    leader.delete("a");
    session.ask_progress(1);
    bench.core.install_from(&leader.core);
    assert_eq!(told(&mut session).await, ["1: r4 a=2<1, r6 a-<2", "1: progress r6"]);
    // What is applied afterwards follows.
    bench.put("a", "3");
    assert_eq!(told(&mut session).await, ["1: r7 a=3"]);
    // If history was compacted meanwhile, that is told instead of a gap.
    leader.put("a", "3");
    leader.put("a", "4");
    leader.put("a", "5");
    leader.compact(9);
    bench.core.install_from(&leader.core);
    assert_eq!(told(&mut session).await, ["1: canceled compacted"]);
}

#[tokio::test]
async fn a_state_of_another_history_ends_the_stream() {
    let bench = Bench::new();
    let mut session = bench.watching("a", 0).await;
    told(&mut session).await;
    let other = Bench::with(Solo::with_history([8; 16], 1000), limits());
    other.put("a", "1");
    bench.core.install_from(&other.core);
    assert_eq!(told(&mut session).await, ["1: canceled history_changed"]);
    assert!(session.is_ended());
}

#[tokio::test]
async fn a_cancelled_watch_is_silent() {
    let bench = Bench::new();
    let mut session = bench.watching("a", 0).await;
    session.create(create(2, "a", 0)).await.unwrap();
    bench.put("a", "1");
    session.cancel(1);
    session.cancel(1);
    session.cancel(99);
    bench.put("a", "2");
    assert_eq!(
        told(&mut session).await,
        ["1: created r2", "2: created r2", "1: canceled requested", "2: r2 a=1, r3 a=2<1"]
    );
    // The id may be used again.
    session.create(create(1, "a", 0)).await.unwrap();
    bench.put("a", "3");
    assert_eq!(told(&mut session).await, ["1: created r4", "1: r4 a=3<2", "2: r4 a=3<2"]);
}

#[tokio::test]
async fn many_watches_share_a_stream() {
    let bench = Bench::new();
    let mut session = bench.session().await;
    for id in 0..10 {
        session.create(create(id, &format!("k{id}"), 0)).await.unwrap();
    }
    told(&mut session).await;
    for id in (0..10).rev() {
        bench.put(&format!("k{id}"), "v");
    }
    let mut lines = told(&mut session).await;
    lines.sort();
    let expected: Vec<_> = (0..10).map(|id| format!("{id}: r{} k{id}=v", 11 - id)).collect();
    assert_eq!(lines, expected);
    // One more is too many, and says so.
    session.create(create(10, "x", 0)).await.unwrap();
    let Some(Output::Canceled { id: 10, end: End::Invalid(problem) }) = session.take() else {
        panic!("it was not refused");
    };
    assert!(problem.contains("10 watches"), "{problem}");
}

#[tokio::test]
async fn an_id_that_is_in_use_breaks_the_protocol() {
    let bench = Bench::new();
    let mut session = bench.watching("a", 0).await;
    let refusal = session.create(create(1, "b", 0)).await.unwrap_err();
    assert_eq!(refusal.field, "create.watch_id");
}

#[tokio::test]
async fn an_empty_range_is_refused() {
    let bench = Bench::new();
    let mut session = bench.session().await;
    let range = KeyRange {
        start: Bytes::from_static(b"kb"),
        end: keelstone_store::RangeEnd::Until(Bytes::from_static(b"ka")),
    };
    session.create(Create { range, ..create(1, "", 0) }).await.unwrap();
    assert_eq!(told(&mut session).await, ["1: canceled invalid"]);
}

#[tokio::test]
async fn streams_are_limited_and_freed() {
    let bench = Bench::with(Solo::new(), Limits { streams_max: 2, ..limits() });
    let first = bench.session().await;
    let _second = bench.session().await;
    let end = Session::open(bench.hub.clone()).await.err().unwrap();
    assert_eq!(end, End::TooMany { limit: 2 });
    assert_eq!(bench.metrics.watch_streams.get(), 2);
    drop(first);
    bench.session().await;
}

#[tokio::test]
async fn a_stop_ends_all_watches() {
    let bench = Bench::new();
    let mut session = bench.watching("a", 0).await;
    session.create(create(2, "a", 0)).await.unwrap();
    told(&mut session).await;
    bench.stop.cancel();
    assert_eq!(told(&mut session).await, ["1: canceled stopping", "2: canceled stopping"]);
    assert!(session.is_ended());
    assert_eq!(Session::open(bench.hub.clone()).await.err(), Some(End::Stopping));
    assert_eq!(bench.watches("synced"), 0);
}

#[tokio::test]
async fn dropping_a_session_frees_its_watches() {
    let bench = Bench::new();
    let session = bench.watching("a", 0).await;
    assert_eq!(bench.watches("synced"), 1);
    drop(session);
    assert_eq!(bench.watches("synced"), 0);
}

/// Writers, and watches that begin anywhere and are read at any pace: each is
/// told exactly what happened from its start on.
#[tokio::test]
async fn what_is_told_is_exactly_what_happened() {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    let seed = rand::rng().random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let bench = Bench::with(Solo::with_changes_bytes(2000), Limits { bytes_max: 500, ..limits() });
    let mut history: Vec<(u64, String)> = Vec::new();
    let mut sessions: Vec<(u64, Session, Vec<String>)> = Vec::new();
    for step in 0..600 {
        let ops: Vec<Op> = (0..random.random_range(1..4))
            .map(|op| put(&format!("a{op}"), &step.to_string()))
            .collect();
        let count = ops.len();
        let revision = bench.txn(ops);
        history.extend((0..count).map(|op| (revision, format!("r{revision} a{op}={step}"))));
        if step % 20 == 0 {
            let start = random.random_range(2..revision + 10);
            let mut session = bench.session().await;
            let create = Create { shape: Shape::default(), ..create(1, "a", start) };
            session.create(create).await.unwrap();
            sessions.push((start, session, Vec::new()));
        }
        let (_, session, lines) = {
            let index = random.random_range(0..sessions.len());
            &mut sessions[index]
        };
        for _ in 0..random.random_range(0..3) {
            let _ = tokio::time::timeout(Duration::from_micros(50), session.advance()).await;
            lines.extend(session.take().map(|output| line(&output)));
        }
    }
    for (start, mut session, mut lines) in sessions {
        lines.extend(told(&mut session).await);
        let found: Vec<String> = lines
            .iter()
            .filter(|line| !line.contains("created"))
            .flat_map(|line| line.trim_start_matches("1: ").split(", "))
            .map(|event| event.split('<').next().unwrap().to_owned())
            .collect();
        let expected: Vec<String> = history
            .iter()
            .filter(|(revision, _)| *revision >= start)
            .map(|(_, line)| line.clone())
            .collect();
        assert_eq!(found, expected, "a watch from {start}, seed {seed}");
    }
}

mod feeds {
    use super::*;

    async fn open(bench: &Bench, start: u64, progress: Duration) -> Result<Feed<String>, End> {
        let select = |event: &Event| event.key.name().starts_with(b"a").then(|| shown(event));
        Feed::open(bench.hub.clone(), Revision::new(start), &[], progress, select).await
    }

    async fn next(feed: &mut Feed<String>) -> Option<String> {
        match tokio::time::timeout(TICK, feed.next()).await {
            Err(_) => None,
            Ok(Ok(Fed::Events(revision, events))) => Some(format!("{revision}: {events:?}")),
            Ok(Ok(Fed::Progress(revision))) => Some(format!("progress {revision}")),
            Ok(Err(end)) => Some(end.reason().to_owned()),
        }
    }

    #[tokio::test]
    async fn a_feed_tells_what_its_filter_takes_one_revision_at_a_time() {
        let bench = Bench::with(Solo::with_changes_bytes(0), limits());
        bench.put("a", "1");
        bench.put("b", "1");
        bench.txn(vec![put("a", "2"), put("b", "2"), put("ab", "2")]);
        let mut feed = open(&bench, 2, Duration::ZERO).await.unwrap();
        assert_eq!(next(&mut feed).await.unwrap(), "r2: [\"r2 a=1\"]");
        assert_eq!(next(&mut feed).await.unwrap(), "r4: [\"r4 a=2<1\", \"r4 ab=2\"]");
        assert_eq!(next(&mut feed).await, None);
        bench.delete("a");
        assert_eq!(next(&mut feed).await.unwrap(), "r5: [\"r5 a-<2\"]");
        bench.stop.cancel();
        assert_eq!(next(&mut feed).await.unwrap(), "stopping");
    }

    #[tokio::test]
    async fn a_feed_tells_progress_when_idle_and_not_before_its_start() {
        let bench = Bench::new();
        let mut feed = open(&bench, 4, PROGRESS_MIN).await.unwrap();
        bench.put("a", "1");
        tokio::time::sleep(PROGRESS_MIN * 2).await;
        assert_eq!(next(&mut feed).await, None);
        bench.put("b", "1");
        tokio::time::sleep(PROGRESS_MIN * 2).await;
        assert_eq!(next(&mut feed).await.unwrap(), "progress r3");
        bench.put("a", "2");
        assert_eq!(next(&mut feed).await.unwrap(), "r4: [\"r4 a=2<1\"]");
    }

    #[tokio::test]
    async fn a_feed_ends_with_a_reason() {
        let bench = Bench::with(Solo::with_changes_bytes(0), limits());
        let mut feed = open(&bench, 0, Duration::ZERO).await.unwrap();
        for number in 0..5 {
            bench.put("a", &number.to_string());
        }
        bench.compact(5);
        assert_eq!(next(&mut feed).await.unwrap(), "compacted");
        let end = open(&bench, 3, Duration::ZERO).await.err();
        assert_eq!(end, Some(End::Compacted { oldest: Revision::new(5) }));
    }
}
