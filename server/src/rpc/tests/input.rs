//! Bad input: each gets the right code, and a detail that names the field, the
//! limit and the remedy; nothing is half applied.

use super::*;
use crate::core::{LeaderHint, ProposeError, ReadError};
use bytes::{Buf, BufMut as _, Bytes};
use keelstone_proto::v1::txn_op::Op;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

const MIB: usize = 1024 * 1024;

/// Messages that are just bytes, to send what no client would.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

impl Node {
    async fn send(&self, method: &'static str, message: impl Into<Bytes>) -> Result<Bytes, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel().await);
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static(method);
        let request = tonic::Request::new(message.into());
        grpc.unary(request, path, Raw).await.map(tonic::Response::into_inner)
    }
}

#[tokio::test]
async fn keys_and_values_beyond_their_limits() {
    let node = Node::open().await;
    let mut kv = node.kv().await;
    let key = |bytes| "k".repeat(bytes);
    let value = |bytes| "v".repeat(bytes);
    kv.put(put(&key(4095), &value(1536 * 1024))).await.unwrap();
    let check = |answer, expected: &str| assert_eq!(refusal::<()>(answer), expected);
    let unit = |answer: Result<_, Status>| answer.map(|_: tonic::Response<v1::PutResponse>| ());
    check(unit(kv.put(put(&key(4096), "")).await), "InvalidArgument too_large key 4096/4095");
    check(unit(kv.put(put("", "")).await), "InvalidArgument invalid key");
    check(
        unit(kv.put(put("a", &value(1536 * 1024 + 1))).await),
        "InvalidArgument too_large value 1572865/1572864",
    );
    check(
        unit(kv.put(put("a", &value(3 * MIB))).await),
        "InvalidArgument too_large request 3145736/2162688",
    );
    check(
        unit(kv.put(v1::PutRequest { ignore_value: true, ..put("a", "1") }).await),
        "InvalidArgument invalid value",
    );
    check(
        unit(kv.put(v1::PutRequest { ignore_value: true, ..put("a", "") }).await),
        "NotFound key_not_found key",
    );
    check(
        unit(kv.put(v1::PutRequest { lease: -1, ..put("a", "") }).await),
        "InvalidArgument invalid lease id",
    );
    check(
        unit(kv.put(v1::PutRequest { lease: 5, ..put("a", "") }).await),
        "NotFound lease_not_found lease",
    );
    let write_id = Some(v1::WriteId { session: 0, sequence: 1, acked_below: 0 });
    check(
        unit(kv.put(v1::PutRequest { write_id, ..put("a", "") }).await),
        "InvalidArgument invalid write_id.session",
    );
    let write_id = Some(v1::WriteId { session: 1, sequence: 0, acked_below: 0 });
    check(
        unit(kv.put(v1::PutRequest { write_id, ..put("a", "") }).await),
        "InvalidArgument invalid sequence",
    );
    // None of them left a trace.
    assert_eq!(kv.range(range(everything())).await.unwrap().into_inner().count, 1);
}

#[tokio::test]
async fn spans_and_ranges_that_make_no_sense() {
    let node = Node::open().await;
    let mut kv = node.kv().await;
    assert_eq!(refusal(kv.range(range(None)).await), "InvalidArgument invalid span");
    assert_eq!(refusal(kv.range(range(single(""))).await), "InvalidArgument invalid span.key");
    assert_eq!(
        refusal(kv.range(range(single(&"k".repeat(5000)))).await),
        "InvalidArgument too_large span.key 5000/4095"
    );
    let request = v1::RangeRequest { consistency: 77, ..range(single("a")) };
    assert_eq!(refusal(kv.range(request).await), "InvalidArgument invalid consistency");
}

#[tokio::test]
async fn transactions_that_make_no_sense() {
    let node = Node::open().await;
    let mut kv = node.kv().await;
    let op = |op: Op| v1::TxnOp { op: Some(op) };
    let mut check = async |then: Vec<v1::TxnOp>, expected: &str| {
        let txn = v1::TxnRequest { then, ..v1::TxnRequest::default() };
        assert_eq!(refusal(kv.txn(txn).await), expected);
    };
    let puts = |count: usize| (0..count).map(|at| op(Op::Put(put(&at.to_string(), ""))));
    check(puts(1025).collect(), "InvalidArgument too_large compares and operations 1025/1024")
        .await;
    check(vec![v1::TxnOp { op: None }], "InvalidArgument invalid then[0].op").await;
    check(
        vec![op(Op::Put(put("a", ""))), op(Op::Put(put("", "")))],
        "InvalidArgument invalid then[1].put.key",
    )
    .await;
    check(
        vec![op(Op::Put(put("a", "1"))), op(Op::Put(put("a", "2")))],
        "InvalidArgument duplicate_key key",
    )
    .await;
    let write_id = Some(v1::WriteId { session: 1, sequence: 1, acked_below: 0 });
    check(
        vec![op(Op::Put(v1::PutRequest { write_id, ..put("a", "") }))],
        "InvalidArgument invalid then[0].write_id",
    )
    .await;
    let mut nested = v1::TxnRequest { then: puts(1).collect(), ..v1::TxnRequest::default() };
    for _ in 0..10 {
        nested = v1::TxnRequest { then: vec![op(Op::Txn(nested))], ..Default::default() };
    }
    check(
        vec![op(Op::Txn(nested))],
        &format!("InvalidArgument too_large {}txn 9/8", "then[0].txn.".repeat(9)),
    )
    .await;
    let compare = |relation, target| v1::TxnRequest {
        compares: vec![v1::Compare { span: single("a"), relation, target }],
        ..v1::TxnRequest::default()
    };
    let target = Some(v1::compare::Target::Version(0));
    assert_eq!(
        refusal(kv.txn(compare(9, target)).await),
        "InvalidArgument invalid compares[0].relation"
    );
    assert_eq!(
        refusal(kv.txn(compare(0, None)).await),
        "InvalidArgument invalid compares[0].target"
    );
}

#[tokio::test]
async fn bytes_that_are_no_message() {
    let node = Node::open().await;
    let put_method = "/keelstone.v1.Kv/Put";
    assert_eq!(
        refusal(node.send(put_method, &b"\xff\xff\xff\xff"[..]).await),
        "InvalidArgument malformed request"
    );
    // Field 1, 100 bytes announced, none there.
    assert_eq!(
        refusal(node.send(put_method, &[0x0a, 100][..]).await),
        "InvalidArgument malformed key"
    );
    // A nested message that is cut off.
    assert_eq!(
        refusal(node.send(put_method, &[0x3a, 2, 0x08, 0xff][..]).await),
        "InvalidArgument malformed write_id.session"
    );
    // A string that is not UTF-8.
    assert_eq!(
        refusal(node.send("/keelstone.v1.Entities/Get", &[0x0a, 2, 0xc3, 0x28][..]).await),
        "InvalidArgument malformed id"
    );
    assert_eq!(
        refusal(node.send("/keelstone.v1.Config/Put", &[0x0a, 1, 0x80][..]).await),
        "InvalidArgument malformed path"
    );
    // A hundred and one levels of transactions.
    let mut deep = Bytes::new();
    for _ in 0..101 {
        let mut outer = bytes::BytesMut::new();
        for tag in [0x22, 0x12] {
            let inner = if tag == 0x22 { deep.clone() } else { outer.split().freeze() };
            outer.put_u8(tag);
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            outer.put(inner);
        }
        deep = outer.freeze();
    }
    let refused = refusal(node.send("/keelstone.v1.Kv/Txn", deep).await);
    assert!(refused.starts_with("InvalidArgument malformed then.op.then.op."), "{refused}");
    // The node is none the worse.
    node.kv().await.put(put("a", "1")).await.unwrap();
}

#[tokio::test]
async fn methods_that_do_not_exist() {
    let node = Node::open().await;
    for method in ["/keelstone.v1.Kv/Steal", "/keelstone.v2.Kv/Put", "/x/y"] {
        let status = node.send(method, Bytes::new()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{method}");
    }
    let metrics = node.metrics.render();
    assert!(!metrics.contains("Steal"), "{metrics}");
}

#[tokio::test]
async fn leases_and_sessions_beyond_their_limits() {
    let node = Node::open().await;
    let mut leases = node.leases().await;
    let grant = |id, ttl_ms| v1::LeaseGrantRequest { id, ttl_ms, write_id: None };
    let checks = [
        (grant(-5, 1000), "InvalidArgument invalid id"),
        (grant(0, 0), "InvalidArgument invalid ttl_ms"),
        (
            grant(0, 9_000_000_000_001),
            "InvalidArgument too_large lease ttl in milliseconds 9000000000001/9000000000000",
        ),
    ];
    for (request, expected) in checks {
        assert_eq!(refusal(leases.grant(request).await), expected);
    }
    leases.grant(grant(7, 10_000)).await.unwrap();
    assert_eq!(refusal(leases.grant(grant(7, 10_000)).await), "AlreadyExists lease_exists id");
    let mut sessions = v1::sessions_client::SessionsClient::new(node.channel().await);
    let open = v1::SessionOpenRequest { ttl_ms: 86_400_001 };
    assert_eq!(
        refusal(sessions.open(open).await),
        "InvalidArgument too_large ttl_ms 86400001/86400000"
    );
}

#[tokio::test]
async fn what_the_core_says_reaches_the_client_with_its_outcome() {
    let node = Node::open().await;
    let mut kv = node.kv().await;
    let hint = LeaderHint { id: Some(2), client_address: Some("b:7701".to_owned()) };
    let refusals = [
        (ProposeError::NotLeader(hint.clone()), "Unavailable not_leader"),
        (
            ProposeError::Overloaded { waiting_bytes: 11, limit_bytes: 10 },
            "ResourceExhausted overloaded 11/10",
        ),
        (
            ProposeError::NoSpace { free_bytes: 5, reserve_bytes: 10 },
            "ResourceExhausted no_space 5/10",
        ),
        (ProposeError::NoSpaceAtLeader, "ResourceExhausted no_space"),
        (
            ProposeError::TooLarge { field: "command bytes", actual: 3, limit: 2 },
            "InvalidArgument too_large command 3/2",
        ),
        (ProposeError::Stopping, "Unavailable stopping"),
        (ProposeError::Unknown("the leader was lost"), "Unknown unknown maybe"),
    ];
    for (error, expected) in refusals {
        node.core.refuse(Some(error));
        assert_eq!(refusal(kv.put(put("a", "1")).await), expected);
    }
    node.core.refuse(Some(ProposeError::NotLeader(hint.clone())));
    let status = kv.put(put("a", "1")).await.unwrap_err();
    assert_eq!(detail(&status).leader_address, "b:7701");
    node.core.refuse(None);

    node.core.refuse_reads(Some(ReadError::NoQuorum(hint)));
    assert_eq!(refusal(kv.range(range(single("a"))).await), "Unavailable no_quorum");
    let serializable = v1::Consistency::Serializable.into();
    let request = v1::RangeRequest { consistency: serializable, ..range(single("a")) };
    kv.range(request).await.unwrap();
}
