//! Raw keys: put, range, pages, delete, transactions, compaction, watch.

use keelstone_client::{Compare, Consistency, ErrorKind, Event, KeyRange, Op, Revision};
use keelstone_tests::running::Running;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn keys_do_what_they_promise() {
    let running = Running::three().await;
    let kv = running.client.kv();

    let first = kv.put("a", "1").send().await.unwrap();
    let second = kv.put("a", "2").previous().send().await.unwrap();
    assert_eq!(second.at.revision, first.at.revision.next());
    assert_eq!(&second.previous.unwrap().value[..], b"1");
    let found = kv.get("a").await.unwrap().unwrap();
    assert_eq!((&found.value[..], found.version), (&b"2"[..], 2));
    let past = kv.range(KeyRange::key("a")).at(first.at.revision).send().await.unwrap();
    assert_eq!(&past.kvs[0].value[..], b"1");
    assert_eq!(kv.get("nothing").await.unwrap(), None);

    let local = kv.range("a").consistency(Consistency::Serializable).send().await.unwrap();
    assert!(local.kvs.len() <= 1);

    let deleted = kv.delete("a").previous().send().await.unwrap();
    assert_eq!((deleted.deleted, deleted.previous.len()), (1, 1));
    assert_eq!(kv.delete("a").send().await.unwrap().deleted, 0);

    pages_are_read_at_one_revision(&running).await;
    transactions_choose_a_branch(&running).await;
    refusals_name_what_is_wrong(&running).await;
}

async fn pages_are_read_at_one_revision(running: &Running) {
    let kv = running.client.kv();
    for number in 0..25 {
        kv.put(format!("p/{number:02}"), "x").send().await.unwrap();
    }
    let mut pages = kv.range(KeyRange::prefix("p/")).limit(10).pages();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        keys.extend(page.kvs.into_iter().map(|kv| kv.key));
        // Must not be seen by the pages that follow.
        kv.put("p/99", "late").send().await.unwrap();
    }
    assert_eq!(keys.len(), 25);
    assert!(keys.is_sorted());
    let count = kv.range(KeyRange::prefix("p/")).count_only().send().await.unwrap();
    assert_eq!((count.count, count.kvs.len()), (26, 0));
}

async fn transactions_choose_a_branch(running: &Running) {
    let kv = running.client.kv();
    let create = || {
        kv.txn()
            .when(Compare::absent("t"))
            .then(Op::put("t", "mine"))
            .otherwise(Op::range("t"))
            .commit()
    };
    assert!(create().await.unwrap().succeeded);
    let second = create().await.unwrap();
    assert!(!second.succeeded);
    assert_eq!(&second.steps[0].kvs()[0].value[..], b"mine");

    let nested = kv.txn().when(Compare::exists("t")).then(Op::put("t/nested", "1"));
    let outer = kv.txn().then(Op::put("t/outer", "1")).then(Op::nested(nested)).commit();
    let outer = outer.await.unwrap();
    assert_eq!(outer.steps.len(), 2);
    let both = kv.range(KeyRange::prefix("t/")).send().await.unwrap();
    assert_eq!(both.kvs[0].mod_revision, both.kvs[1].mod_revision);
}

async fn refusals_name_what_is_wrong(running: &Running) {
    let kv = running.client.kv();
    let error = kv.put("", "1").send().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid { .. }), "{error:?}");
    let error = kv.put("k", vec![0; 2 << 20]).send().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error:?}");
    let error = kv.range("k").at(Revision::new(1 << 40)).send().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid { .. }), "{error:?}");
    let twice = kv.txn().then(Op::put("d", "1")).then(Op::put("d", "2")).commit().await;
    assert!(matches!(twice.unwrap_err().kind(), ErrorKind::Invalid { .. }));

    let now = running.client.position().await.unwrap().revision;
    kv.compact(now).await.unwrap();
    let error = kv.range("p/00").at(Revision::new(2)).send().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Compacted { oldest: now });
    let mut watch = kv.watch("a").after(Revision::new(1)).start().await.unwrap();
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Compacted { oldest: now });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_every_change_in_order() {
    let running = Running::three().await;
    let kv = running.client.kv();
    let prefix = KeyRange::prefix("w/");
    kv.put("w/0", "before").send().await.unwrap();
    let now = kv.range(prefix.clone()).send().await.unwrap();
    let mut watch = kv.watch(prefix).after(now.at).previous().start().await.unwrap();
    kv.put("elsewhere", "1").send().await.unwrap();
    kv.put("w/0", "after").send().await.unwrap();
    kv.txn().then(Op::put("w/1", "1")).then(Op::delete("w/0")).commit().await.unwrap();

    let next = async |watch: &mut keelstone_client::Watch| {
        tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap()
    };
    let put = next(&mut watch).await;
    let [Event::Put { kv: new, previous: Some(old) }] = &put.events[..] else { panic!("{put:?}") };
    assert_eq!((&new.value[..], &old.value[..]), (&b"after"[..], &b"before"[..]));
    let txn = next(&mut watch).await;
    assert!(txn.revision > put.revision);
    assert!(matches!(&txn.events[..], [Event::Put { .. }, Event::Delete { .. }]), "{txn:?}");
    // A quiet watch moves on.
    kv.put("elsewhere", "2").send().await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_secs(5), watch.next()).await;
    assert!(quiet.is_err());
    assert!(watch.progress().revision > txn.revision);
}
