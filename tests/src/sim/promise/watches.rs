//! Watches are ordered, unique, atomic, complete and resumable.
//!
//! Source: etcd's "Watch APIs" guarantees; rules W1 to W12 of the fault runs.

use super::Promise;
use keelstone_jepsen::check::watch;

pub(super) const PROMISE: Promise = Promise { name: "watches", always: true, judge: watch::check };
