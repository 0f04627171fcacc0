//! What all handlers share: the core behind checks, deadlines and headers.

use super::convert::{Malformed, write_id_from_proto};
use super::status::{self, Failure};
use crate::changes::Position;
use crate::config::LimitsConfig;
use crate::core::{Consistency, Core, ProposeError};
use crate::entities::{Answer, Entities};
use crate::metrics::{Facts, Metrics};
use crate::settings::Settings;
use crate::watch::Hub;
use keelstone_proto::v1::{self, ResponseHeader};
use keelstone_store::Revision;
use keelstone_store::machine::{Command, Envelope, Outcome, Reply, View as _, check};
use keelstone_store::state::StateView;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::Span;
use tracing::field::display;

/// Exports that run at once: each reads the whole state.
const EXPORTS_MAX: usize = 2;

/// What the services stand on.
#[derive(Clone)]
pub struct Services {
    /// The replica.
    pub core: Arc<dyn Core>,
    /// The watch hub over its changes.
    pub hub: Arc<Hub>,
    /// Types and entities over it.
    pub entities: Arc<Entities>,
    /// Configuration over it.
    pub settings: Arc<Settings>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is known of the node besides the core.
    pub facts: Facts,
    /// What the node takes on.
    pub limits: LimitsConfig,
}

/// When a request's time is up. The layer puts it on every request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(pub(super) Instant);

/// Shared by all handlers.
pub(super) struct Context {
    pub(super) core: Arc<dyn Core>,
    pub(super) hub: Arc<Hub>,
    pub(super) entities: Arc<Entities>,
    pub(super) settings: Arc<Settings>,
    pub(super) facts: Facts,
    pub(super) limits: LimitsConfig,
    pub(super) exports: Arc<Semaphore>,
    /// Cancelled when the node refuses writes.
    stop: CancellationToken,
    position: watch::Receiver<Position>,
    /// The history, and the epoch that it was read in.
    history: Mutex<Option<(u64, [u8; 16])>>,
}

impl Context {
    pub(super) fn new(services: Services, stop: CancellationToken) -> Arc<Self> {
        let Services { core, hub, entities, settings, facts, limits, metrics: _ } = services;
        let position = core.changes().subscribe();
        let exports = Arc::new(Semaphore::new(EXPORTS_MAX));
        let history = Mutex::new(None);
        Arc::new(Self {
            core,
            hub,
            entities,
            settings,
            facts,
            limits,
            exports,
            stop,
            position,
            history,
        })
    }

    /// Replicates a command; its span learns the command and the revision.
    pub(super) async fn propose(
        &self,
        command: Command,
        write_id: Option<v1::WriteId>,
        deadline: Instant,
    ) -> Result<Reply, Status> {
        Span::current().record("command", command.name());
        if self.stop.is_cancelled() {
            return Err(status::of(ProposeError::Stopping));
        }
        let write_id = write_id.map(write_id_from_proto).transpose().map_err(status::of)?;
        let envelope = Envelope { write_id, command };
        check::envelope(&envelope).map_err(status::of)?;
        let reply = self.core.propose(envelope, deadline).await.map_err(status::of)?;
        Span::current().record("revision", display(reply.revision));
        match reply.outcome {
            Outcome::Rejected(rejection) => Err(status::of(rejection)),
            Outcome::Applied => Err(status::of(Failure::reply_not_kept(reply.revision.get()))),
            _ => Ok(reply),
        }
    }

    /// A consistent state, and the header of an answer from it.
    pub(super) async fn read(
        &self,
        consistency: i32,
        deadline: Instant,
    ) -> Result<(StateView, ResponseHeader), Status> {
        let consistency = match v1::Consistency::try_from(consistency) {
            Ok(v1::Consistency::Linearizable) => Consistency::Linearizable,
            Ok(v1::Consistency::Serializable) => Consistency::Serializable,
            Err(_) => {
                return Err(status::of(Malformed::new("consistency", "it is not one of the enum")));
            }
        };
        let view = self.core.read(consistency, deadline).await.map_err(status::of)?;
        let head = view.head();
        Span::current().record("revision", display(head.revision));
        let mut header = self.header_of(head.revision, head.history);
        header.serializable = consistency == Consistency::Serializable;
        Ok((view, header))
    }

    /// The header of the answer to a write.
    pub(super) async fn header(&self, revision: Revision) -> Result<ResponseHeader, Status> {
        Ok(self.header_of(revision, self.history().await?))
    }

    /// The header of an answer at `revision` of `history`.
    pub(super) fn header_of(&self, revision: Revision, history: [u8; 16]) -> ResponseHeader {
        let identity = self.core.identity();
        ResponseHeader {
            cluster_id: bytes::Bytes::copy_from_slice(&identity.cluster_id),
            node_id: identity.node_id,
            revision: revision.get(),
            term: self.core.term(),
            history: bytes::Bytes::copy_from_slice(&history),
            serializable: false,
        }
    }

    /// The history that revisions belong to. It is read once for each epoch: it
    /// can change only when the state is replaced.
    async fn history(&self) -> Result<[u8; 16], Status> {
        let epoch = self.position.borrow().epoch;
        let known = *self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, history)) = known
            && of == epoch
        {
            return Ok(history);
        }
        let soon = Instant::now() + self.limits.request_timeout;
        let view = self.core.read(Consistency::Serializable, soon).await.map_err(status::of)?;
        let history = view.head().history;
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, history));
        Ok(history)
    }

    /// Until the node refuses writes.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// When a write's time is up; its span learns the command. Refuses it if the
    /// node stops.
    pub(super) fn write_deadline<T>(
        &self,
        request: &tonic::Request<T>,
        command: &'static str,
    ) -> Result<Instant, Status> {
        Span::current().record("command", command);
        if self.stop.is_cancelled() {
            return Err(status::of(ProposeError::Stopping));
        }
        Ok(self.deadline(request))
    }

    /// The header of an answer of the entity loop, and its value; the span
    /// learns the revision.
    pub(super) fn answer<T>(&self, answer: Answer<T>) -> (ResponseHeader, T) {
        let Answer { value, revision, history, serializable } = answer;
        Span::current().record("revision", display(revision));
        (ResponseHeader { serializable, ..self.header_of(revision, history) }, value)
    }

    /// When a request's time is up.
    pub(super) fn deadline<T>(&self, request: &tonic::Request<T>) -> Instant {
        let deadline = request.extensions().get::<Deadline>();
        deadline.map_or_else(|| Instant::now() + self.limits.request_timeout, |d| d.0)
    }
}
