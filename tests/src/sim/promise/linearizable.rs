//! Each key is linearizable, without trust in revisions.
//!
//! Source: Herlihy and Wing 1990; the search of Wing and Gong with Lowe's memory.

use super::Promise;
use keelstone_jepsen::check::wgl;

pub(super) const PROMISE: Promise =
    Promise { name: "linearizability", always: false, judge: wgl::check };
