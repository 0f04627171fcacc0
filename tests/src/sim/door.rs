//! How clients reach the services of a node: errands that the node runs.
//!
//! Clients call the services directly instead of through gRPC: what is tested
//! lies below. The way there and back takes time, a request or an answer can be
//! lost, and a host that is gone answers nothing. An errand that was sent may
//! have been done, whatever became of its answer.

use super::{HostId, SEED_OF_ERRANDS, WorldTime};
use crate::durability::Random;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use keelstone_server::core::Core;
use keelstone_server::entities::Entities;
use keelstone_server::replica::Replica;
use keelstone_server::simulation;
use keelstone_server::watch::Hub;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Errands that may wait at a node.
const WAITING_MAX: usize = 1024;

/// What a node offers.
pub struct Services {
    /// Which host.
    pub host: HostId,
    /// The replica itself.
    pub replica: Arc<Replica>,
    /// The same, as the services above see it.
    pub core: Arc<dyn Core>,
    /// Its watch hub.
    pub hub: Arc<Hub>,
    /// Its entity loop.
    pub entities: Arc<Entities>,
}

/// Why an errand has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Nobody took it: it was not and will not be done.
    NotSent,
    /// It may have been done, or may yet be.
    Lost,
}

type Errand = Box<dyn FnOnce(Arc<Services>) -> BoxFuture<'static, ()> + Send>;

/// How the way between clients and nodes behaves.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The longest time of one way, in microseconds.
    pub latency_max_us: u64,
    /// Of a thousand errands so many are lost before they arrive.
    pub loss_permille: u64,
    /// Of a thousand answers so many are lost.
    pub answer_loss_permille: u64,
}

/// The doors of all nodes. Clones share them.
#[derive(Clone)]
pub struct Doors {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    doors: BTreeMap<HostId, mpsc::Sender<Errand>>,
    random: Random,
    way: Way,
    /// Nodes that clients cannot reach.
    shut: BTreeSet<HostId>,
}

impl Doors {
    /// No doors yet.
    pub fn new(seed: u64, way: Way) -> Self {
        let random = Random::new(seed);
        let shared = Shared { doors: BTreeMap::new(), random, way, shut: BTreeSet::new() };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how the way behaves.
    pub fn set_way(&self, way: Way) {
        self.lock().way = way;
    }

    /// Keeps clients from a node, or lets them reach it again.
    pub fn set_shut(&self, host: HostId, shut: bool) {
        let mut shared = self.lock();
        if shut {
            shared.shut.insert(host);
        } else {
            shared.shut.remove(&host);
        }
    }

    /// Whether clients cannot reach a node.
    pub fn is_shut(&self, host: HostId) -> bool {
        self.lock().shut.contains(&host)
    }

    /// Lets clients reach all nodes.
    pub fn open_all(&self) {
        self.lock().shut.clear();
    }

    /// The host is off: nothing is taken there.
    pub fn close(&self, host: HostId) {
        let door = self.lock().doors.remove(&host);
        drop(door);
    }

    /// Runs errands on a node, for ever.
    pub async fn serve(&self, services: Arc<Services>) {
        let (door, mut errands) = mpsc::channel::<Errand>(WAITING_MAX);
        let before = self.lock().doors.insert(services.host, door);
        drop(before);
        let mut number = 0;
        while let Some(errand) = errands.recv().await {
            number += 1;
            let seed = SEED_OF_ERRANDS ^ (services.host << 32) ^ number;
            tokio::spawn(simulation::scope(seed, errand(Arc::clone(&services))));
        }
    }

    /// Sends an errand to a node and waits for its answer, by the caller's clock.
    ///
    /// # Errors
    ///
    /// See [`NoAnswer`].
    pub async fn ask<T, F, Fut>(
        &self,
        host: HostId,
        patience: Duration,
        errand: F,
    ) -> Result<T, NoAnswer>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Services>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let (there, back, lost, answer_lost) = {
            let mut shared = self.lock();
            let way = shared.way;
            let there = shared.random.below(way.latency_max_us + 1);
            let back = shared.random.below(way.latency_max_us + 1);
            let lost = shared.random.below(1000) < way.loss_permille;
            let answer_lost = shared.random.below(1000) < way.answer_loss_permille;
            (there, back, lost || shared.shut.contains(&host), answer_lost)
        };
        tokio::time::sleep(Duration::from_micros(there)).await;
        if lost {
            tokio::time::sleep(patience).await;
            // A client cannot tell that it never arrived.
            return Err(NoAnswer::Lost);
        }
        let door = self.lock().doors.get(&host).cloned().ok_or(NoAnswer::NotSent)?;
        let (sender, receiver) = oneshot::channel();
        let errand: Errand = Box::new(move |services| {
            let done = errand(services);
            // Nobody listens if the client has given up.
            async move { drop(sender.send(done.await)) }.boxed()
        });
        door.try_send(errand).map_err(|_| NoAnswer::NotSent)?;
        let answer = tokio::time::timeout(patience, receiver).await;
        let answer = answer.map_err(|_| NoAnswer::Lost)?.map_err(|_| NoAnswer::Lost)?;
        tokio::time::sleep(Duration::from_micros(back)).await;
        if answer_lost || self.lock().shut.contains(&host) {
            return Err(NoAnswer::Lost);
        }
        Ok(answer)
    }
}

/// Used by clients to tell the time in histories.
pub fn nanoseconds(time: &WorldTime) -> keelstone_jepsen::history::Clock {
    let time = time.clone();
    Arc::new(move || time.now_us() * 1000)
}
