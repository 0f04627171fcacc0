//! The state machine: what each command does to the store.
//!
//! [`apply`] is a function of the current [`View`] and one [`Batch`]. It
//! returns a [`Transition`] -- the writes to keep, the events to publish and the
//! replies to send -- and performs none of them. Every replica runs it on the same
//! commands in the same order, so it must not look at anything else:
//!
//! * no clock: a batch carries the time, stamped by the leader;
//! * no randomness and no hash-ordered collections: iteration order is state;
//! * no I/O besides the `View`: a read error stops the node, it is not a reply.
//!
//! A refusal, such as a missing lease, is a result like any other: it is
//! replicated, and every replica refuses alike. See [`Rejection`]. `apply` is
//! total: whatever a batch says, it answers each command or refuses it.
//!
//! # The order of evaluation
//!
//! First the store's time becomes the batch's, unless that is earlier. Then for
//! each command in turn, over what those before it have changed:
//!
//! 1. its session, if it names one: the form of its sequence, then whether the
//!    session exists, has forgotten the sequence, or knows the answer already;
//! 2. its form and limits, as [`check`] has them;
//! 3. what the command means: for transactions see `txn.rs`, for leases
//!    `lease.rs`, for sessions `session.rs`. All that can refuse a command comes
//!    before its first write, so that a refusal leaves no trace;
//! 4. its session again: the answer is remembered, a refusal too, with the one
//!    exception that [`WriteId`] names, and the window and the expiry move;
//! 5. the hash chain, if anything has changed, see `hash.rs`.
//!
//! # Revisions
//!
//! A command that puts or deletes at least one key takes one revision, whatever
//! the number of keys: a transaction with all that are nested in it, a revoked
//! lease, all leases that one command expires. Nothing else takes one: not a
//! transaction that finds nothing to delete, not a lease, a session or a
//! compaction.
//!
//! The semantics are etcd's, where etcd has them (its `mvcc`, `lease` and `txn`
//! packages); where they differ, the file says so.

mod apply;
pub mod check;
pub mod codec;
mod command;
mod duplicate;
mod halt;
mod hash;
mod lease;
mod overlay;
mod read;
mod rejection;
mod reply;
mod session;
mod txn;
mod view;

pub use apply::apply;
pub use command::{
    Batch, Command, Compare, Delete, Envelope, Op, Put, Range, Relation, Target, Txn, WriteId,
};
pub use read::{read_range, read_txn};
pub use rejection::Rejection;
pub use reply::{KeyRecord, OpReply, Outcome, RangeReply, Record, Reply, TxnReply};
pub use view::{Event, Head, Lease, Remembered, Session, Transition, View, Write};
