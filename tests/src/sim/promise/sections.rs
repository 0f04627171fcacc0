//! Patches of a document's sections lose nothing, whoever else patches.
//!
//! Source: the entity loop's contract, `server::entities`.

use super::Promise;
use keelstone_jepsen::check::entity;

pub(super) const PROMISE: Promise =
    Promise { name: "sections", always: false, judge: entity::check };
