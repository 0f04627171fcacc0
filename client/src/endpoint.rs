//! The nodes that a client knows, whether they answer, and which of them leads.
//!
//! Nothing here sends a request: a call asks for an endpoint, tries it, and
//! tells what came of it.

use crate::Error;
use crate::builder::ChannelOptions;
use crate::status::Failure;
use keelstone_proto::v1::cluster_client::ClusterClient;
use keelstone_proto::v1::{Consistency, MembersRequest};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;

/// Nodes that a client remembers: those it was given and those that others
/// named as leaders.
const ENDPOINTS_MAX: usize = 16;
/// How long a node that did not answer is passed over, at most.
const AVOID_MAX: Duration = Duration::from_secs(3);

/// How long a leader may be silent before the others are asked whether they have
/// another: less than an election takes.
const DOUBT_AFTER: Duration = Duration::from_millis(250);
/// How often they are asked.
const DOUBT_INTERVAL: Duration = Duration::from_millis(100);
/// How long they have to answer.
const ASK_MAX: Duration = Duration::from_millis(300);

/// One node, reached over two connections: a stream that nobody reads must not
/// hold up the calls.
pub(crate) struct Endpoint {
    address: String,
    calls: Channel,
    streams: Channel,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    failures: u32,
    avoid_until: Option<Instant>,
}

impl Endpoint {
    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The connection for calls.
    pub(crate) fn calls(&self) -> Channel {
        self.calls.clone()
    }

    /// The connection for watches and other streams.
    pub(crate) fn streams(&self) -> Channel {
        self.streams.clone()
    }

    /// It answered, whatever the answer was.
    pub(crate) fn answered(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.failures > 0 {
            *health = Health::default();
        }
    }

    /// It could not be reached, or did not answer in time.
    pub(crate) fn failed(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.failures = health.failures.saturating_add(1);
        let pause = Duration::from_millis(50) * 2_u32.pow(health.failures.min(6));
        health.avoid_until = Some(Instant::now() + pause.min(AVOID_MAX));
    }

    /// A stream failed, or was not opened. Any node can serve streams, so that
    /// says nothing about who leads.
    pub(crate) fn stream_failed(&self, failure: &Failure) {
        if failure.unreachable {
            self.failed();
        }
    }

    fn avoided_until(&self) -> Option<Instant> {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.avoid_until.filter(|until| *until > Instant::now())
    }
}

/// All nodes that a client knows.
pub(crate) struct Endpoints {
    options: ChannelOptions,
    list: RwLock<Vec<Arc<Endpoint>>>,
    /// Index of the node that is believed to lead.
    preferred: AtomicUsize,
    /// Where the next stream or local read goes.
    turn: AtomicUsize,
    /// What the others said last of who leads; held while they are asked.
    said: tokio::sync::Mutex<Said>,
}

/// What nodes said of who leads.
#[derive(Default)]
struct Said {
    /// When they were asked last.
    asked: Option<Instant>,
    /// The newest term that any of them knew of, ever.
    term: u64,
    /// The index of the one that leads in it, if anybody knew.
    leader: Option<usize>,
}

impl Said {
    fn is_fresh(&self) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() < DOUBT_INTERVAL)
    }
}

/// An endpoint with its place in the list, which never shrinks.
#[derive(Clone)]
pub(crate) struct Chosen {
    pub(crate) endpoint: Arc<Endpoint>,
    index: usize,
}

impl Endpoints {
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if there is no address, or one is not an address.
    pub(crate) fn new(addresses: &[String], options: ChannelOptions) -> Result<Self, Error> {
        if addresses.is_empty() || addresses.len() > ENDPOINTS_MAX {
            let message = format!("give between 1 and {ENDPOINTS_MAX} endpoints");
            return Err(Error::invalid("endpoints", message));
        }
        let mut list = Vec::new();
        for address in addresses {
            let endpoint = open(address, &options)?;
            if !list.iter().any(|known: &Arc<Endpoint>| known.address == endpoint.address) {
                list.push(Arc::new(endpoint));
            }
        }
        let turn = AtomicUsize::new(rand::random_range(0..list.len()));
        Ok(Self {
            options,
            list: RwLock::new(list),
            preferred: AtomicUsize::new(0),
            turn,
            said: tokio::sync::Mutex::default(),
        })
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.list.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Endpoint>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node that is believed to lead, or the next one that answers.
    pub(crate) fn leader(&self) -> Chosen {
        let chosen = self.healthy_from(self.preferred.load(Ordering::Relaxed));
        self.preferred.store(chosen.index, Ordering::Relaxed);
        chosen
    }

    /// Any node that answers, a different one each time.
    pub(crate) fn any(&self) -> Chosen {
        self.healthy_from(self.turn.fetch_add(1, Ordering::Relaxed))
    }

    /// Completes once the others name another leader than `chosen`, which has not
    /// answered for a while: it may be cut off, or stand still. Until then they are
    /// asked again and again; for all calls that wait at a time, once. Can be
    /// cancelled.
    pub(crate) async fn deposed(&self, chosen: &Chosen) {
        tokio::time::sleep(DOUBT_AFTER).await;
        loop {
            let leader = self.leader_by_others(chosen).await;
            if let Some(leader) = leader.filter(|leader| *leader != chosen.index) {
                self.preferred.store(leader, Ordering::Relaxed);
                return;
            }
            tokio::time::sleep(DOUBT_INTERVAL).await;
        }
    }

    /// Whom the others name, from their last answers if those are not old.
    async fn leader_by_others(&self, chosen: &Chosen) -> Option<usize> {
        let mut said = self.said.lock().await;
        if said.is_fresh() {
            return said.leader;
        }
        // Noted before they are asked: with a leader that is slow, not silent, most
        // of those who ask are cancelled by their answer, and the next one must not
        // ask again at once.
        (said.asked, said.leader) = (Some(Instant::now()), None);
        if let Some((term, leader)) = self.ask_others(chosen).await {
            // A node that is cut off goes on naming the leader of its time.
            if term >= said.term {
                (said.term, said.leader) = (term, self.index_of(&leader));
            }
        }
        said.leader
    }

    /// Whom the others believe to lead, by the one of them that knows of the
    /// newest term; with that term.
    async fn ask_others(&self, chosen: &Chosen) -> Option<(u64, String)> {
        let others = self.all().into_iter().enumerate().filter(|(at, _)| *at != chosen.index);
        let asked = others.map(|(_, endpoint)| async move {
            let mut stub = ClusterClient::new(endpoint.calls());
            let consistency = Consistency::Serializable.into();
            let mut request = tonic::Request::new(MembersRequest { consistency });
            request.set_timeout(ASK_MAX);
            let answer = tokio::time::timeout(ASK_MAX, stub.members(request)).await.ok()?.ok()?;
            let answer = answer.into_inner();
            let leader = answer.members.into_iter().find(|member| member.leader)?;
            Some((answer.header?.term, leader.client_address))
        });
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().max_by_key(|(term, _)| *term)
    }

    /// `chosen` does not lead, or is not there: the next one may. Of many calls
    /// that fail together only one moves on.
    fn pass_over(&self, chosen: &Chosen) {
        let next = (chosen.index + 1) % self.len();
        let _ = self.preferred.compare_exchange(
            chosen.index,
            next,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Learns from what failed at `chosen`. Returns whether a hint to another
    /// node can be followed at once.
    pub(crate) fn note(&self, chosen: &Chosen, failure: &Failure) -> bool {
        if failure.unreachable {
            chosen.endpoint.failed();
        } else {
            chosen.endpoint.answered();
        }
        let news = failure.leader.as_deref().is_some_and(|address| self.follow(address));
        if failure.transient && !news {
            self.pass_over(chosen);
        }
        news
    }

    /// A node named `address` as the leader. Returns whether that helps: a hint
    /// to a node that just failed is ignored, or a stale one would be followed
    /// in circles.
    fn follow(&self, address: &str) -> bool {
        let Some(index) = self.index_of(address) else { return false };
        if self.all()[index].avoided_until().is_some() {
            return false;
        }
        self.preferred.swap(index, Ordering::Relaxed) != index
    }

    /// The first healthy one from `start` on. If none is, the one whose time
    /// comes first: a call is never refused untried.
    fn healthy_from(&self, start: usize) -> Chosen {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let turn = (0..list.len()).map(|step| (start + step) % list.len());
        let mut least: Option<(Instant, usize)> = None;
        for index in turn {
            match list[index].avoided_until() {
                None => return Chosen { endpoint: list[index].clone(), index },
                Some(until) if least.is_none_or(|(best, _)| until < best) => {
                    least = Some((until, index));
                }
                Some(_) => {}
            }
        }
        let index = least.map_or(0, |(_, index)| index);
        Chosen { endpoint: list[index].clone(), index }
    }

    fn index_of(&self, address: &str) -> Option<usize> {
        let plain = plain_address(address);
        let position =
            |list: &[Arc<Endpoint>]| list.iter().position(|known| known.address == plain);
        let known = position(&self.list.read().unwrap_or_else(PoisonError::into_inner));
        if known.is_some() {
            return known;
        }
        let endpoint = open(address, &self.options).ok()?;
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have learned it since.
        if let Some(index) = position(&list) {
            return Some(index);
        }
        if list.len() >= ENDPOINTS_MAX {
            return None;
        }
        list.push(Arc::new(endpoint));
        Some(list.len() - 1)
    }
}

/// Without the scheme, so that a hint and an option compare equal.
fn plain_address(address: &str) -> &str {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    address.trim_end_matches('/')
}

fn open(address: &str, options: &ChannelOptions) -> Result<Endpoint, Error> {
    let plain = plain_address(address);
    if address.starts_with("https://") && !options.is_tls() {
        return Err(Error::invalid("endpoints", format!("{plain} wants TLS; give the roots")));
    }
    let calls = options.open_calls(plain).map_err(|error| unusable(plain, &error))?;
    let streams = options.open_streams(plain).map_err(|error| unusable(plain, &error))?;
    Ok(Endpoint { address: plain.to_owned(), calls, streams, health: Mutex::default() })
}

fn unusable(address: &str, error: &tonic::transport::Error) -> Error {
    let first: &(dyn std::error::Error + 'static) = error;
    let causes = std::iter::successors(Some(first), |cause| cause.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    let message = format!("{address:?} cannot be used as an endpoint: {}", causes.join(": "));
    Error::invalid("endpoints", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn endpoints(addresses: &[&str]) -> Endpoints {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        Endpoints::new(&addresses, ChannelOptions::default()).unwrap()
    }

    #[tokio::test]
    async fn a_node_that_fails_is_passed_over_until_nothing_else_is_left() {
        let endpoints = endpoints(&["a:1", "b:1"]);
        let first = endpoints.leader().endpoint;
        first.failed();
        let second = endpoints.leader().endpoint;
        assert_ne!(first.address(), second.address());
        second.failed();
        second.failed();
        // Both are out of favour; the one that failed less comes first.
        assert_eq!(endpoints.any().endpoint.address(), first.address());
        first.answered();
        assert_eq!(endpoints.leader().endpoint.address(), first.address());
    }

    #[tokio::test]
    async fn a_hint_is_followed_to_a_node_that_was_not_given() {
        let endpoints = endpoints(&["a:1"]);
        assert!(endpoints.follow("http://c:1"));
        assert_eq!(endpoints.leader().endpoint.address(), "c:1");
        assert!(!endpoints.follow("c:1"), "it is known by now");
        assert_eq!(endpoints.len(), 2);
    }

    #[tokio::test]
    async fn of_calls_that_fail_together_one_moves_on() {
        let endpoints = endpoints(&["a:1", "b:1", "c:1"]);
        let (one, two) = (endpoints.leader(), endpoints.leader());
        endpoints.pass_over(&one);
        endpoints.pass_over(&two);
        assert_eq!(endpoints.leader().endpoint.address(), "b:1");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_with_its_name() {
        let problem = Endpoints::new(&["not an address".to_owned()], ChannelOptions::default());
        let error = problem.err().unwrap();
        assert!(matches!(error.kind(), ErrorKind::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains("not an address"));
    }
}
