//! Leases: keys go with them, renewals keep them, also over a change of leader.

use keelstone_client::{ErrorKind, LeaseId};
use keelstone_tests::running::Running;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_with_their_lease() {
    let running = Running::three().await;
    let (kv, leases) = (running.client.kv(), running.client.leases());
    let ttl = Duration::from_secs(5);
    let lease = leases.grant(ttl).await.unwrap();
    kv.put("l/expires", "1").lease(lease.id).send().await.unwrap();
    let left = leases.time_to_live(lease.id, true).await.unwrap().unwrap();
    assert_eq!((left.keys.len(), left.granted), (1, ttl));
    assert!(left.remaining <= left.granted);
    assert!(leases.list().await.unwrap().contains(&lease.id));

    let held = leases.hold(ttl).await.unwrap();
    kv.put("l/held", "1").lease(held.id()).send().await.unwrap();
    tokio::time::sleep(ttl * 2).await;
    assert_eq!(kv.get("l/expires").await.unwrap(), None, "its lease has expired");
    assert!(kv.get("l/held").await.unwrap().is_some(), "its lease is renewed");
    assert!(held.is_held());
    assert_eq!(leases.time_to_live(lease.id, false).await.unwrap(), None);
    held.revoke().await.unwrap();
    assert_eq!(kv.get("l/held").await.unwrap(), None);

    let error = kv.put("l/none", "1").lease(LeaseId::new(12345)).send().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound);
    let mine = leases.grant_with_id(LeaseId::new(77), Duration::from_secs(5)).await.unwrap();
    assert_eq!(mine.id, LeaseId::new(77));
    let error = leases.grant_with_id(mine.id, Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::AlreadyExists);
    let revoked = leases.grant(Duration::from_mins(1)).await.unwrap();
    let kept = leases.keep_alive(revoked);
    leases.revoke(revoked.id).await.unwrap();
    tokio::time::timeout(Duration::from_secs(61), kept.lost()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_its_leader() {
    let mut running = Running::three().await;
    let held = running.client.leases().hold(Duration::from_secs(4)).await.unwrap();
    running.client.kv().put("l", "1").lease(held.id()).send().await.unwrap();
    running.kill_leaders(2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(running.client.kv().get("l").await.unwrap().is_some());
    assert!(held.is_held());
}
