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
//! replicated, and every replica refuses alike. See [`Rejection`].

pub mod check;
pub mod codec;
mod command;
mod rejection;
mod reply;
mod view;

pub use command::{
    Batch, Command, Compare, Delete, Envelope, Op, Put, Range, Relation, Target, Txn, WriteId,
};
pub use rejection::Rejection;
pub use reply::{KeyRecord, OpReply, Outcome, RangeReply, Record, Reply, TxnReply};
pub use view::{Event, Head, Lease, Remembered, Session, Transition, View, Write};
