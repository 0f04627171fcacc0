//! Raw keys: put, range, delete, compact.

use crate::call::Route;
use crate::client::Client;
use crate::lease::LeaseId;
use crate::range::KeyRange;
use crate::txn::Txn;
use crate::watch::WatchBuilder;
use crate::{Consistency, Error, Position, Revision};
use bytes::Bytes;
use keelstone_proto::v1;
use std::fmt;

/// A key with its value and where it comes from.
///
/// `Debug` shows sizes, not contents.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty if only keys were asked for.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision of its last put.
    pub mod_revision: Revision,
    /// 1 for a new key, one more with each put.
    pub version: u64,
    /// The lease that the key ends with.
    pub lease: Option<LeaseId>,
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key_bytes", &self.key.len())
            .field("value_bytes", &self.value.len())
            .field("mod_revision", &self.mod_revision)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl From<v1::KeyValue> for KeyValue {
    fn from(kv: v1::KeyValue) -> Self {
        Self {
            key: kv.key,
            value: kv.value,
            create_revision: kv.create_revision.into(),
            mod_revision: kv.mod_revision.into(),
            version: kv.version,
            lease: LeaseId::from_wire(kv.lease),
        }
    }
}

/// Raw keys; made by [`Client::kv`].
///
/// Keys are at most 4095 bytes, values at most 1.5 MiB.
#[derive(Clone, Debug)]
pub struct Kv {
    client: Client,
}

impl Kv {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Sets `key` to `value`, whatever it was. For a condition use
    /// [`Kv::txn`].
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put {
        let request =
            v1::PutRequest { key: key.into(), value: value.into(), ..v1::PutRequest::default() };
        Put { client: self.client.clone(), request }
    }

    /// The key, or `None` if it does not exist. For a past revision or a local
    /// read use [`Kv::range`] with [`KeyRange::key`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) if no
    /// quorum could be asked in time.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<KeyValue>, Error> {
        Ok(self.range(KeyRange::key(key)).send().await?.kvs.pop())
    }

    /// Reads the keys in `range`, in byte order.
    pub fn range(&self, range: impl Into<KeyRange>) -> Range {
        Range { client: self.client.clone(), request: range_request(range.into()) }
    }

    /// Deletes the keys in `range`, all at one revision.
    pub fn delete(&self, range: impl Into<KeyRange>) -> Delete {
        let span = Some(range.into().into_wire());
        let request = v1::DeleteRequest { span, previous: false, write_id: None };
        Delete { client: self.client.clone(), request }
    }

    /// Begins a transaction: compares, then one of two branches, at one
    /// revision.
    pub fn txn(&self) -> Txn {
        Txn::new(self.client.clone())
    }

    /// Streams the changes of the keys in `range`.
    pub fn watch(&self, range: impl Into<KeyRange>) -> WatchBuilder {
        WatchBuilder::new(self.client.clone(), range.into())
    }

    /// Forgets history below `revision`. What is alive at it stays.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Compacted`](crate::ErrorKind::Compacted) if that was done
    /// before, [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the revision
    /// does not exist yet.
    pub async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let request = v1::CompactRequest { revision: revision.get() };
        self.client
            .change(|attempt| async move { attempt.kv().compact(attempt.request(request)).await })
            .await?;
        Ok(())
    }
}

pub(crate) fn range_request(range: KeyRange) -> v1::RangeRequest {
    v1::RangeRequest { span: Some(range.into_wire()), ..v1::RangeRequest::default() }
}

/// A put that has not been sent; made by [`Kv::put`].
#[must_use = "nothing is written until it is sent"]
#[derive(Debug)]
pub struct Put {
    client: Client,
    request: v1::PutRequest,
}

/// The answer to a put.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PutReply {
    /// The revision of the put.
    pub at: Position,
    /// What was there before, if it was asked for.
    pub previous: Option<KeyValue>,
}

impl Put {
    /// Attaches the key to `lease`: it is deleted when the lease ends.
    pub fn lease(mut self, lease: LeaseId) -> Self {
        self.request.lease = lease.get();
        self
    }

    /// Returns what was there before.
    pub fn previous(mut self) -> Self {
        self.request.previous = true;
        self
    }

    /// Sends it, and returns when a quorum has it on disk.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge),
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if the lease does not
    /// exist, and as every write:
    /// [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) or
    /// [`Unknown`](crate::ErrorKind::Unknown), which may leave it open whether
    /// the write took effect: see [`Error::outcome`].
    pub async fn send(self) -> Result<PutReply, Error> {
        let request = &self.request;
        let response = self
            .client
            .write(|attempt| {
                let request = v1::PutRequest { write_id: attempt.write_id, ..request.clone() };
                async move { attempt.kv().put(attempt.request(request)).await }
            })
            .await?;
        Ok(PutReply {
            at: Position::of(response.header.as_ref()),
            previous: response.previous.map(Into::into),
        })
    }
}

/// A delete that has not been sent; made by [`Kv::delete`].
#[must_use = "nothing is deleted until it is sent"]
#[derive(Debug)]
pub struct Delete {
    client: Client,
    request: v1::DeleteRequest,
}

/// The answer to a delete.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeleteReply {
    /// The store's revision after the delete; unchanged if nothing was there.
    pub at: Position,
    /// How many keys were deleted.
    pub deleted: u64,
    /// The deleted keys, if they were asked for.
    pub previous: Vec<KeyValue>,
}

impl Delete {
    /// Returns what was deleted.
    pub fn previous(mut self) -> Self {
        self.request.previous = true;
        self
    }

    /// Sends it, and returns when a quorum has it on disk.
    ///
    /// # Errors
    ///
    /// As [`Put::send`].
    pub async fn send(self) -> Result<DeleteReply, Error> {
        let request = &self.request;
        let response = self
            .client
            .write(|attempt| {
                let request = v1::DeleteRequest { write_id: attempt.write_id, ..request.clone() };
                async move { attempt.kv().delete(attempt.request(request)).await }
            })
            .await?;
        Ok(DeleteReply {
            at: Position::of(response.header.as_ref()),
            deleted: response.deleted,
            previous: response.previous.into_iter().map(Into::into).collect(),
        })
    }
}

/// A read of many keys that has not been sent; made by [`Kv::range`].
#[must_use = "nothing is read until it is sent"]
#[derive(Clone, Debug)]
pub struct Range {
    client: Client,
    request: v1::RangeRequest,
}

/// The answer to a range.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RangeReply {
    /// The store's newest revision when it was read.
    pub at: Position,
    /// In byte order of the keys.
    pub kvs: Vec<KeyValue>,
    /// All keys of the range, whatever the limit.
    pub count: u64,
    /// Whether some were left out, by the limit or because the answer would
    /// have been too large. [`Range::pages`] reads on.
    pub more: bool,
}

impl From<v1::RangeResponse> for RangeReply {
    fn from(response: v1::RangeResponse) -> Self {
        Self {
            at: Position::of(response.header.as_ref()),
            kvs: response.kvs.into_iter().map(Into::into).collect(),
            count: response.count,
            more: response.more,
        }
    }
}

impl Range {
    /// Reads as of `revision` instead of the newest.
    pub fn at(mut self, revision: Revision) -> Self {
        self.request.revision = revision.get();
        self
    }

    /// Returns at most `limit` keys; of pages, per page.
    pub fn limit(mut self, limit: u64) -> Self {
        self.request.limit = limit;
        self
    }

    /// Leaves the values out.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Counts, and returns no keys.
    pub fn count_only(mut self) -> Self {
        self.request.count_only = true;
        self
    }

    /// How fresh the answer must be.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.request.consistency = consistency.to_wire();
        self
    }

    /// Sends it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Compacted`](crate::ErrorKind::Compacted) if the revision is
    /// gone, [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if it does not
    /// exist yet,
    /// [`ErrorKind::DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) if
    /// nobody could answer in time.
    pub async fn send(self) -> Result<RangeReply, Error> {
        let request = &self.request;
        let route = if request.consistency == Consistency::Serializable.to_wire() {
            Route::Any
        } else {
            Route::Leader
        };
        let response = self
            .client
            .read(route, |attempt| {
                let request = request.clone();
                async move { attempt.kv().range(attempt.request(request)).await }
            })
            .await?;
        Ok(response.into())
    }

    /// Reads the range in pages, all at the revision of the first one.
    pub fn pages(self) -> Pages {
        Pages { range: Some(self) }
    }
}

/// A range in pages; made by [`Range::pages`].
#[derive(Debug)]
pub struct Pages {
    range: Option<Range>,
}

impl Pages {
    /// The next page, or `None` after the last. A page that failed can be asked
    /// for again.
    ///
    /// # Errors
    ///
    /// As [`Range::send`]. [`Compacted`](crate::ErrorKind::Compacted) means that
    /// paging took longer than history is kept: begin anew.
    pub async fn next(&mut self) -> Result<Option<RangeReply>, Error> {
        let Some(range) = &self.range else { return Ok(None) };
        let page = range.clone().send().await?;
        let mut range = self.range.take();
        if let (true, Some(last), Some(range)) = (page.more, page.kvs.last(), range.as_mut()) {
            if range.request.revision == 0 {
                range.request.revision = page.at.revision.get();
            }
            advance(&mut range.request, &last.key);
            self.range = Some(range.clone());
        }
        Ok(Some(page))
    }
}

/// Makes `request` begin after `last`. A prefix becomes a range with an end.
fn advance(request: &mut v1::RangeRequest, last: &Bytes) {
    let Some(span) = request.span.take() else { return };
    let mut key = Vec::with_capacity(last.len() + 1);
    key.extend_from_slice(last);
    key.push(0);
    request.span = Some(KeyRange::from_wire(span).beginning_at(key.into()).into_wire());
}
