//! Commands that came to a follower, on their way to the leader.
//!
//! Packed like entries are, one call for many commands. The leader does not
//! pass them on again: if it no longer leads, it says so, and this node decides
//! anew.

use super::proposer::{Taken, take};
use super::waiting::{Answer, Queue};
use crate::raft::{Calls, Forwarded, Leadership, Peers, spawn};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Calls that may be on their way at once.
const IN_FLIGHT_MAX: usize = 8;
/// The longest that a call waits for the leader.
const TIMEOUT_MAX: Duration = Duration::from_mins(1);

/// What commands are passed on through.
#[derive(Clone)]
pub(super) struct Forwarder {
    pub(super) calls: Arc<Calls>,
    pub(super) peers: Arc<Peers>,
    pub(super) leadership: watch::Receiver<Leadership>,
}

impl Forwarder {
    /// Starts the task that passes on what comes out of `queue`.
    pub(super) fn start(self, queue: Queue) {
        spawn(self.run(queue));
    }

    async fn run(self, mut queue: Queue) {
        let mut in_flight = FuturesUnordered::new();
        let mut left = None;
        loop {
            if in_flight.len() >= IN_FLIGHT_MAX {
                in_flight.next().await;
                continue;
            }
            let taken = tokio::select! {
                biased;
                Some(()) = in_flight.next() => continue,
                taken = take(&mut queue, &mut left) => taken,
            };
            let Some(taken) = taken else { break };
            in_flight.push(self.clone().pass_on(taken));
        }
        while in_flight.next().await.is_some() {}
    }

    async fn pass_on(self, taken: Taken) {
        let leader = {
            let leadership = self.leadership.borrow();
            let leader = leadership.leader.and_then(|id| leadership.members.all.get(&id));
            leader.map(|member| (member.id, member.peer_address.clone()))
        };
        let Some((id, address)) = leader.filter(|(id, _)| *id != self.peers.node_id()) else {
            for waiting in taken.waiting {
                waiting.answer(Answer::NotLeader);
            }
            return;
        };
        let now = Instant::now();
        let latest = taken.waiting.iter().map(|waiting| waiting.deadline).max().unwrap_or(now);
        let timeout = latest.saturating_duration_since(now).min(TIMEOUT_MAX);
        let commands: Vec<Bytes> =
            taken.waiting.iter().map(|waiting| waiting.command.clone()).collect();
        let expected = commands.len();
        let mut leadership = self.leadership.clone();
        // A leader that hangs or is cut off answers nothing; calls to it must not
        // be in the way of those to its successor until they time out.
        let outcomes = tokio::select! {
            outcomes = self.calls.forward(&self.peers, (id, &address), commands, timeout) => outcomes,
            () = lost(&mut leadership, id) => vec![Forwarded::Unknown; expected],
        };
        for (waiting, outcome) in taken.waiting.into_iter().zip(outcomes) {
            waiting.answer(match outcome {
                Forwarded::Replied(reply) => Answer::Replied(reply),
                Forwarded::NotLeader(_) => Answer::NotLeader,
                Forwarded::Overloaded => Answer::Overloaded,
                Forwarded::NoSpace => Answer::NoSpace(None),
                Forwarded::Unknown => Answer::Unknown("the connection to the leader was lost"),
            });
        }
    }
}

/// Waits until this node does not believe any more that `leader` leads.
async fn lost(leadership: &mut watch::Receiver<Leadership>, leader: u64) {
    // An error means that consensus is gone, and with it all leaders.
    leadership.wait_for(|now| now.leader != Some(leader)).await.ok();
}

#[cfg(test)]
mod tests {
    use super::super::waiting::Admission;
    use super::*;
    use crate::core::MemberStatus;
    use crate::raft::{Dialer, Members, TcpConnector};
    use std::collections::BTreeMap;

    fn led_by(leader: u64, addresses: &BTreeMap<u64, String>) -> Leadership {
        let member = |(id, address): (&u64, &String)| {
            let member = MemberStatus {
                id: *id,
                peer_address: address.clone(),
                client_address: String::new(),
                labels: BTreeMap::new(),
                voter: true,
                lag: None,
            };
            (*id, member)
        };
        let all = addresses.iter().map(member).collect();
        let members = Arc::new(Members { all, ..Members::default() });
        Leadership { term: 1, leader: Some(leader), members, ..Leadership::default() }
    }

    /// A leader that was paused or cut off takes connections and says nothing.
    #[tokio::test]
    async fn commands_do_not_wait_for_a_leader_that_is_none_any_more() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let addresses = BTreeMap::from([(2, address.clone()), (3, address)]);
        let dialer = Dialer::new(Arc::new(TcpConnector), None, Duration::from_secs(5));
        let (leads, leadership) = watch::channel(led_by(2, &addresses));
        let forwarder = Forwarder {
            calls: Arc::new(Calls::new(dialer.clone())),
            peers: Arc::new(Peers::new([1; 16], 1, dialer)),
            leadership,
        };
        let (away, queue) = Admission::new(1 << 20, 64);
        forwarder.start(queue);
        let deadline = Instant::now() + TIMEOUT_MAX;
        // As many calls as may be on their way: more would wait behind them.
        let waiting: Vec<_> = (0..IN_FLIGHT_MAX)
            .map(|_| {
                let away = away.clone();
                tokio::spawn(async move { away.submit(Bytes::from_static(b"x"), deadline).await })
            })
            .collect();
        let _connection = silent.accept().await.unwrap();
        leads.send_replace(led_by(3, &addresses));
        for answer in waiting {
            // Without the news the connection's keep-alive would end the wait, later.
            let soon = tokio::time::timeout(Duration::from_secs(8), answer).await;
            let answer = soon.expect("it is answered when the leader is none").unwrap();
            // Nobody knows what the silent leader has done with it.
            assert!(matches!(answer, Answer::Unknown(_)), "{answer:?}");
        }
    }
}
