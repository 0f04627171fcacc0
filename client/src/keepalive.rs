//! Renewing a lease in the background.
//!
//! The handle says at any time until when the lease is surely held. That bound
//! is counted from the moment a renewal was *sent*: the cluster counts from a
//! later one, so the holder stops first whatever was slow in between.

use crate::Error;
use crate::backoff::BackOff;
use crate::call::Attempt;
use crate::client::Client;
use crate::endpoint::Chosen;
use crate::lease::{Lease, LeaseId};
use crate::status::Failure;
use keelstone_proto::v1::LeaseKeepAliveRequest;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// What is known of a lease that is being renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// Held at least until then.
    Held(Instant),
    /// It ended: it was revoked, or expired before a renewal came through.
    Ended,
}

/// Keeps a lease alive; made by [`Leases::keep_alive`](crate::Leases::keep_alive)
/// and [`Leases::hold`](crate::Leases::hold).
///
/// It renews three times per time to live, on whatever node answers. When it is
/// dropped the renewals stop, and the lease ends by itself;
/// [`KeepAlive::revoke`] ends it at once.
#[derive(Debug)]
pub struct KeepAlive {
    client: Client,
    lease: Lease,
    health: watch::Receiver<Health>,
    task: JoinHandle<()>,
}

impl KeepAlive {
    /// Renews at once: when the lease was granted is not known here.
    pub(crate) fn start(client: Client, lease: Lease) -> Self {
        let now = Instant::now();
        Self::spawn(client, lease, Health::Held(now), now)
    }

    /// The lease was asked for at `asked`, so it lasts that much longer.
    pub(crate) fn start_from(client: Client, lease: Lease, asked: Instant) -> Self {
        Self::spawn(client, lease, Health::Held(asked + lease.ttl), asked + lease.ttl / 3)
    }

    fn spawn(client: Client, lease: Lease, first: Health, renew_at: Instant) -> Self {
        let (report, health) = watch::channel(first);
        let renewer = Renewer { client: client.clone(), lease, report, renew_at };
        let task = tokio::spawn(renewer.run());
        Self { client, lease, health, task }
    }

    /// The lease.
    pub fn id(&self) -> LeaseId {
        self.lease.id
    }

    /// The time that each renewal gives.
    pub fn ttl(&self) -> Duration {
        self.lease.ttl
    }

    /// Whether the lease is surely held at this moment. `false` means that it
    /// has ended or that nobody can say.
    pub fn is_held(&self) -> bool {
        self.held_for() > Duration::ZERO
    }

    /// For how much longer the lease is surely held, even if no renewal comes
    /// through any more.
    pub fn held_for(&self) -> Duration {
        match *self.health.borrow() {
            Health::Held(until) => until.saturating_duration_since(Instant::now()),
            Health::Ended => Duration::ZERO,
        }
    }

    /// Returns when the lease is not surely held any more: it ended, or no
    /// renewal came through for its whole time. Stop what it protects.
    pub async fn lost(&self) {
        let mut health = self.health.clone();
        loop {
            let Health::Held(until) = *health.borrow_and_update() else { return };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {
                    if *health.borrow() == Health::Held(until) {
                        return;
                    }
                }
                changed = health.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Ends the lease now, so that others need not wait for it.
    ///
    /// # Errors
    ///
    /// As [`Leases::revoke`](crate::Leases::revoke), except that a lease which
    /// has ended already is no error. After a failure the lease ends by itself.
    pub async fn revoke(self) -> Result<(), Error> {
        self.task.abort();
        match self.client.leases().revoke(self.lease.id).await {
            Err(error) if !error.is_not_found() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Renewer {
    client: Client,
    lease: Lease,
    report: watch::Sender<Health>,
    renew_at: Instant,
}

/// Why renewing over one stream ended.
enum Stop {
    /// The stream is lost; another may do.
    Stream,
    /// The lease has ended.
    Lease,
}

impl Renewer {
    async fn run(mut self) {
        let mut back_off = BackOff::of_streams();
        loop {
            tokio::time::sleep_until(self.renew_at).await;
            let before = *self.report.borrow();
            if let Stop::Lease = self.renew_over_one_stream().await {
                self.report.send_replace(Health::Ended);
                return;
            }
            if *self.report.borrow() != before {
                back_off = BackOff::of_streams();
            }
            // A lease that is about to end cannot wait as long as a watch.
            let pause = back_off.step().min(self.lease.ttl / 10);
            tokio::time::sleep(pause).await;
        }
    }

    async fn renew_over_one_stream(&mut self) -> Stop {
        let chosen = self.client.endpoints().leader();
        let limit = (self.lease.ttl / 3).min(self.client.options().attempt_timeout);
        // The first renewal goes along with the opening: a server may wait for
        // it before it answers.
        let mut sent = Instant::now();
        let (requests, queue) = mpsc::channel(1);
        let request = LeaseKeepAliveRequest { id: self.lease.id.get() };
        requests.try_send(request).expect("the queue is new and has room for one");
        let mut stub = Attempt::new(chosen.endpoint.streams(), limit).leases();
        let opened = stub.keep_alive(ReceiverStream::new(queue));
        let mut replies = match tokio::time::timeout(limit, opened).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return self.moved(&chosen, &Failure::of(&status)),
            Err(_elapsed) => return self.moved(&chosen, &Failure::silent("")),
        };
        loop {
            let ttl = match tokio::time::timeout(limit, replies.message()).await {
                Ok(Ok(Some(reply))) => Duration::from_millis(reply.ttl_ms),
                Ok(Ok(None)) => return Stop::Stream,
                Ok(Err(status)) => return self.moved(&chosen, &Failure::of(&status)),
                Err(_elapsed) => return self.moved(&chosen, &Failure::silent("")),
            };
            if ttl.is_zero() {
                return Stop::Lease;
            }
            self.report.send_replace(Health::Held(sent + ttl));
            self.renew_at = sent + ttl / 3;
            tokio::time::sleep_until(self.renew_at).await;
            sent = Instant::now();
            if requests.send(request).await.is_err() {
                return Stop::Stream;
            }
        }
    }

    fn moved(&self, chosen: &Chosen, failure: &Failure) -> Stop {
        self.client.endpoints().note(chosen, failure);
        Stop::Stream
    }
}
