//! Keys, leases and sessions: what the services make of the core's answers.

use super::*;
use keelstone_proto::v1::txn_op::Op;
use keelstone_proto::v1::txn_op_response::Response;

#[tokio::test]
async fn keys_are_put_read_and_deleted() {
    let node = Node::open().await;
    let mut kv = node.kv().await;
    let answer = kv.put(put("a", "1")).await.unwrap().into_inner();
    let header = answer.header.unwrap();
    assert_eq!((header.revision, header.node_id, header.term), (2, 1, 1));
    assert_eq!((header.cluster_id.len(), &header.history[..]), (16, &[7; 16][..]));
    assert!(!header.serializable && answer.previous.is_none());

    let request = v1::PutRequest { previous: true, ..put("a", "2") };
    let before = kv.put(request).await.unwrap().into_inner().previous.unwrap();
    assert_eq!(
        (&before.key[..], &before.value[..], before.mod_revision),
        (&b"a"[..], &b"1"[..], 2)
    );

    kv.put(put("b", "1")).await.unwrap();
    let answer = kv.range(range(prefix(""))).await.unwrap().into_inner();
    let keys: Vec<_> = answer.kvs.iter().map(|kv| (&kv.key[..], kv.version)).collect();
    assert_eq!(keys, [(&b"a"[..], 2), (&b"b"[..], 1)]);
    assert_eq!((answer.count, answer.more, answer.header.unwrap().revision), (2, false, 4));

    let old = v1::RangeRequest { revision: 2, ..range(single("a")) };
    let answer = kv.range(old).await.unwrap().into_inner();
    assert_eq!(&answer.kvs[0].value[..], b"1");

    let serializable = v1::Consistency::Serializable.into();
    let request = v1::RangeRequest { consistency: serializable, ..range(single("a")) };
    assert!(kv.range(request).await.unwrap().into_inner().header.unwrap().serializable);

    let delete = v1::DeleteRequest { span: prefix(""), previous: true, write_id: None };
    let answer = kv.delete(delete).await.unwrap().into_inner();
    assert_eq!((answer.deleted, answer.previous.len()), (2, 2));
}

#[tokio::test]
async fn no_request_reaches_beyond_the_raw_keys() {
    let node = Node::open().await;
    let put_config = v1::ConfigPutRequest {
        path: "a".to_owned(),
        value: "1".into(),
        precondition: unconditional(),
        write_id: None,
    };
    node.config().await.put(put_config).await.unwrap();
    let mut kv = node.kv().await;
    kv.put(put("\u{7f}", "raw")).await.unwrap();
    let above = v1::KeySpan { key: vec![0xff; 8].into(), end: Some(End::Unbounded(true)) };
    let until = v1::KeySpan { key: "".into(), end: Some(End::Until(vec![0xff; 4000].into())) };
    for (span, expected) in [(everything(), 1), (Some(above), 0), (Some(until), 1)] {
        let answer = kv.range(range(span)).await.unwrap().into_inner();
        assert_eq!(answer.count, expected);
    }
    let delete = v1::DeleteRequest { span: everything(), ..v1::DeleteRequest::default() };
    assert_eq!(kv.delete(delete).await.unwrap().into_inner().deleted, 1);
    let get = v1::ConfigGetRequest { path: "a".to_owned(), ..v1::ConfigGetRequest::default() };
    node.config().await.get(get).await.unwrap();
}

fn unconditional() -> Option<v1::Precondition> {
    let condition = v1::precondition::Condition::Unconditional(true);
    Some(v1::Precondition { condition: Some(condition) })
}

#[tokio::test]
async fn a_transaction_compares_then_does_one_branch() {
    let node = Node::open().await;
    let mut kv = node.kv().await;
    let op = |op: Op| v1::TxnOp { op: Some(op) };
    let absent = v1::Compare {
        span: single("a"),
        relation: v1::Relation::Equal.into(),
        target: Some(v1::compare::Target::Version(0)),
    };
    let txn = v1::TxnRequest {
        compares: vec![absent],
        then: vec![op(Op::Put(put("a", "1"))), op(Op::Range(range(single("a"))))],
        otherwise: vec![op(Op::Range(range(single("a"))))],
        write_id: None,
    };
    let first = kv.txn(txn.clone()).await.unwrap().into_inner();
    assert!(first.succeeded);
    let Some(Response::Range(seen)) = &first.responses[1].response else { panic!("{first:?}") };
    assert_eq!(&seen.kvs[0].value[..], b"1");
    let second = kv.txn(txn).await.unwrap().into_inner();
    assert!(!second.succeeded);
    assert_eq!(second.header.unwrap().revision, 2);
}

#[tokio::test]
async fn a_transaction_that_only_reads_does_not_go_through_the_log() {
    let node = Node::open().await;
    let mut kv = node.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    // Nothing can be proposed: the read is served all the same.
    node.core.refuse(Some(crate::core::ProposeError::Unknown("the log is closed")));
    let op = v1::TxnOp { op: Some(Op::Range(range(single("a")))) };
    let txn = v1::TxnRequest { then: vec![op], ..v1::TxnRequest::default() };
    let answer = kv.txn(txn).await.unwrap().into_inner();
    let Some(Response::Range(seen)) = &answer.responses[0].response else { panic!("{answer:?}") };
    assert_eq!(&seen.kvs[0].key[..], b"a");
}

#[tokio::test]
async fn a_retried_write_of_a_session_is_applied_once() {
    let node = Node::open().await;
    let mut sessions = v1::sessions_client::SessionsClient::new(node.channel().await);
    let opened = sessions.open(v1::SessionOpenRequest { ttl_ms: 0 }).await.unwrap().into_inner();
    assert_eq!(opened.ttl_ms, 600_000);
    let session = opened.session;
    let mut kv = node.kv().await;
    let write_id = Some(v1::WriteId { session, sequence: 1, acked_below: 0 });
    let request = v1::PutRequest { write_id, previous: true, ..put("a", "1") };
    let first = kv.put(request.clone()).await.unwrap().into_inner();
    let again = kv.put(request).await.unwrap().into_inner();
    assert_eq!(first, again);
    // A reply that was too large to be kept is not made up.
    let large = "x".repeat(10_000);
    kv.put(put("b", &large)).await.unwrap();
    let write_id = Some(v1::WriteId { session, sequence: 2, acked_below: 0 });
    let request = v1::PutRequest { write_id, previous: true, ..put("b", "") };
    kv.put(request.clone()).await.unwrap();
    assert_eq!(refusal(kv.put(request).await), "FailedPrecondition reply_forgotten maybe");

    sessions.close(v1::SessionCloseRequest { session }).await.unwrap();
    let write_id = Some(v1::WriteId { session, sequence: 3, acked_below: 0 });
    let refused = kv.put(v1::PutRequest { write_id, ..put("a", "2") }).await;
    assert_eq!(refusal(refused), "FailedPrecondition session_not_found write_id.session maybe");
}

#[tokio::test]
async fn leases_are_granted_renewed_and_revoked() {
    let node = Node::open().await;
    let (mut leases, mut kv) = (node.leases().await, node.kv().await);
    let grant = v1::LeaseGrantRequest { id: 0, ttl_ms: 10_000, write_id: None };
    let granted = leases.grant(grant).await.unwrap().into_inner();
    assert!(granted.id > 0 && granted.ttl_ms == 10_000);
    let id = granted.id;
    kv.put(v1::PutRequest { lease: id, ..put("a", "1") }).await.unwrap();
    node.core.pass(Duration::from_secs(4));

    let requests = [id, 999, id].map(|id| v1::LeaseKeepAliveRequest { id });
    let stream = leases.keep_alive(futures::stream::iter(requests)).await.unwrap();
    let answers: Vec<_> = futures::TryStreamExt::try_collect(stream.into_inner()).await.unwrap();
    let answers: Vec<_> =
        answers.iter().map(|a: &v1::LeaseKeepAliveResponse| (a.id, a.ttl_ms)).collect();
    assert_eq!(answers, [(id, 10_000), (999, 0), (id, 10_000)]);

    let ask = v1::LeaseTimeToLiveRequest { id, keys: true };
    let lease = leases.time_to_live(ask).await.unwrap().into_inner();
    assert!(lease.found && lease.remaining_ms == 10_000 && lease.keys == ["a"], "{lease:?}");
    let unknown = v1::LeaseTimeToLiveRequest { id: 999, keys: true };
    assert!(!leases.time_to_live(unknown).await.unwrap().into_inner().found);
    assert_eq!(leases.list(v1::LeaseListRequest {}).await.unwrap().into_inner().ids, [id]);

    leases.revoke(v1::LeaseRevokeRequest { id, write_id: None }).await.unwrap();
    assert_eq!(kv.range(range(single("a"))).await.unwrap().into_inner().count, 0);
    let revoked = leases.revoke(v1::LeaseRevokeRequest { id, write_id: None }).await;
    assert_eq!(refusal(revoked), "NotFound lease_not_found lease");
}

#[tokio::test]
async fn history_is_compacted_and_says_so() {
    let node = Node::open().await;
    let mut kv = node.kv().await;
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.unwrap();
    }
    kv.compact(v1::CompactRequest { revision: 3 }).await.unwrap();
    let old = |revision| v1::RangeRequest { revision, ..range(single("a")) };
    assert_eq!(&kv.range(old(3)).await.unwrap().into_inner().kvs[0].value[..], b"2");
    assert_eq!(refusal(kv.range(old(2)).await), "OutOfRange compacted revision 2/3");
    assert_eq!(refusal(kv.range(old(9)).await), "OutOfRange future_revision revision 9/4");
    let again = kv.compact(v1::CompactRequest { revision: 3 }).await;
    assert_eq!(refusal(again), "OutOfRange compacted revision 3/3");
}

#[tokio::test]
async fn a_node_tells_its_status_and_members() {
    let node = Node::open().await;
    let mut cluster = v1::cluster_client::ClusterClient::new(node.channel().await);
    let status = cluster.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (status.leader, status.role.as_str(), status.engine.as_str()),
        (1, "leader", "memory")
    );
    assert_eq!(status.state_hash.len(), 32);
    let members = cluster.members(v1::MembersRequest::default()).await.unwrap().into_inner();
    assert!(members.members[0].leader);
    let remove = v1::MemberRemoveRequest { id: 0, force: false };
    assert_eq!(refusal(cluster.remove(remove).await), "InvalidArgument invalid id");
    let add = v1::MemberAddRequest { peer_address: "here".to_owned(), ..Default::default() };
    assert_eq!(refusal(cluster.add(add).await), "InvalidArgument invalid peer_address");
    let transfer = cluster.transfer(v1::TransferRequest { to: 2 }).await;
    assert_eq!(refusal(transfer), "FailedPrecondition refused");
}

#[tokio::test]
async fn an_export_is_whole_and_hashed() {
    use keelstone_proto::v1::export_chunk::Chunk;
    let node = Node::open().await;
    let mut kv = node.kv().await;
    for key in 0..20 {
        kv.put(put(&format!("k{key}"), &"x".repeat(200_000))).await.unwrap();
    }
    let mut export = v1::export_client::ExportClient::new(node.channel().await);
    let mut chunks = export.export(v1::ExportRequest { revision: 0 }).await.unwrap().into_inner();
    let mut next = async || chunks.message().await.unwrap().and_then(|chunk| chunk.chunk);
    let Some(Chunk::Header(header)) = next().await else { panic!("no header") };
    assert_eq!((header.revision, header.raft_index), (21, 20));
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
    let trailer = loop {
        match next().await {
            Some(Chunk::Rows(rows)) => {
                hasher.update(&rows);
                bytes += rows.len();
            }
            Some(Chunk::Trailer(trailer)) => break trailer,
            other => panic!("{other:?}"),
        }
    };
    assert!(bytes > 4_000_000);
    assert_eq!(&trailer.hash[..], hasher.finalize().as_bytes());
    assert_eq!(trailer.state_root.len(), 32);
    assert!(next().await.is_none());
    let future = export.export(v1::ExportRequest { revision: 99 }).await;
    assert_eq!(refusal(future), "OutOfRange future_revision revision 99/21");
}
