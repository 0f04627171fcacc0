//! What the client does when the node that led falls silent: it asks the others
//! who leads, and does not wait for it if they name another.
//!
//! Attempts may last much longer here than any test: what comes back before did
//! not wait for one to end.

#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod node;

use keelstone_client::{Client, ClientBuilder, Outcome};
use node::{Act, Node, State};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than any test that passes.
const ATTEMPT: Duration = Duration::from_secs(50);
/// The least time between two rounds of questions.
const INTERVAL_MS: u128 = 100;

async fn nodes(count: usize) -> (Vec<Node>, Arc<Mutex<State>>) {
    let state = Arc::new(Mutex::new(State { revision: 1, ..State::default() }));
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(Node::start(&state).await);
    }
    (nodes, state)
}

fn builder(nodes: &[Node]) -> ClientBuilder {
    Client::builder()
        .endpoints(nodes.iter().map(|node| node.address.clone()))
        .timeout(ATTEMPT * 2)
        .attempt_timeout(ATTEMPT)
}

/// Waits until a node was asked so often who leads.
async fn asked(node: &Node, times: u64) {
    let asked = async {
        while node.asked() < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(ATTEMPT / 2, asked).await.unwrap();
}

#[tokio::test]
async fn a_write_leaves_a_silent_leader_if_another_leads() {
    let (nodes, state) = nodes(2).await;
    nodes[0].script([Act::Hang]);
    nodes[1].believes(2, &nodes[1].address);
    let client = builder(&nodes).connect_lazy().unwrap();
    let begun = Instant::now();
    client.kv().put("a", "1").send().await.unwrap();
    assert!(begun.elapsed() < ATTEMPT / 2, "it waited for the attempt to end");
    assert!(nodes[1].asked() >= 1, "nobody was asked");
    assert_eq!((nodes[0].requests(), nodes[1].requests()), (1, 1));
    assert_eq!(state.lock().unwrap().puts.values().sum::<u64>(), 1);
    // It stays there, and asks nobody any more.
    let before = nodes[1].asked();
    client.kv().put("a", "2").send().await.unwrap();
    client.kv().get("a").await.unwrap();
    assert_eq!((nodes[0].requests(), nodes[1].requests()), (1, 3));
    assert_eq!(nodes[1].asked(), before);
}

#[tokio::test]
async fn a_silent_leader_is_left_only_when_the_others_have_elected() {
    let (nodes, _) = nodes(2).await;
    nodes[0].script([Act::Hang]);
    nodes[1].believes(1, &nodes[0].address);
    let client = builder(&nodes).connect_lazy().unwrap();
    let writer = tokio::spawn(async move { client.kv().put("a", "1").send().await });
    asked(&nodes[1], 4).await;
    assert!(!writer.is_finished());
    assert_eq!((nodes[0].requests(), nodes[1].requests()), (1, 0), "it was abandoned too early");
    // Nobody leads for a while.
    nodes[1].believes(2, "");
    asked(&nodes[1], nodes[1].asked() + 3).await;
    assert!(!writer.is_finished());
    nodes[1].believes(2, &nodes[1].address);
    writer.await.unwrap().unwrap();
    assert_eq!((nodes[0].requests(), nodes[1].requests()), (1, 1));
}

#[tokio::test]
async fn of_the_others_the_one_that_knows_the_newest_term_is_believed() {
    let (nodes, _) = nodes(3).await;
    nodes[0].script([Act::Hang]);
    // One is cut off and names who led before both.
    nodes[1].believes(4, &nodes[1].address);
    nodes[2].believes(5, &nodes[2].address);
    let client = builder(&nodes).connect_lazy().unwrap();
    client.kv().put("a", "1").send().await.unwrap();
    let requests: Vec<_> = nodes.iter().map(Node::requests).collect();
    assert_eq!(requests, [1, 0, 1]);
}

#[tokio::test]
async fn a_term_that_is_over_is_not_believed_when_nobody_else_answers() {
    let (mut nodes, _) = nodes(3).await;
    nodes[0].script([Act::Hang]);
    // Both know who leads, one of them only who led before.
    nodes[1].believes(4, &nodes[1].address);
    nodes[2].believes(5, &nodes[0].address);
    let client = builder(&nodes).connect_lazy().unwrap();
    let writer = tokio::spawn(async move { client.kv().put("a", "1").send().await });
    asked(&nodes[2], 2).await;
    nodes.remove(2).stop().await;
    asked(&nodes[1], nodes[1].asked() + 4).await;
    assert!(!writer.is_finished());
    assert_eq!((nodes[0].requests(), nodes[1].requests()), (1, 0));
}

#[tokio::test]
async fn what_may_not_be_sent_again_is_never_abandoned() {
    let (nodes, state) = nodes(2).await;
    let time = Duration::from_secs(1);
    nodes[1].believes(2, &nodes[1].address);
    let client = builder(&nodes).timeout(time).sessions(false).connect_lazy().unwrap();
    nodes[0].script([Act::Hang]);
    let error = client.kv().put("a", "1").send().await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    assert_eq!((nodes[0].requests(), nodes[1].requests()), (1, 0));

    // A change of the cluster has no identity, even with sessions.
    let client = builder(&nodes).timeout(time).connect_lazy().unwrap();
    nodes[0].script([Act::Hang]);
    let error = client.cluster().transfer(None).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    assert_eq!((nodes[0].requests(), nodes[1].requests()), (2, 0));
    assert_eq!(nodes[1].asked(), 0, "there was nothing to ask for");
    assert_eq!(state.lock().unwrap().puts.values().sum::<u64>(), 0);
}

#[tokio::test]
async fn many_calls_to_a_slow_leader_ask_as_often_as_one() {
    let (nodes, state) = nodes(2).await;
    nodes[1].believes(1, &nodes[0].address);
    let client = builder(&nodes).connect_lazy().unwrap();
    client.kv().put("first", "1").send().await.unwrap();
    // Each is answered soon after it began to ask, which ends its question.
    let late = (0..200).map(|n| Act::Late(Duration::from_millis(250 + n * 2)));
    nodes[0].script(late);
    let begun = Instant::now();
    let writers = (0..200).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.kv().put(format!("k{n}"), "v").send().await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    let most = u64::try_from(begun.elapsed().as_millis() / INTERVAL_MS).unwrap() + 1;
    let asked = nodes[1].asked();
    assert!((1..=most).contains(&asked), "asked {asked} times, at most {most} were due");
    assert_eq!(nodes[1].requests(), 0);
    assert_eq!(state.lock().unwrap().puts.len(), 201);
}
