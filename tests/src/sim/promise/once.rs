//! A write of a session is applied at most once, however often it is sent.
//!
//! Source: Raft (Ongaro's thesis, section 6.3); rules C1 and T5 of the fault runs.

use super::Promise;
use keelstone_jepsen::check::counter;

pub(super) const PROMISE: Promise =
    Promise { name: "exactly once", always: false, judge: counter::check };
