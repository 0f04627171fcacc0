//! One call, with all its attempts: where to send it, what to do when that
//! fails, and what may be said about a write in the end.
//!
//! The rule is one: a request is sent again only if that cannot apply it twice.

use crate::backoff::BackOff;
use crate::client::Client;
use crate::endpoint::Chosen;
use crate::session::Identity;
use crate::status::Failure;
use crate::{Error, ErrorKind, Outcome};
use keelstone_proto::v1::cluster_client::ClusterClient;
use keelstone_proto::v1::config_client::ConfigClient;
use keelstone_proto::v1::entities_client::EntitiesClient;
use keelstone_proto::v1::kv_client::KvClient;
use keelstone_proto::v1::leases_client::LeasesClient;
use keelstone_proto::v1::sessions_client::SessionsClient;
use keelstone_proto::v1::types_client::TypesClient;
use keelstone_proto::v1::{SessionOpenRequest, WriteId};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Bytes of a response: ranges are at most 8 MiB of keys and values.
pub(crate) const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// Hints that are followed without waiting in between.
const HOPS_MAX: u32 = 3;

/// Whether a request may be sent again after an attempt that nobody answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It has no effect, or one that does not add up.
    Always,
    /// It carries its identity.
    Identified,
    /// Only if the server said that it was not applied.
    WhenRefused,
}

/// Which node to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// The one that leads, as far as known.
    Leader,
    /// Any that answers.
    Any,
}

/// One attempt: the connection, the time it has, the identity of the write.
pub(crate) struct Attempt {
    channel: Channel,
    timeout: Duration,
    pub(crate) write_id: Option<WriteId>,
}

macro_rules! stubs {
    ($($name:ident -> $stub:ident),* $(,)?) => {
        $(pub(crate) fn $name(&self) -> $stub<Channel> {
            $stub::new(self.channel.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
        })*
    };
}

impl Attempt {
    pub(crate) fn new(channel: Channel, timeout: Duration) -> Self {
        Self { channel, timeout, write_id: None }
    }

    /// The request with its time limit, which the server keeps as well.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    stubs! {
        kv -> KvClient,
        leases -> LeasesClient,
        sessions -> SessionsClient,
        types -> TypesClient,
        entities -> EntitiesClient,
        config -> ConfigClient,
        cluster -> ClusterClient,
    }
}

impl Client {
    /// A call without effect.
    pub(crate) async fn read<T, F, Fut>(&self, route: Route, send: F) -> Result<T, Error>
    where
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        Call::new(self, route, Repeat::Always).run(send).await
    }

    /// A write that carries its identity, if sessions are on.
    pub(crate) async fn write<T, F, Fut>(&self, send: F) -> Result<T, Error>
    where
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let sessions = self.options().sessions;
        let repeat = if sessions { Repeat::Identified } else { Repeat::WhenRefused };
        Call::new(self, Route::Leader, repeat).run(send).await
    }

    /// A change that has no identity, such as one of the membership.
    pub(crate) async fn change<T, F, Fut>(&self, send: F) -> Result<T, Error>
    where
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        Call::new(self, Route::Leader, Repeat::WhenRefused).run(send).await
    }

    /// Opens a session. An answer that is lost leaves one behind that nobody
    /// uses and that expires.
    async fn open_session(&self, deadline: Instant) -> Result<u64, Error> {
        let ttl_ms = millis(self.options().session_ttl);
        let mut call = Call::new(self, Route::Leader, Repeat::Always);
        call.deadline = deadline;
        let opened = call
            .run(|attempt| async move {
                let request = attempt.request(SessionOpenRequest { ttl_ms });
                attempt.sessions().open(request).await
            })
            .await;
        // Nothing of the write was sent: that the session may exist is no
        // reason to call the write unknown.
        opened.map(|response| response.session)
    }
}

/// A duration as the wire has it.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

struct Call<'a> {
    client: &'a Client,
    route: Route,
    repeat: Repeat,
    deadline: Instant,
    back_off: BackOff,
    /// Whether an attempt was made that may have taken effect.
    outcome: Outcome,
    hops: u32,
    /// Attempts since the last pause.
    tried: usize,
}

/// What follows a failed attempt.
enum Next {
    Again,
    End(Error),
}

impl<'a> Call<'a> {
    fn new(client: &'a Client, route: Route, repeat: Repeat) -> Self {
        Self {
            client,
            route,
            repeat,
            deadline: Instant::now() + client.options().timeout,
            back_off: BackOff::of_calls(),
            outcome: Outcome::NotApplied,
            hops: 0,
            tried: 0,
        }
    }

    async fn run<T, F, Fut>(mut self, send: F) -> Result<T, Error>
    where
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut identity = None;
        loop {
            if self.repeat == Repeat::Identified && identity.is_none() {
                identity = Some(self.begin().await?);
            }
            let chosen = match self.route {
                Route::Leader => self.client.endpoints().leader(),
                Route::Any => self.client.endpoints().any(),
            };
            let limit = self.attempt_limit();
            let mut attempt = Attempt::new(chosen.endpoint.calls(), limit);
            attempt.write_id = identity.as_ref().map(Identity::to_wire);
            let sent = tokio::time::timeout(limit, send(attempt));
            let answer = tokio::select! {
                biased;
                answer = sent => answer.ok(),
                () = self.deposed(&chosen) => None,
            };
            let failure = match answer {
                Some(Ok(response)) => {
                    chosen.endpoint.answered();
                    return Ok(response.into_inner());
                }
                Some(Err(status)) => Failure::of(&status),
                None => Failure::silent(chosen.endpoint.address()),
            };
            if let Next::End(error) = self.judge(failure, &chosen, &mut identity).await {
                return Err(error);
            }
        }
    }

    async fn begin(&self) -> Result<Identity, Error> {
        // Boxed, because opening a session is a call as well.
        let open = || Box::pin(self.client.open_session(self.deadline));
        let begun = self.client.session().begin(open);
        match tokio::time::timeout_at(self.deadline, begun).await {
            Ok(identity) => identity.map_err(|error| match error.kind() {
                ErrorKind::DeadlineExceeded { .. } | ErrorKind::Unknown => {
                    deadline_error(Outcome::NotApplied, error.message())
                }
                _ => error,
            }),
            Err(_elapsed) => Err(deadline_error(
                Outcome::NotApplied,
                "too many writes of this client wait for their answers",
            )),
        }
    }

    /// A write that may not be repeated gets all the time there is.
    fn attempt_limit(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.repeat {
            Repeat::WhenRefused => left,
            Repeat::Always | Repeat::Identified => left.min(self.client.options().attempt_timeout),
        }
    }

    /// Completes if it is better not to wait for `chosen` any longer: the others
    /// have another leader. Never for what may not be sent again.
    async fn deposed(&self, chosen: &Chosen) {
        if self.route == Route::Any || self.repeat == Repeat::WhenRefused {
            std::future::pending::<()>().await;
        }
        self.client.endpoints().deposed(chosen).await;
    }

    async fn judge(
        &mut self,
        failure: Failure,
        chosen: &Chosen,
        identity: &mut Option<Identity>,
    ) -> Next {
        let news = self.client.endpoints().note(chosen, &failure);
        tracing::debug!(
            endpoint = chosen.endpoint.address(),
            outcome = ?failure.outcome,
            transient = failure.transient,
            "attempt failed"
        );
        if self.repeat == Repeat::Always {
            return self.judge_transient(failure, news).await;
        }
        if failure.session_lost {
            if let Some(identity) = identity.take() {
                self.client.session().lost(&identity);
            }
            if self.outcome == Outcome::Unknown {
                return Next::End(failure.into_error(Outcome::Unknown));
            }
            return self.again(failure).await;
        }
        if failure.outcome == Outcome::Unknown {
            self.outcome = Outcome::Unknown;
        }
        if self.outcome == Outcome::Unknown && self.repeat == Repeat::WhenRefused {
            return Next::End(failure.into_error(Outcome::Unknown));
        }
        self.judge_transient(failure, news).await
    }

    async fn judge_transient(&mut self, failure: Failure, news: bool) -> Next {
        if !failure.transient {
            // A definite answer to a write with an identity is the answer to
            // all of its attempts; but a refusal to listen is no answer.
            let outcome =
                if failure.is_refusal_to_listen() { self.outcome } else { failure.outcome };
            let outcome = if self.repeat == Repeat::Always { Outcome::NotApplied } else { outcome };
            return Next::End(failure.into_error(outcome));
        }
        if news && self.hops < HOPS_MAX && Instant::now() < self.deadline {
            self.hops += 1;
            return Next::Again;
        }
        self.again(failure).await
    }

    /// Goes on at once until every node was asked, then after a pause.
    async fn again(&mut self, failure: Failure) -> Next {
        self.tried += 1;
        if failure.unreachable && self.tried < self.client.endpoints().len() {
            if Instant::now() < self.deadline {
                return Next::Again;
            }
            return Next::End(failure.into_deadline_error(self.outcome));
        }
        let pause = self.back_off.step();
        if Instant::now() + pause >= self.deadline {
            return Next::End(failure.into_deadline_error(self.outcome));
        }
        tokio::time::sleep(pause).await;
        (self.tried, self.hops) = (0, 0);
        Next::Again
    }
}

fn deadline_error(outcome: Outcome, message: &str) -> Error {
    Error::new(ErrorKind::DeadlineExceeded { outcome }, outcome, message)
}
