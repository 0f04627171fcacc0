//! Fencing tokens of a lock grow with each holder, and the resource behind them
//! loses no update.
//!
//! Source: Burrows 2006 (Chubby, "sequencers"); Kleppmann, "How to do
//! distributed locking"; rules K1 to K4 of the fault runs.

use super::Promise;
use keelstone_jepsen::check::lock;

pub(super) const PROMISE: Promise = Promise { name: "fencing", always: false, judge: lock::check };
