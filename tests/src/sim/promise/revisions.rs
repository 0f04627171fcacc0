//! Revisions are one total order, grow by one with each change, and every
//! answer is exactly what the replayed state gives, in real time: strict
//! serializability of transactions, ranges and watches.
//!
//! Source: etcd's "KV API guarantees"; rules T1 to T9 of the fault runs, by
//! revision replay.

use super::Promise;
use keelstone_jepsen::check::replay;

pub(super) const PROMISE: Promise =
    Promise { name: "revisions", always: true, judge: replay::check };
