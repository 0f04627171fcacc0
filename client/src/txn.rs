//! Transactions on raw keys.

use crate::call::Route;
use crate::client::Client;
use crate::kv::{DeleteReply, PutReply, RangeReply, range_request};
use crate::lease::LeaseId;
use crate::range::KeyRange;
use crate::{Error, Position, Revision};
use bytes::Bytes;
use keelstone_proto::v1::{self, Relation, compare::Target, txn_op, txn_op_response};

/// What a transaction demands of a key before it does anything.
///
/// A key that does not exist compares as if all its numbers were 0; its value
/// never compares.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(v1::Compare);

impl Compare {
    /// The key's modification revision is this.
    pub fn revision_is(key: impl Into<KeyRange>, revision: Revision) -> Self {
        Self::new(key, Relation::Equal, Target::ModRevision(revision.get()))
    }

    /// The key exists.
    pub fn exists(key: impl Into<KeyRange>) -> Self {
        Self::new(key, Relation::Greater, Target::CreateRevision(0))
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<KeyRange>) -> Self {
        Self::new(key, Relation::Equal, Target::CreateRevision(0))
    }

    /// The key's value is this.
    pub fn value_is(key: impl Into<KeyRange>, value: impl Into<Bytes>) -> Self {
        Self::new(key, Relation::Equal, Target::Value(value.into()))
    }

    /// The key's version is this.
    pub fn version_is(key: impl Into<KeyRange>, version: u64) -> Self {
        Self::new(key, Relation::Equal, Target::Version(version))
    }

    /// The key was created at this revision: it is the same key as then.
    pub fn created_at(key: impl Into<KeyRange>, revision: Revision) -> Self {
        Self::new(key, Relation::Equal, Target::CreateRevision(revision.get()))
    }

    /// The key was last put after this revision.
    pub fn revision_above(key: impl Into<KeyRange>, revision: Revision) -> Self {
        Self::new(key, Relation::Greater, Target::ModRevision(revision.get()))
    }

    /// The key was last put before this revision, or does not exist. Over a
    /// range: nothing in it changed since.
    pub fn revision_below(key: impl Into<KeyRange>, revision: Revision) -> Self {
        Self::new(key, Relation::Less, Target::ModRevision(revision.get()))
    }

    /// The key is attached to this lease.
    pub fn lease_is(key: impl Into<KeyRange>, lease: LeaseId) -> Self {
        Self::new(key, Relation::Equal, Target::Lease(lease.get()))
    }

    fn new(range: impl Into<KeyRange>, relation: Relation, target: Target) -> Self {
        Self(v1::Compare {
            span: Some(range.into().into_wire()),
            relation: relation.into(),
            target: Some(target),
        })
    }
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Op(txn_op::Op);

impl Op {
    /// Sets `key` to `value`.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self(txn_op::Op::Put(v1::PutRequest {
            key: key.into(),
            value: value.into(),
            ..v1::PutRequest::default()
        }))
    }

    /// Sets `key` to `value` and attaches it to `lease`.
    pub fn put_with_lease(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self(txn_op::Op::Put(v1::PutRequest {
            key: key.into(),
            value: value.into(),
            lease: lease.get(),
            ..v1::PutRequest::default()
        }))
    }

    /// Deletes the keys in `range`.
    pub fn delete(range: impl Into<KeyRange>) -> Self {
        let span = Some(range.into().into_wire());
        Self(txn_op::Op::Delete(v1::DeleteRequest { span, previous: false, write_id: None }))
    }

    /// Reads the keys in `range`, after the steps before this one.
    pub fn range(range: impl Into<KeyRange>) -> Self {
        Self(txn_op::Op::Range(range_request(range.into())))
    }

    /// A transaction inside this one. Its compares see the state before the
    /// outermost one.
    pub fn nested(txn: Txn) -> Self {
        Self(txn_op::Op::Txn(txn.request))
    }

    /// Returns what a put or a delete replaced; of other steps, no change.
    #[must_use]
    pub fn previous(mut self) -> Self {
        match &mut self.0 {
            txn_op::Op::Put(put) => put.previous = true,
            txn_op::Op::Delete(delete) => delete.previous = true,
            txn_op::Op::Range(_) | txn_op::Op::Txn(_) => {}
        }
        self
    }

    /// Reads at most `limit` keys; of other steps, no change.
    #[must_use]
    pub fn limit(mut self, limit: u64) -> Self {
        if let txn_op::Op::Range(range) = &mut self.0 {
            range.limit = limit;
        }
        self
    }

    fn into_wire(self) -> v1::TxnOp {
        v1::TxnOp { op: Some(self.0) }
    }
}

/// A transaction that has not been sent; made by
/// [`Kv::txn`](crate::Kv::txn). At most 1024 compares and steps in all.
///
/// # Examples
///
/// ```no_run
/// # async fn example(client: keelstone_client::Client) -> Result<(), keelstone_client::Error> {
/// use keelstone_client::{Compare, Op};
///
/// // Moves a key, unless somebody has changed it meanwhile.
/// let Some(old) = client.kv().get("old").await? else { return Ok(()) };
/// let reply = client
///     .kv()
///     .txn()
///     .when(Compare::revision_is("old", old.mod_revision))
///     .when(Compare::absent("new"))
///     .then(Op::put("new", old.value))
///     .then(Op::delete("old"))
///     .commit()
///     .await?;
/// println!("moved: {}", reply.succeeded);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is done until it is committed"]
#[derive(Clone, Debug)]
pub struct Txn {
    client: Client,
    request: v1::TxnRequest,
}

/// The answer to a transaction.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TxnReply {
    /// The store's revision after the transaction.
    pub at: Position,
    /// Whether all compares held, so that the `then` branch was done.
    pub succeeded: bool,
    /// One for each step of the branch that was done.
    pub steps: Vec<StepReply>,
}

/// The answer to one step.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StepReply {
    /// To a put.
    Put(PutReply),
    /// To a delete.
    Delete(DeleteReply),
    /// To a range.
    Range(RangeReply),
    /// To a transaction.
    Txn(TxnReply),
}

impl StepReply {
    /// The keys that a range read; empty for other steps.
    pub fn kvs(&self) -> &[crate::KeyValue] {
        match self {
            Self::Range(range) => &range.kvs,
            Self::Put(_) | Self::Delete(_) | Self::Txn(_) => &[],
        }
    }
}

impl Txn {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, request: v1::TxnRequest::default() }
    }

    /// Demands this as well.
    pub fn when(mut self, compare: Compare) -> Self {
        self.request.compares.push(compare.0);
        self
    }

    /// Does this if all compares hold, after the steps named before.
    pub fn then(mut self, op: Op) -> Self {
        self.request.then.push(op.into_wire());
        self
    }

    /// Does this if a compare does not hold.
    pub fn otherwise(mut self, op: Op) -> Self {
        self.request.otherwise.push(op.into_wire());
        self
    }

    /// Sends it, and returns when a quorum has it on disk. That a compare did
    /// not hold is no error: see [`TxnReply::succeeded`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if one branch writes a
    /// key twice, [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge),
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if a lease does not
    /// exist; and as every write, see [`Put::send`](crate::Put::send).
    pub async fn commit(self) -> Result<TxnReply, Error> {
        let request = &self.request;
        let send = |attempt: crate::call::Attempt| {
            let request = v1::TxnRequest { write_id: attempt.write_id, ..request.clone() };
            async move { attempt.kv().txn(attempt.request(request)).await }
        };
        let response = if is_read(request) {
            self.client.read(Route::Leader, send).await?
        } else {
            self.client.write(send).await?
        };
        reply_of(response)
    }
}

/// Whether neither branch writes: then it needs no identity and no log.
fn is_read(txn: &v1::TxnRequest) -> bool {
    txn.then.iter().chain(&txn.otherwise).all(|op| match &op.op {
        Some(txn_op::Op::Range(_)) | None => true,
        Some(txn_op::Op::Txn(nested)) => is_read(nested),
        Some(txn_op::Op::Put(_) | txn_op::Op::Delete(_)) => false,
    })
}

fn reply_of(response: v1::TxnResponse) -> Result<TxnReply, Error> {
    let at = Position::of(response.header.as_ref());
    let steps = response.responses.into_iter().map(|step| match step.response {
        Some(txn_op_response::Response::Put(put)) => {
            Ok(StepReply::Put(PutReply { at, previous: put.previous.map(Into::into) }))
        }
        Some(txn_op_response::Response::Delete(delete)) => Ok(StepReply::Delete(DeleteReply {
            at,
            deleted: delete.deleted,
            previous: delete.previous.into_iter().map(Into::into).collect(),
        })),
        Some(txn_op_response::Response::Range(range)) => {
            Ok(StepReply::Range(RangeReply { at, ..range.into() }))
        }
        Some(txn_op_response::Response::Txn(txn)) => {
            let nested = reply_of(txn)?;
            Ok(StepReply::Txn(TxnReply { at, ..nested }))
        }
        None => Err(Error::unintelligible("the answer to a transaction lacks a step")),
    });
    Ok(TxnReply { at, succeeded: response.succeeded, steps: steps.collect::<Result<_, _>>()? })
}
