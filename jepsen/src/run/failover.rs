//! How long writes are not acknowledged when a leader is lost.
//!
//! Two kinds of clients write all the time: some of the library, as it is
//! delivered, and some that send by hand, to one replica after the other and with
//! little patience. Round after round the leader is killed, paused or cut off.
//! The longest time in which nobody's write was acknowledged is the store's gap
//! of the round. Those of each kind of client are longer by its patience: by hand
//! by that with a replica that does not answer, with the library by its own.

use super::Place;
use super::phases::{say, wait_formed};
use crate::client::{Directory, Raw, once, within};
use crate::net::Enclosure;
use crate::node::{Common, Nodes, Sizes};
use anyhow::{Context as _, Result, ensure};
use keelstone_client::Client;
use keelstone_proto::v1;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Clients of each kind.
const WRITERS: u64 = 6;
/// How long those that send by hand wait for an answer.
const IMPATIENCE: Duration = Duration::from_millis(300);
/// The pause between two writes of one of them.
const PAUSE: Duration = Duration::from_millis(5);
/// How long everything is well before the leader is lost.
const CALM: Duration = Duration::from_millis(1_500);
/// How long the leader is lost.
const LOST: Duration = Duration::from_secs(5);
/// How long the cluster may take to be whole again.
const HEALING: Duration = Duration::from_mins(1);
/// The goal for the median, and for the worst.
const GOAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

/// How a leader is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Loss {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Pause,
    /// Cut off from the others; clients still reach it.
    Partition,
}

/// Everybody's, those sent by hand, those of the library.
const SEEN_BY: [&str; 3] = ["store", "by hand", "library"];

/// What came of all rounds of one kind.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Gaps {
    /// How leaders were lost.
    pub(crate) loss: Loss,
    /// Whose writes: one of [`SEEN_BY`].
    pub(crate) seen_by: &'static str,
    /// The longest gap of each round, in milliseconds, from the shortest.
    pub(crate) gaps_ms: Vec<u64>,
}

impl Gaps {
    fn at(&self, permille: usize) -> u64 {
        let last = self.gaps_ms.len().saturating_sub(1);
        self.gaps_ms.get(last * permille / 1000).copied().unwrap_or_default()
    }

    /// Whether median and worst are within the goal. Clients that send by hand
    /// are no part of what is delivered, and have none.
    pub(crate) fn reach_goal(&self) -> bool {
        if self.seen_by == SEEN_BY[1] {
            return true;
        }
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        !self.gaps_ms.is_empty() && self.at(500) <= ms(GOAL.0) && self.at(1000) <= ms(GOAL.1)
    }

    /// A line of the table.
    pub(crate) fn line(&self) -> String {
        let name = format!("{:?}", self.loss).to_lowercase();
        let (rounds, least, median) = (self.gaps_ms.len(), self.at(0), self.at(500));
        let (most, worst) = (self.at(900), self.at(1000));
        let seen_by = self.seen_by;
        format!("{name:<10} {seen_by:<8} {rounds:>6} {least:>8} {median:>8} {most:>8} {worst:>8}")
    }
}

/// The heading of [`Gaps::line`].
pub(crate) const HEADING: &str =
    "lost by    seen by  rounds    least   median     90 %    worst  (ms)";

/// Loses the leader `rounds` times in each of `ways`.
///
/// # Errors
///
/// Fails if the cluster cannot be made, or is not whole again after a round.
pub(crate) async fn failover(
    binary: PathBuf,
    place: &Place,
    rounds: u32,
    ways: &[Loss],
    stop: CancellationToken,
) -> Result<Vec<Gaps>> {
    let enclosure = Enclosure::current().context("not inside of an enclosure")?;
    let common = Common {
        binary,
        dir: place.dir.clone(),
        images: place.images.clone(),
        certificates: None,
        sizes: Sizes::Default,
        clocks: false,
    };
    let mut nodes = Nodes::create(common, enclosure, 3)?;
    for id in nodes.ids() {
        nodes.start(id)?;
    }
    let known: Vec<_> = nodes.all().map(|node| (node.id, node.endpoint())).collect();
    let directory = Directory::new(None, known);
    wait_formed(&directory).await?;
    let over = CancellationToken::new();
    let acks: [Acks; 2] = Default::default();
    let mut writers = Vec::new();
    for index in 0..WRITERS {
        let (by_hand, by_library) = (Arc::clone(&acks[0]), Arc::clone(&acks[1]));
        let raws = directory.all();
        writers.push(tokio::spawn(write_by_hand(raws, index, by_hand, over.clone())));
        writers.push(tokio::spawn(write(library(&directory)?, index, by_library, over.clone())));
    }
    let mut all = Vec::new();
    for loss in ways.iter().copied() {
        if loss == Loss::Partition && !enclosure.has_networks() {
            say("SKIPPED: partition (no networks here)");
            continue;
        }
        let mut gaps = SEEN_BY.map(|seen_by| {
            let gaps_ms = Vec::new();
            Gaps { loss, seen_by, gaps_ms }
        });
        for round in 0..rounds {
            if stop.is_cancelled() {
                break;
            }
            let [by_hand, library, store] = lose(&mut nodes, &directory, &acks, loss).await?;
            say(&format!(
                "{loss:?} {}: {store} ms, by hand {by_hand} ms, by the library {library} ms",
                round + 1
            ));
            for (gaps, gap) in gaps.iter_mut().zip([store, by_hand, library]) {
                gaps.gaps_ms.push(gap);
            }
        }
        for mut gaps in gaps {
            gaps.gaps_ms.sort_unstable();
            all.push(gaps);
        }
    }
    over.cancel();
    for writer in writers {
        writer.await.ok();
    }
    Ok(all)
}

/// When writes were acknowledged.
type Acks = Arc<Mutex<Vec<Instant>>>;

fn library(directory: &Directory) -> Result<Client> {
    let endpoints: Vec<String> = directory.nodes().into_iter().map(|(_, at)| at).collect();
    // As delivered: the client's own times are part of what is measured.
    Client::builder().endpoints(endpoints).connect_lazy().context("make a client")
}

async fn write(client: Client, index: u64, acks: Acks, over: CancellationToken) {
    while !over.is_cancelled() {
        if client.kv().put(format!("failover/{index}"), "x").send().await.is_ok() {
            acks.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sends to one replica after the other, each time once.
async fn write_by_hand(raws: Vec<Raw>, index: u64, acks: Acks, over: CancellationToken) {
    let mut raws = raws.iter().cycle();
    let mut raw = raws.next();
    while let Some(chosen) = raw.filter(|_| !over.is_cancelled()) {
        let put = v1::PutRequest {
            key: format!("by-hand/{index}").into_bytes().into(),
            value: "x".into(),
            ..v1::PutRequest::default()
        };
        let mut kv = chosen.kv();
        if once(IMPATIENCE, kv.put(within(IMPATIENCE, put))).await.is_ok() {
            acks.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        } else {
            raw = raws.next();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The longest time between two of `times`, in milliseconds.
fn longest(mut times: Vec<Instant>, end: Instant) -> u64 {
    times.push(end);
    let gap = times.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default();
    u64::try_from(gap.as_millis()).unwrap_or(u64::MAX)
}

/// One round: the longest gap of each kind of client, and of all together.
async fn lose(
    nodes: &mut Nodes,
    directory: &Directory,
    acks: &[Acks; 2],
    loss: Loss,
) -> Result<[u64; 3]> {
    tokio::time::sleep(CALM).await;
    let leader = directory.leader(Duration::from_secs(1)).await.context("nobody leads")?;
    for acks in acks {
        acks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    match loss {
        Loss::Kill => nodes.node(leader)?.kill()?,
        Loss::Pause => nodes.node(leader)?.pause(true)?,
        Loss::Partition => {
            let at = nodes.address(leader);
            let others: Vec<_> = nodes
                .ids()
                .into_iter()
                .filter(|id| *id != leader)
                .map(|id| nodes.address(id))
                .collect();
            let links = others.iter().flat_map(|other| [(at, *other), (*other, at)]);
            nodes.network().faults().cut("failover", links)?;
        }
    }
    tokio::time::sleep(LOST).await;
    let end = Instant::now();
    let taken = acks
        .each_ref()
        .map(|acks| std::mem::take(&mut *acks.lock().unwrap_or_else(PoisonError::into_inner)));
    match loss {
        Loss::Kill => nodes.start(leader)?,
        Loss::Pause => nodes.node(leader)?.pause(false)?,
        Loss::Partition => nodes.network().faults().heal("failover")?,
    }
    ensure!(
        taken.iter().all(|times| !times.is_empty()),
        "no write was acknowledged before the leader was lost"
    );
    let mut all = taken.concat();
    all.sort_unstable();
    let [by_hand, library] = taken;
    let gaps = [by_hand, library, all].map(|times| longest(times, end));
    let healed = tokio::time::timeout(HEALING, whole(directory)).await;
    healed.context("the cluster was not whole again in time")?;
    Ok(gaps)
}

/// Waits until all follow one leader and have caught up.
async fn whole(directory: &Directory) {
    let raws = directory.all();
    loop {
        let asked = raws.iter().map(|raw| raw.status(Duration::from_secs(1)));
        let answers = futures::future::join_all(asked).await;
        let leaders: Vec<u64> = answers.iter().flatten().map(|status| status.leader).collect();
        let behind = answers.iter().flatten().map(|status| status.applied_index);
        let (least, most) = behind.fold((u64::MAX, 0), |(a, b), it| (a.min(it), b.max(it)));
        let agreed = leaders.len() == raws.len() && leaders.windows(2).all(|two| two[0] == two[1]);
        if agreed && leaders[0] != 0 && most - least < 1_000 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
