//! The stateless workers of the demonstration.
//!
//! Each worker owns some entities and beats for them, and it keeps a section of
//! its neighbour's entities as well, so that two workers write to every entity
//! at the same time. A worker keeps nothing but what it was told: which of its
//! writes were acknowledged, and which may have happened.

use crate::samples;
use anyhow::{Context as _, Result};
use keelstone_client::{Client, EnvelopeChange, NewEntity, Precondition};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Which of the two sections of an entity a worker writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    /// `status.vcdKe`, the owner's signs of life.
    Heartbeat,
    /// `status.csi`, the neighbour's.
    Volumes,
}

/// What is known of the writes to one section of one entity: its counter was
/// set to `acked` for sure, and perhaps to anything up to `attempted`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counter {
    /// The last acknowledged value.
    pub(super) acked: u64,
    /// The last value that was sent.
    pub(super) attempted: u64,
}

/// What a worker saw.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    /// By entity and section.
    pub(super) counters: BTreeMap<(String, Section), Counter>,
    /// Acknowledged writes, creations included.
    pub(super) acknowledged: u64,
    /// Writes of which nobody could say what became of them.
    pub(super) unknown: u64,
    /// The longest time between two acknowledgements, and when it ended.
    pub(super) longest_gap: Duration,
    last_ack: Option<Instant>,
}

impl Sightings {
    fn acknowledge(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last_ack.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        self.acknowledged += 1;
    }
}

/// What all workers share with the one who watches them.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// Set when the workers are to stop.
    pub(super) stop: AtomicBool,
    /// Acknowledged writes of all.
    pub(super) acknowledged: AtomicU64,
}

/// Creates the `numbers`-th entities and returns their ids.
pub(super) async fn create(
    client: &Client,
    worker: &str,
    numbers: impl Iterator<Item = u64>,
    sightings: &mut Sightings,
) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for number in numbers {
        let document = samples::cluster(number, samples::ClusterShape::of(number));
        let new = NewEntity::named(format!("cluster-{number:04}"))
            .org(format!("tenant-{}", number % 7))
            .owner(worker)
            .uuid(uuid::Uuid::new_v4().to_string())
            .resolve();
        let created = client.documents().create(samples::CLUSTER_TYPE, new, document).await;
        let entity = created.with_context(|| format!("create cluster-{number:04}"))?;
        anyhow::ensure!(
            entity.state == keelstone_client::EntityState::Resolved,
            "cluster-{number:04} did not resolve: {}",
            entity.message
        );
        sightings.acknowledge();
        ids.push(entity.id);
    }
    Ok(ids)
}

/// Beats for `own` and keeps a section of `others`, until told to stop.
pub(super) async fn beat(
    client: Client,
    worker: String,
    own: Vec<String>,
    others: Vec<String>,
    mut sightings: Sightings,
    board: Arc<Board>,
) -> Result<Sightings> {
    // The creation may be long ago: gaps count from here on.
    sightings.last_ack = Some(Instant::now());
    sightings.longest_gap = Duration::ZERO;
    for beat in 1.. {
        let of = |section| move |id: &String| (id.clone(), section);
        let turn =
            own.iter().map(of(Section::Heartbeat)).chain(others.iter().map(of(Section::Volumes)));
        for (id, section) in turn {
            if board.stop.load(Ordering::Relaxed) {
                return Ok(sightings);
            }
            write(&client, &worker, &id, section, beat, &mut sightings).await?;
            board.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(sightings)
}

/// Sets one counter, and notes what became of it.
async fn write(
    client: &Client,
    worker: &str,
    id: &str,
    section: Section,
    beat: u64,
    sightings: &mut Sightings,
) -> Result<()> {
    let patch = match section {
        Section::Heartbeat => samples::heartbeat(worker, beat),
        Section::Volumes => {
            json!({"status": {"csi": {"name": worker, "beat": beat}}}).to_string().into_bytes()
        }
    };
    let counter = sightings.counters.entry((id.to_owned(), section)).or_default();
    counter.attempted = beat;
    let change = EnvelopeChange::new();
    match client.documents().patch(id, Precondition::Unconditional, patch, change).await {
        Ok(_) => {
            counter.acked = beat;
            sightings.acknowledge();
            Ok(())
        }
        Err(error) if error.is_unknown() => {
            sightings.unknown += 1;
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("{worker} patches an entity")),
    }
}

/// The value that a section's counter has in a document.
pub(super) fn counter_in(document: &Value, section: Section) -> u64 {
    match section {
        Section::Heartbeat => document["status"]["vcdKe"]["heartbeatString"]
            .as_str()
            .and_then(|text| text.rsplit(':').next())
            .and_then(|beat| beat.parse().ok())
            .unwrap_or_default(),
        Section::Volumes => document["status"]["csi"]["beat"].as_u64().unwrap_or_default(),
    }
}
