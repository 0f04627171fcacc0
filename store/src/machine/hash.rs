//! The hash chain over everything that commands have changed.
//!
//! `H[0]` is [`Head::genesis`]'s. Each command that writes anything, or moves the
//! revision, the compaction or the feature level, extends the chain:
//!
//! ```text
//! H[i] = BLAKE3( H[i-1] | head | count of writes | write | write | ... )
//!
//! head      now, revision, compacted, feature level, leases, sessions
//! Put       1, key, value, created, modified, version, lease, previous
//! Delete    2, key, revision, previous
//! previous  0, or 1, created, modified, version, lease of the record before
//! Lease     3, id, ttl, expires             LeaseGone    4, id
//! Attach    5, id, key                      Detach       6, id, key
//! Session   7, id, ttl, expires, forgotten below, newest
//! SessionGone 8, id                         Forget       10, id, sequence
//! Remember  9, id, sequence, 0, revision    only that it was applied
//! Remember  9, id, sequence, 1, reply       see the code
//! ```
//!
//! Tags are one byte, numbers eight bytes in little-endian order, byte strings
//! their length as a number and then themselves; `H[i-1]` is 32 bytes. No two
//! different transitions have the same text.
//!
//! Covered is what the state becomes, and what sessions will be told; so two
//! replicas with equal hashes agree on all rows, the time of the last change
//! included. The value of a record before is not covered again: it was when it
//! was written, and its revisions name it. Not covered are the replies that
//! nobody remembers, and time that passes without a change.
//!
//! A batch is hashed command by command, so that it does not matter how commands
//! are packed.

use super::{
    Head, KeyRecord, OpReply, Outcome, Record, Rejection, Remembered, Reply, TxnReply, Write,
};
use crate::{Key, LeaseId};

/// Extends the chain. Holds no state between links, only room.
#[derive(Default)]
pub(super) struct Chain {
    text: Text,
}

impl Chain {
    /// Adds the link of a command that led to `head` by `writes`.
    pub(super) fn link(&mut self, head: &mut Head, writes: &[Write]) {
        let text = &mut self.text;
        text.begin(&head.hash);
        text.number(head.now.0);
        text.number(head.revision.get());
        text.number(head.compacted.get());
        text.number(u64::from(head.feature_level));
        text.number(head.leases);
        text.number(head.sessions);
        text.number(writes.len() as u64);
        for write in writes {
            text.write(write);
        }
        head.hash = text.end();
        head.transitions += 1;
    }
}

/// The canonical text of a transition on its way into the hash. Small parts are
/// gathered, because hashing eight bytes at a time costs more than copying them.
#[derive(Default)]
struct Text {
    hasher: blake3::Hasher,
    gathered: Vec<u8>,
}

impl Text {
    /// Bytes from which on a string is hashed in place.
    const IN_PLACE: usize = 512;

    fn begin(&mut self, previous: &[u8; 32]) {
        self.hasher.reset();
        self.gathered.clear();
        self.gathered.extend_from_slice(previous);
    }

    fn end(&mut self) -> [u8; 32] {
        self.flush();
        *self.hasher.finalize().as_bytes()
    }

    fn flush(&mut self) {
        self.hasher.update(&self.gathered);
        self.gathered.clear();
    }

    fn tag(&mut self, tag: u8) {
        self.gathered.push(tag);
    }

    fn number(&mut self, number: u64) {
        self.gathered.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        if bytes.len() < Self::IN_PLACE {
            self.gathered.extend_from_slice(bytes);
        } else {
            self.flush();
            self.hasher.update(bytes);
        }
    }

    fn key(&mut self, key: &Key) {
        self.bytes(key.as_bytes());
    }

    fn lease(&mut self, id: LeaseId) {
        self.number(id.0.cast_unsigned());
    }

    fn write(&mut self, write: &Write) {
        match write {
            Write::Put { key, record, previous } => {
                self.tag(1);
                self.key(key);
                self.record(record);
                self.previous(previous.as_ref());
            }
            Write::Delete { key, previous, revision } => {
                self.tag(2);
                self.key(key);
                self.number(revision.get());
                self.previous(Some(previous));
            }
            Write::Lease(lease) => {
                self.tag(3);
                self.lease(lease.id);
                self.number(lease.ttl_ms);
                self.number(lease.expires.0);
            }
            Write::LeaseGone(id) => {
                self.tag(4);
                self.lease(*id);
            }
            Write::Attach(id, key) => {
                self.tag(5);
                self.lease(*id);
                self.key(key);
            }
            Write::Detach(id, key) => {
                self.tag(6);
                self.lease(*id);
                self.key(key);
            }
            Write::Session(session) => {
                self.tag(7);
                self.number(session.id.0);
                self.number(session.ttl_ms);
                self.number(session.expires.0);
                self.number(session.forgotten_below);
                self.number(session.newest);
            }
            Write::SessionGone(id) => {
                self.tag(8);
                self.number(id.0);
            }
            Write::Remember(id, sequence, remembered) => {
                self.tag(9);
                self.number(id.0);
                self.number(*sequence);
                self.remembered(remembered);
            }
            Write::Forget(id, sequence) => {
                self.tag(10);
                self.number(id.0);
                self.number(*sequence);
            }
        }
    }

    fn record(&mut self, record: &Record) {
        self.bytes(&record.value);
        self.origin(record);
    }

    fn origin(&mut self, record: &Record) {
        self.number(record.created.get());
        self.number(record.modified.get());
        self.number(record.version);
        self.lease(record.lease);
    }

    fn previous(&mut self, previous: Option<&Record>) {
        self.tag(u8::from(previous.is_some()));
        if let Some(record) = previous {
            self.origin(record);
        }
    }

    fn remembered(&mut self, remembered: &Remembered) {
        match remembered {
            Remembered::AppliedAt(revision) => {
                self.tag(0);
                self.number(revision.get());
            }
            Remembered::Reply(reply) => {
                self.tag(1);
                self.reply(reply);
            }
        }
    }

    fn reply(&mut self, reply: &Reply) {
        self.number(reply.revision.get());
        match &reply.outcome {
            Outcome::Txn(txn) => {
                self.tag(1);
                self.txn(txn);
            }
            Outcome::Lease { id, ttl_ms } => {
                self.tag(2);
                self.lease(*id);
                self.number(*ttl_ms);
            }
            Outcome::Renewed(leases) => {
                self.tag(3);
                self.number(leases.len() as u64);
                for (id, ttl_ms) in leases {
                    self.lease(*id);
                    self.number(*ttl_ms);
                }
            }
            Outcome::Done => self.tag(4),
            Outcome::Applied => self.tag(5),
            Outcome::Rejected(rejection) => {
                self.tag(6);
                self.rejection(rejection);
            }
        }
    }

    fn txn(&mut self, reply: &TxnReply) {
        self.tag(u8::from(reply.succeeded));
        self.number(reply.ops.len() as u64);
        for op in &reply.ops {
            match op {
                OpReply::Put { previous } => {
                    self.tag(1);
                    self.records(previous.as_slice());
                }
                OpReply::Delete { deleted, previous } => {
                    self.tag(2);
                    self.number(*deleted);
                    self.records(previous);
                }
                OpReply::Range(range) => {
                    self.tag(3);
                    self.records(&range.records);
                    self.number(range.count);
                    self.tag(u8::from(range.more));
                }
                OpReply::Txn(nested) => {
                    self.tag(4);
                    self.txn(nested);
                }
            }
        }
    }

    fn records(&mut self, records: &[KeyRecord]) {
        self.number(records.len() as u64);
        for pair in records {
            self.key(&pair.key);
            self.record(&pair.record);
        }
    }

    /// The numbers are those of the codec, which are stable.
    fn rejection(&mut self, rejection: &Rejection) {
        let parts = super::codec::rejection_to_proto(rejection);
        self.number(u64::from(parts.code));
        self.number(parts.numbers.len() as u64);
        for number in parts.numbers {
            self.number(number);
        }
        self.number(parts.texts.len() as u64);
        for text in parts.texts {
            self.bytes(&text);
        }
    }
}
