//! Leases: keys that are attached to one go when it ends.

use crate::call::{Route, millis};
use crate::client::Client;
use crate::keepalive::KeepAlive;
use crate::{Error, Position};
use bytes::Bytes;
use keelstone_proto::v1;
use std::fmt;
use std::time::Duration;

/// Names a lease.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct LeaseId(i64);

impl LeaseId {
    /// The lease with this number, which is above 0.
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> i64 {
        self.0
    }

    pub(crate) fn from_wire(number: i64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({:x})", self.0)
    }
}

/// A lease as it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The time that each renewal gives it: at least the server's minimum of
    /// two seconds.
    pub ttl: Duration,
    /// The position of the grant.
    pub at: Position,
}

/// How long a lease still has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimeToLive {
    /// The time that a renewal gives it.
    pub granted: Duration,
    /// The time that is left.
    pub remaining: Duration,
    /// The keys that are attached to it, if they were asked for.
    pub keys: Vec<Bytes>,
}

/// Leases; made by [`Client::leases`].
#[derive(Clone, Debug)]
pub struct Leases {
    client: Client,
}

impl Leases {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Grants a lease that ends `ttl` after its last renewal, by the cluster's
    /// own time. Less than two seconds are raised to two.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) or
    /// [`TooLarge`](crate::ErrorKind::TooLarge) if the time is out of bounds; and
    /// as every write, see [`Put::send`](crate::Put::send).
    pub async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.grant_as(None, ttl).await
    }

    /// Grants a lease with an id of the caller's choice.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) if the id
    /// is in use; else as [`Leases::grant`].
    pub async fn grant_with_id(&self, id: LeaseId, ttl: Duration) -> Result<Lease, Error> {
        self.grant_as(Some(id), ttl).await
    }

    async fn grant_as(&self, id: Option<LeaseId>, ttl: Duration) -> Result<Lease, Error> {
        let (id, ttl_ms) = (id.map_or(0, LeaseId::get), millis(ttl));
        let response = self
            .client
            .write(|attempt| async move {
                let write_id = attempt.write_id;
                let request = v1::LeaseGrantRequest { id, ttl_ms, write_id };
                attempt.leases().grant(attempt.request(request)).await
            })
            .await?;
        let id = LeaseId::from_wire(response.id)
            .ok_or_else(|| Error::unintelligible("the answer to a grant lacks the lease"))?;
        let at = Position::of(response.header.as_ref());
        Ok(Lease { id, ttl: Duration::from_millis(response.ttl_ms), at })
    }

    /// Renews `lease` in the background for as long as the handle lives.
    pub fn keep_alive(&self, lease: Lease) -> KeepAlive {
        KeepAlive::start(self.client.clone(), lease)
    }

    /// Renews a lease that was granted before, perhaps by somebody else; `None`
    /// if there is no such lease.
    ///
    /// # Errors
    ///
    /// As every read.
    pub async fn adopt(&self, id: LeaseId) -> Result<Option<KeepAlive>, Error> {
        let found = self.time_to_live(id, false).await?;
        Ok(found.map(|lease| {
            let at = Position::default();
            self.keep_alive(Lease { id, ttl: lease.granted, at })
        }))
    }

    /// Grants a lease and keeps it alive.
    ///
    /// # Errors
    ///
    /// As [`Leases::grant`].
    pub async fn hold(&self, ttl: Duration) -> Result<KeepAlive, Error> {
        let asked = tokio::time::Instant::now();
        let lease = self.grant(ttl).await?;
        Ok(KeepAlive::start_from(self.client.clone(), lease, asked))
    }

    /// Ends a lease now; its keys are deleted, at one revision.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if it has ended
    /// before; and as every write.
    pub async fn revoke(&self, id: LeaseId) -> Result<Position, Error> {
        let response = self
            .client
            .write(|attempt| async move {
                let write_id = attempt.write_id;
                let request = v1::LeaseRevokeRequest { id: id.get(), write_id };
                attempt.leases().revoke(attempt.request(request)).await
            })
            .await?;
        Ok(Position::of(response.header.as_ref()))
    }

    /// How long a lease still has, and with `keys` what is attached to it;
    /// `None` if there is no such lease.
    ///
    /// # Errors
    ///
    /// As every read.
    pub async fn time_to_live(&self, id: LeaseId, keys: bool) -> Result<Option<TimeToLive>, Error> {
        let response = self
            .client
            .read(Route::Leader, |attempt| async move {
                let request = v1::LeaseTimeToLiveRequest { id: id.get(), keys };
                attempt.leases().time_to_live(attempt.request(request)).await
            })
            .await?;
        Ok(response.found.then(|| TimeToLive {
            granted: Duration::from_millis(response.ttl_ms),
            remaining: Duration::from_millis(response.remaining_ms),
            keys: response.keys,
        }))
    }

    /// All leases there are.
    ///
    /// # Errors
    ///
    /// As every read.
    pub async fn list(&self) -> Result<Vec<LeaseId>, Error> {
        let response = self
            .client
            .read(Route::Leader, |attempt| async move {
                attempt.leases().list(attempt.request(v1::LeaseListRequest {})).await
            })
            .await?;
        Ok(response.ids.into_iter().map(LeaseId).collect())
    }
}
