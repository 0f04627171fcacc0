//! What a node takes on, and what it says to the rest.

use super::*;

#[tokio::test]
async fn requests_beyond_the_number_are_refused_before_they_are_read() {
    let node = Node::with(|limits| limits.requests_max = 0, None).await;
    let refused = node.kv().await.put(put("a", "1")).await;
    assert_eq!(refusal(refused), "ResourceExhausted overloaded");
    // Health is not refused.
    let mut health = tonic_health::pb::health_client::HealthClient::new(node.channel().await);
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    assert!(node.metrics.render().contains("requests_refused_total{reason=\"requests\"} 1"));
}

#[tokio::test]
async fn requests_beyond_the_bytes_are_refused() {
    let node = Node::with(|limits| limits.requests_bytes_max = 100_000, None).await;
    let mut kv = node.kv().await;
    let refused = kv.put(put("a", &"x".repeat(200_000))).await;
    assert_eq!(refusal(refused), "ResourceExhausted overloaded 100000/100000");
    // The bytes are given back: many small ones, one after the other.
    for _ in 0..10 {
        kv.put(put("a", &"x".repeat(90_000))).await.unwrap();
    }
}

/// Asks for one watch and then for nothing more; dropping the answer ends it.
fn one_watch() -> impl futures::Stream<Item = v1::WatchRequest> {
    let create = v1::WatchCreate { span: prefix("a"), ..v1::WatchCreate::default() };
    let request = Some(v1::watch_request::Request::Create(create));
    futures::stream::iter([v1::WatchRequest { request }])
}

#[tokio::test]
async fn streams_of_a_connection_are_limited() {
    let node = Node::with(|limits| limits.streams_per_connection_max = 2, None).await;
    let channel = node.channel().await;
    let mut watch = WatchClient::new(channel.clone());
    let _first = watch.watch(one_watch()).await.unwrap();
    let second = watch.watch(one_watch()).await.unwrap();
    // A third waits for a place on this connection; another one is free.
    let mut kv = KvClient::new(channel);
    let third = tokio::time::timeout(Duration::from_millis(200), kv.put(put("a", "1"))).await;
    assert!(third.is_err(), "{third:?}");
    node.kv().await.put(put("a", "1")).await.unwrap();
    drop(second);
    tokio::time::timeout(Duration::from_secs(2), kv.put(put("a", "1"))).await.unwrap().unwrap();
}

#[tokio::test]
async fn watch_streams_are_limited() {
    let node = Node::with(|limits| limits.watch_streams_max = 1, None).await;
    let mut watch = node.watch().await;
    let first = watch.watch(one_watch()).await.unwrap();
    assert_eq!(refusal(watch.watch(one_watch()).await), "ResourceExhausted too_many 1/1");
    drop(first);
    for _ in 0..100 {
        if watch.watch(one_watch()).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place was not given back");
}

#[tokio::test]
async fn connections_are_limited() {
    let node = Node::with(|limits| limits.connections_max = 2, None).await;
    let mut first = node.kv().await;
    first.put(put("a", "1")).await.unwrap();
    let mut second = node.kv().await;
    second.put(put("a", "1")).await.unwrap();
    // tonic connects before it speaks: the refusal shows at the first request.
    let refused = match node.endpoint().connect().await {
        Ok(channel) => KvClient::new(channel).put(put("a", "1")).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    let text = node.metrics.render();
    assert!(
        text.contains("connections_refused_total{port=\"client\",reason=\"too_many\"}"),
        "{text}"
    );
    assert!(text.contains("keelstone_connections{port=\"client\"} 2"), "{text}");
}

#[tokio::test]
async fn a_deadline_that_the_client_gives_is_kept() {
    let node = Node::open().await;
    let mut request = tonic::Request::new(put("a", "1"));
    request.set_timeout(Duration::from_secs(3));
    node.kv().await.put(request).await.unwrap();
    let given = node.core.last_deadline().unwrap();
    let left = given.saturating_duration_since(tokio::time::Instant::now());
    assert!(left > Duration::from_secs(2) && left < Duration::from_secs(3), "{left:?}");
    // Without one, the default; beyond the maximum, the maximum.
    node.kv().await.put(put("a", "1")).await.unwrap();
    let left = node.core.last_deadline().unwrap() - tokio::time::Instant::now();
    assert!(left > Duration::from_secs(9) && left <= Duration::from_secs(10), "{left:?}");
    let mut request = tonic::Request::new(put("a", "1"));
    request.set_timeout(Duration::from_hours(1));
    node.kv().await.put(request).await.unwrap();
    let left = node.core.last_deadline().unwrap() - tokio::time::Instant::now();
    assert!(left > Duration::from_secs(58) && left <= Duration::from_mins(1), "{left:?}");
}

#[tokio::test]
async fn requests_are_counted_by_method_and_code() {
    let node = Node::open().await;
    let mut kv = node.kv().await;
    kv.put(put("secret-key", "secret-value")).await.unwrap();
    kv.put(put("", "")).await.unwrap_err();
    kv.put(put("a", &"x".repeat(3_000_000))).await.unwrap_err();
    kv.range(range(single("secret-key"))).await.unwrap();
    // Accounts are settled when the answer's last byte was taken.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let text = node.metrics.render();
    for line in [
        "keelstone_requests_total{method=\"Kv/Put\",code=\"ok\"} 1",
        "keelstone_requests_total{method=\"Kv/Put\",code=\"invalid_argument\"} 2",
        "keelstone_requests_total{method=\"Kv/Range\",code=\"ok\"} 1",
        "keelstone_request_seconds_count{method=\"Kv/Put\"} 3",
        "keelstone_requests_active 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("secret"));
}
