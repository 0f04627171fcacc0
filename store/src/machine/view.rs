//! What the state machine may look at.

use super::{Record, Reply};
use crate::{Key, KeyRange, LeaseId, Millis, Revision, SessionId};

/// The position and the running facts of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The newest revision.
    pub revision: Revision,
    /// The oldest revision that can be read; [`Revision::ZERO`] before the
    /// first compaction.
    pub compacted: Revision,
    /// Replicated time.
    pub now: Millis,
    /// `H[i]`, see the module's text on the hash chain.
    pub hash: [u8; 32],
    /// How many transitions the hash covers: `i`.
    pub transitions: u64,
    /// The level of features in force.
    pub feature_level: u32,
    /// Names the history that the revisions belong to.
    pub history: [u8; 16],
    /// How many leases there are.
    pub leases: u64,
    /// How many sessions there are.
    pub sessions: u64,
}

impl Head {
    /// The head of a state that has seen no command.
    ///
    /// Its hash is that of the history's name, so that the chains of two
    /// histories differ from the beginning.
    pub fn genesis(history: [u8; 16]) -> Self {
        Self {
            revision: Revision::FIRST,
            compacted: Revision::ZERO,
            now: Millis::default(),
            hash: *blake3::hash(&history).as_bytes(),
            transitions: 0,
            feature_level: 0,
            history,
            leases: 0,
            sessions: 0,
        }
    }
}

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The time that a renewal gives it.
    pub ttl_ms: u64,
    /// When it runs out, in replicated time.
    pub expires: Millis,
}

/// A client session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// How long it is remembered while idle.
    pub ttl_ms: u64,
    /// When it is forgotten, in replicated time.
    pub expires: Millis,
    /// Replies of sequences below this one are forgotten.
    pub forgotten_below: u64,
    /// The highest sequence applied.
    pub newest: u64,
}

/// What is remembered of a session's write.
#[derive(Clone, Debug, PartialEq)]
pub enum Remembered {
    /// The reply as it was given.
    Reply(Reply),
    /// The reply was larger than
    /// [`SESSION_REPLY_BYTES_MAX`](crate::limits::SESSION_REPLY_BYTES_MAX);
    /// only that the write was applied at this revision.
    AppliedAt(Revision),
}

/// A consistent state that commands are applied to and reads are served from.
///
/// Whatever a view returns is ordered by key; nothing depends on hash order.
pub trait View {
    /// Why the state could not be read. It stops the node: a replica that
    /// skips a command diverges.
    type Error;

    /// The position of this state.
    fn head(&self) -> Head;

    /// The newest record of a key.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    fn get(&self, key: &Key) -> Result<Option<Record>, Self::Error>;

    /// Calls `visit` with the live keys of `range` in key order, until it
    /// returns `false`.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    fn scan(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), Self::Error>;

    /// Like [`scan`](View::scan), as the keys were at `revision`, which the
    /// caller has checked to be neither compacted nor in the future.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    fn scan_at(
        &self,
        range: &KeyRange,
        revision: Revision,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), Self::Error>;

    /// How many keys of `range` are live now, or were at `revision`. An
    /// implementation that can count without reading values should.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    fn count(&self, range: &KeyRange, revision: Option<Revision>) -> Result<u64, Self::Error> {
        let mut count = 0;
        let mut visit = |_: Key, _: Record| {
            count += 1;
            true
        };
        match revision {
            Some(revision) => self.scan_at(range, revision, &mut visit)?,
            None => self.scan(range, &mut visit)?,
        }
        Ok(count)
    }

    /// A lease.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    fn lease(&self, id: LeaseId) -> Result<Option<Lease>, Self::Error>;

    /// The keys attached to a lease, in key order.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    fn lease_keys(&self, id: LeaseId) -> Result<Vec<Key>, Self::Error>;

    /// A session.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    fn session(&self, id: SessionId) -> Result<Option<Session>, Self::Error>;

    /// What is remembered of a session's write.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    fn session_reply(
        &self,
        id: SessionId,
        sequence: u64,
    ) -> Result<Option<Remembered>, Self::Error>;
}

/// A change of one key, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision of the change.
    pub revision: Revision,
    /// The key.
    pub key: Key,
    /// The record written; `None`: the key was deleted.
    pub record: Option<Record>,
    /// The record before; `None`: the key was created.
    pub previous: Option<Record>,
}

/// One write to the state, with all that is needed to keep its indexes.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The key's new record. The record before goes into history.
    Put {
        /// The key.
        key: Key,
        /// The record written.
        record: Record,
        /// The record before.
        previous: Option<Record>,
    },
    /// The key is gone. The record before and a tombstone go into history.
    Delete {
        /// The key.
        key: Key,
        /// The record before.
        previous: Record,
        /// The revision of the deletion.
        revision: Revision,
    },
    /// A lease as it is now.
    Lease(Lease),
    /// A lease is gone.
    LeaseGone(LeaseId),
    /// A key is attached to a lease.
    Attach(LeaseId, Key),
    /// A key is no longer attached to a lease.
    Detach(LeaseId, Key),
    /// A session as it is now.
    Session(Session),
    /// A session is gone. Its replies are removed with
    /// [`Write::Forget`], one by one.
    SessionGone(SessionId),
    /// A session's write is remembered.
    Remember(SessionId, u64, Remembered),
    /// A session's write is forgotten.
    Forget(SessionId, u64),
}

/// What a batch of commands does.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The state's position afterwards.
    pub head: Head,
    /// What to keep, in order; later writes of a key supersede earlier ones.
    pub writes: Vec<Write>,
    /// What watchers are told, in revision order.
    pub events: Vec<Event>,
    /// The answers, one for each command.
    pub replies: Vec<Reply>,
}
