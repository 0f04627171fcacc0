//! What is promised while leaders are killed: writes happen once, watches tell
//! each change once, and every error says what may have happened.

use keelstone_client::{Client, Compare, KeyRange, Op};
use keelstone_tests::running::Running;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Puts new keys until it is told to stop; returns which were acknowledged.
async fn write(client: Client, writer: u64, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("f/{writer}/{number:06}");
        // Its version must be 1 for ever: a second application makes it 2.
        client.kv().put(key.clone(), "x").send().await.unwrap();
        acknowledged.push(key);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_happen_once_and_watches_tell_them_once() {
    let mut running = Running::three().await;
    let client = running.client.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let prefix = KeyRange::prefix("f/");
    let mut watches = Vec::new();
    for _ in 0..4 {
        watches.push(client.kv().watch(prefix.clone()).start().await.unwrap());
    }
    let writers: Vec<_> =
        (0..4).map(|writer| tokio::spawn(write(client.clone(), writer, stop.clone()))).collect();
    running.kill_leaders(3).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert!(acknowledged.len() > 50, "only {} writes", acknowledged.len());

    let mut there = Vec::new();
    let mut pages = client.kv().range(prefix).limit(500).pages();
    while let Some(page) = pages.next().await.unwrap() {
        there.extend(page.kvs);
    }
    assert!(there.iter().all(|kv| kv.version == 1), "a write was applied twice");
    let keys: Vec<_> = there.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect();
    acknowledged.sort();
    assert_eq!(keys, acknowledged);

    // By revision, as watches tell them.
    there.sort_by_key(|kv| kv.mod_revision);
    for watch in &mut watches {
        for expected in &there {
            let changes = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
            let changes = changes.expect("every change is told").unwrap().unwrap();
            assert_eq!(changes.revision, expected.mod_revision);
            assert_eq!(changes.events.len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_counts_what_was_acknowledged() {
    let mut running = Running::three().await;
    let stop = Arc::new(AtomicBool::new(false));
    let counted = Arc::new(AtomicU64::new(0));
    running.client.kv().put("counter", "0").send().await.unwrap();
    let count = |client: Client, stop: Arc<AtomicBool>, counted: Arc<AtomicU64>| async move {
        while !stop.load(Ordering::Relaxed) {
            let now = client.kv().get("counter").await.unwrap().unwrap();
            let number: u64 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
            let swapped = client
                .kv()
                .txn()
                .when(Compare::revision_is("counter", now.mod_revision))
                .then(Op::put("counter", (number + 1).to_string()))
                .commit()
                .await
                .unwrap();
            counted.fetch_add(u64::from(swapped.succeeded), Ordering::Relaxed);
        }
    };
    let counters: Vec<_> = (0..4)
        .map(|_| tokio::spawn(count(running.client.clone(), stop.clone(), counted.clone())))
        .collect();
    running.kill_leaders(3).await;
    stop.store(true, Ordering::Relaxed);
    for counter in counters {
        counter.await.unwrap();
    }
    let now = running.client.kv().get("counter").await.unwrap().unwrap();
    let number: u64 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
    // A retried transaction that was applied must not answer that it failed.
    assert_eq!(number, counted.load(Ordering::Relaxed));
    assert!(number > 10, "only {number}");
}
