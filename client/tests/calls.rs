//! What the client does when nodes fail, lie about who leads, or fall silent:
//! against real sockets and scripted nodes.

#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod node;

use keelstone_client::{Client, ErrorKind, Outcome, Revision};
use keelstone_proto::v1::ErrorDetail;
use node::{Act, Node, State, detail};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::Code;

struct Cluster {
    state: Arc<Mutex<State>>,
    nodes: Vec<Node>,
}

impl Cluster {
    async fn of(nodes: usize) -> Self {
        let state = Arc::new(Mutex::new(State { revision: 1, ..State::default() }));
        let mut cluster = Self { state, nodes: Vec::new() };
        for _ in 0..nodes {
            cluster.nodes.push(Node::start(&cluster.state).await);
        }
        cluster
    }

    fn builder(&self) -> keelstone_client::ClientBuilder {
        Client::builder()
            .endpoints(self.nodes.iter().map(|node| node.address.clone()))
            .timeout(Duration::from_secs(3))
            .attempt_timeout(Duration::from_millis(300))
    }

    fn client(&self) -> Client {
        self.builder().connect_lazy().unwrap()
    }

    fn puts(&self, key: &str) -> u64 {
        self.state.lock().unwrap().puts.get(key.as_bytes()).copied().unwrap_or(0)
    }
}

#[tokio::test]
async fn follows_the_hint_to_a_leader_it_was_not_told_of() {
    let cluster = Cluster::of(2).await;
    let leader = cluster.nodes[1].address.clone();
    cluster.nodes[0].script([Act::NotLeader(Some(leader))]);
    let client = Client::builder().endpoints([cluster.nodes[0].address.clone()]);
    let client = client.connect_lazy().unwrap();
    client.kv().put("a", "1").send().await.unwrap();
    assert_eq!((cluster.nodes[0].requests(), cluster.nodes[1].requests()), (1, 1));
    // It stays there.
    client.kv().put("a", "2").send().await.unwrap();
    assert_eq!((cluster.nodes[0].requests(), cluster.nodes[1].requests()), (1, 2));
}

#[tokio::test]
async fn goes_round_until_somebody_leads() {
    let cluster = Cluster::of(3).await;
    for node in &cluster.nodes {
        node.script([Act::NotLeader(None), Act::NotLeader(None)]);
    }
    cluster.client().kv().put("a", "1").send().await.unwrap();
    assert_eq!(cluster.puts("a"), 1);
    assert_eq!(cluster.nodes.iter().map(Node::requests).sum::<u64>(), 7);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_done_once() {
    let cluster = Cluster::of(2).await;
    cluster.nodes[0].script([Act::DoAndBreak]);
    let reply = cluster.client().kv().put("a", "1").send().await.unwrap();
    assert_eq!(cluster.puts("a"), 1);
    assert_eq!(reply.at.revision, Revision::new(2), "the answer is the first one's");
}

#[tokio::test]
async fn without_sessions_a_lost_answer_is_unknown_and_nothing_is_repeated() {
    for act in [Act::DoAndBreak, Act::Break] {
        let cluster = Cluster::of(2).await;
        cluster.nodes[0].script([act.clone()]);
        let client = cluster.builder().sessions(false).connect_lazy().unwrap();
        let error = client.kv().put("a", "1").send().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Unknown, "{act:?}");
        assert!(error.is_unknown());
        assert_eq!(cluster.nodes.iter().map(Node::requests).sum::<u64>(), 1, "{act:?}");
    }
}

#[tokio::test]
async fn without_sessions_a_refusal_and_a_dead_node_are_tried_elsewhere() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.builder().sessions(false).connect_lazy().unwrap();
    cluster.nodes.remove(0).stop().await;
    cluster.nodes[0].script([Act::NotLeader(None)]);
    client.kv().put("a", "1").send().await.unwrap();
    assert_eq!(cluster.puts("a"), 1);
}

#[tokio::test]
async fn a_session_that_expired_before_the_write_is_opened_again() {
    let cluster = Cluster::of(1).await;
    let client = cluster.client();
    client.kv().put("a", "1").send().await.unwrap();
    cluster.nodes[0].script([Act::Forget]);
    client.kv().put("a", "2").send().await.unwrap();
    assert_eq!(cluster.puts("a"), 2);
}

#[tokio::test]
async fn a_session_that_expired_under_a_write_makes_it_unknown() {
    let cluster = Cluster::of(1).await;
    cluster.nodes[0].script([Act::DoAndBreak, Act::Forget]);
    let client = cluster.client();
    let error = client.kv().put("a", "1").send().await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    assert_eq!(cluster.puts("a"), 1, "it must not be done a second time");
    // The next write has a session again.
    client.kv().put("b", "1").send().await.unwrap();
}

#[tokio::test]
async fn a_silent_node_does_not_eat_the_time_of_the_call() {
    let cluster = Cluster::of(2).await;
    cluster.nodes[0].script([Act::Hang, Act::Hang]);
    let client = cluster.client();
    let begun = Instant::now();
    client.kv().put("a", "1").send().await.unwrap();
    client.kv().get("a").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn when_the_time_is_up_the_error_says_what_became_of_the_write() {
    let cluster = Cluster::of(2).await;
    let client = cluster.client().with_timeout(Duration::from_millis(600));
    for node in &cluster.nodes {
        node.script(std::iter::repeat_n(Act::NotLeader(None), 100));
    }
    let error = client.kv().put("a", "1").send().await.unwrap_err();
    let expected = ErrorKind::DeadlineExceeded { outcome: Outcome::NotApplied };
    assert_eq!(error.kind(), &expected);

    let cluster = Cluster::of(2).await;
    let client = cluster.client().with_timeout(Duration::from_millis(600));
    for node in &cluster.nodes {
        node.script(std::iter::repeat_n(Act::Break, 100));
    }
    let error = client.kv().put("a", "1").send().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::DeadlineExceeded { outcome: Outcome::Unknown });
    assert!(error.is_unknown());
    let error = client.kv().get("a").await.unwrap_err();
    let expected = ErrorKind::DeadlineExceeded { outcome: Outcome::NotApplied };
    assert_eq!(error.kind(), &expected, "a read has no effect");
}

#[tokio::test]
async fn a_refusal_is_told_by_kind_and_not_repeated() {
    let conflict = ErrorDetail { current_revision: 9, ..detail("conflict") };
    let large =
        ErrorDetail { field: "value".to_owned(), limit: 10, actual: 11, ..detail("too_large") };
    let cases = [
        (Code::Aborted, conflict, ErrorKind::Conflict { current_revision: Revision::new(9) }),
        (Code::NotFound, detail("not_found"), ErrorKind::NotFound),
        (Code::AlreadyExists, detail("already_exists"), ErrorKind::AlreadyExists),
        (
            Code::InvalidArgument,
            large,
            ErrorKind::TooLarge { field: "value".to_owned(), limit: 10, actual: 11 },
        ),
        (Code::PermissionDenied, detail("denied"), ErrorKind::Denied),
        (Code::Unauthenticated, detail("unauthenticated"), ErrorKind::Unauthenticated),
    ];
    for (code, detail, expected) in cases {
        let cluster = Cluster::of(1).await;
        cluster.nodes[0].script([Act::Refuse(code, detail)]);
        let error = cluster.client().kv().put("a", "1").send().await.unwrap_err();
        assert_eq!(error.kind(), &expected);
        assert_eq!(error.outcome(), Outcome::NotApplied);
        assert_eq!(cluster.nodes[0].requests(), 1);
    }
}

#[tokio::test]
async fn a_node_that_came_back_is_used_again() {
    let mut cluster = Cluster::of(1).await;
    let client = cluster.client();
    client.kv().put("a", "1").send().await.unwrap();
    let address = cluster.nodes[0].address.clone();
    cluster.nodes.remove(0).stop().await;
    let state = cluster.state.clone();
    let back = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        Node::start_at(&address, &state).await
    });
    client.kv().put("a", "2").send().await.unwrap();
    assert_eq!(cluster.puts("a"), 2);
    drop(back.await.unwrap());
}

#[tokio::test]
async fn many_writers_through_failing_nodes_write_exactly_once() {
    let cluster = Cluster::of(3).await;
    let client = cluster.builder().timeout(Duration::from_secs(20)).connect_lazy().unwrap();
    for node in &cluster.nodes {
        let acts = [Act::DoAndBreak, Act::NotLeader(None), Act::Break];
        node.script(acts.into_iter().cycle().take(120));
    }
    let writers = (0..300).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let key = format!("k{number}");
            client.kv().put(key, "v").send().await.unwrap();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for number in 0..300 {
        assert_eq!(cluster.puts(&format!("k{number}")), 1, "k{number}");
    }
}

#[tokio::test]
async fn a_watch_delivers_each_change_once_though_its_streams_break() {
    let cluster = Cluster::of(3).await;
    {
        let mut state = cluster.state.lock().unwrap();
        state.watch_breaks_after = 3;
        state.history = vec![7; 16];
    }
    let client = cluster.client();
    let mut watch = client.kv().watch("a").start().await.unwrap();
    let writer = tokio::spawn(async move {
        for _ in 0..50 {
            client.kv().put("a", "1").send().await.unwrap();
        }
    });
    for expected in 2..52 {
        let changes = watch.next().await.unwrap().unwrap();
        assert_eq!(changes.revision, Revision::new(expected));
        assert_eq!(changes.events.len(), 1);
    }
    writer.await.unwrap();
    assert!(cluster.state.lock().unwrap().watches > 10, "the streams must have broken");
    assert_eq!(watch.progress().revision, Revision::new(51));
}

#[tokio::test]
async fn a_watch_leaves_a_node_that_was_cut_off() {
    let cluster = Cluster::of(2).await;
    let client = cluster.client();
    // Watches go to the nodes in turn: each serves one.
    let mut watches = Vec::new();
    for _ in 0..2 {
        watches.push(client.kv().watch("a").start().await.unwrap());
    }
    client.kv().put("a", "1").send().await.unwrap();
    for watch in &mut watches {
        watch.next().await.unwrap().unwrap();
    }
    // It still answers, and hears nothing of the others any more.
    cluster.nodes[0].freeze();
    client.kv().put("a", "2").send().await.unwrap();
    let delivered = watches.iter_mut().map(|watch| async move {
        let changes = tokio::time::timeout(Duration::from_secs(12), watch.next()).await;
        changes.unwrap().unwrap().unwrap().revision
    });
    let delivered = futures::future::join_all(delivered).await;
    assert_eq!(delivered, [Revision::new(3), Revision::new(3)]);
    assert_eq!(cluster.state.lock().unwrap().watches, 3, "one had to move");
}

#[tokio::test]
async fn a_watch_ends_when_its_history_is_gone_or_another() {
    let cluster = Cluster::of(1).await;
    let client = cluster.client();
    cluster.state.lock().unwrap().compacted = 40;
    let mut watch = client.kv().watch("a").after(Revision::new(7)).start().await.unwrap();
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Compacted { oldest: Revision::new(40) });
    assert_eq!(watch.next().await.unwrap(), None);

    let cluster = Cluster::of(1).await;
    let client = cluster.client();
    cluster.state.lock().unwrap().history = vec![1; 16];
    let mut watch = client.kv().watch("a").start().await.unwrap();
    client.kv().put("a", "1").send().await.unwrap();
    watch.next().await.unwrap().unwrap();
    cluster.state.lock().unwrap().history = vec![2; 16];
    client.kv().put("a", "1").send().await.unwrap();
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::HistoryChanged);
}

#[tokio::test]
async fn a_lease_is_renewed_through_failures_and_known_to_be_lost() {
    let mut cluster = Cluster::of(2).await;
    let ttl = Duration::from_millis(900);
    cluster.state.lock().unwrap().lease_ttl_ms = 900;
    let client = cluster.client();
    let lease = client.leases().hold(ttl).await.unwrap();
    assert!(lease.is_held());
    cluster.nodes[0].script([Act::NotLeader(None), Act::Break]);
    let lost = tokio::time::timeout(Duration::from_secs(2), lease.lost()).await;
    assert!(lost.is_err(), "it must be renewed through the failures");
    let renewals = cluster.state.lock().unwrap().renewals;
    assert!((4..=14).contains(&renewals), "{renewals} renewals in 2 s of 900 ms each");

    // The cluster says that it ended.
    cluster.state.lock().unwrap().lease_ttl_ms = 0;
    tokio::time::timeout(ttl, lease.lost()).await.unwrap();
    assert!(!lease.is_held());

    // No node answers any more: it is lost when its time is over.
    cluster.state.lock().unwrap().lease_ttl_ms = 900;
    let lease = client.leases().hold(ttl).await.unwrap();
    cluster.nodes.clear();
    let begun = Instant::now();
    tokio::time::timeout(Duration::from_secs(3), lease.lost()).await.unwrap();
    assert!(begun.elapsed() <= ttl + Duration::from_millis(100), "{:?}", begun.elapsed());
}
