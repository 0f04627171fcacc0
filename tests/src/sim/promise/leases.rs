//! A lease does not end before its time, does end, and does not come back.
//!
//! Source: Gray and Cheriton 1989; rules L1 to L7 of the fault runs.

use super::Promise;
use keelstone_jepsen::check::lease;

pub(super) const PROMISE: Promise = Promise { name: "leases", always: false, judge: lease::check };
