//! `keelstone demo`: the main job in one run, on this machine.
//!
//! Three replica processes, several stateless workers, a leader that is killed,
//! a backup over HTTP, the loss of everything, a restore, a comparison. It ends
//! with success only if everything held.

mod workers;

use super::dev::TemporaryDir;
use super::exit::{Coded, Exit};
use super::local;
use super::output::line;
use crate::backup::{
    self, CreateOptions, Repo, RestoreMember, RestoreOptions, RestoreToken, Source,
};
use crate::dev::cluster::LocalCluster;
use crate::dev::s3::{Credentials, DevS3};
use crate::samples;
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use keelstone_client::{Client, EntityFilter, NewEntity, NewType};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use workers::{Board, Counter, Section, Sightings};

/// How long the replicas may take to elect a leader after a start.
const READY_LIMIT: Duration = Duration::from_secs(30);
const BUCKET: &str = "keelstone-demo";

/// Show the main job: three replicas, workers, a killed leader, a backup, a
/// restore.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// How many entities the workers create.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(8..=5000))]
    entities: u64,
    /// How many workers there are.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=16))]
    workers: u64,
    /// How long the workers beat, with the leader killed in the middle.
    #[arg(long, default_value = "16s", value_parser = humantime::parse_duration)]
    beat: Duration,
    /// Leave the replicas' files where they are.
    #[arg(long)]
    keep: bool,
}

/// The hash of every entity's document, by id.
type Documents = BTreeMap<String, [u8; 32]>;

impl Demo {
    pub(super) async fn run(self) -> Result<()> {
        let began = Instant::now();
        let mut folder = TemporaryDir::create()?;
        folder.keep = self.keep;
        let mut cluster = local::cluster(&folder.path)?;

        say("1  three replica processes")?;
        cluster.start_all()?;
        let (client, leader) = local::ready(&mut cluster, READY_LIMIT).await?;
        for replica in cluster.replicas() {
            let role = if replica.id == leader { "leads" } else { "follows" };
            let pid = replica.pid().unwrap_or_default();
            tell(&format!("replica {} {role}, process {pid}, {}", replica.id, replica.endpoint()))?;
        }

        say("2  types and configuration")?;
        register(&client).await?;
        tell(&format!("{} and {}", samples::CLUSTER_TYPE, samples::CONFIG_TYPE))?;

        say(&format!("3  {} stateless workers write, and the leader is killed", self.workers))?;
        let seen = self.work(&mut cluster).await?;
        let writes = tally(&seen)?;

        say("4  no acknowledged write is missing")?;
        let before = documents(&client).await?;
        let checked = check(&client, &seen).await?;
        tell(&format!("{checked} counters hold at least what was acknowledged"))?;
        ensure!(
            before.len() as u64 == self.entities + 1,
            "{} entities are there, {} were created",
            before.len(),
            self.entities + 1
        );
        same_hash_everywhere(&client).await?;

        say("5  backup over HTTP")?;
        let bucket = Store::start().await?;
        let source = client.cluster().export(None).await.context("read the store")?;
        let source = Source::of_export(source).map_err(anyhow::Error::msg)?;
        let options = CreateOptions::default();
        let entry = backup::create(source, &bucket.repo, options, &backup::Unobserved).await?;
        let stats = &entry.manifest.stats;
        tell(&format!(
            "{} rows at revision {}, {} stored as {}, in {} ms, in {}",
            entry.manifest.counts.keys,
            entry.manifest.revision,
            super::output::bytes(stats.plain_bytes),
            super::output::bytes(stats.stored_bytes),
            stats.millis,
            bucket.server.url(),
        ))?;

        say("6  all three replicas are destroyed")?;
        for id in local::ids(&cluster) {
            cluster.kill(id)?;
            cluster.wipe(id)?;
        }
        tell("processes killed, data directories removed")?;

        say("7  restore")?;
        let restored = restore(&cluster, &bucket.repo, &entry).await?;
        ensure!(
            restored.state_root == entry.manifest.state_root,
            "the restored state root differs from the backup's"
        );
        tell(&format!("state root {}", restored.state_root))?;
        cluster.start_all()?;
        let (client, leader) = local::ready(&mut cluster, READY_LIMIT).await?;
        tell(&format!("replica {leader} leads a new cluster from revision {}", restored.revision))?;
        let after = documents(&client).await?;
        ensure!(before == after, "{}", difference(&before, &after));
        tell(&format!("all {} documents are equal, byte by byte", after.len()))?;
        check(&client, &seen).await?;
        same_hash_everywhere(&client).await?;
        tokio::task::block_in_place(|| cluster.stop_all(Duration::from_secs(10)));

        say(&format!("everything held, in {:.0} s", began.elapsed().as_secs_f64()))?;
        tell(&format!(
            "{} writes acknowledged, {} unknown, 0 lost",
            writes.acknowledged, writes.unknown
        ))?;
        tell(&format!("longest time any worker waited: {} ms", writes.longest_gap.as_millis()))?;
        tell(&format!("{} documents backed up, restored and compared", after.len()))
    }

    /// Lets the workers create and beat, and kills the leader in the middle.
    async fn work(&self, cluster: &mut LocalCluster) -> Result<Vec<Sightings>> {
        let board = Arc::new(Board::default());
        let mut clients = Vec::new();
        for _ in 0..self.workers {
            let endpoints = cluster.endpoints();
            clients.push(Client::builder().endpoints(endpoints).connect().await?);
        }
        let began = Instant::now();
        let created = self.create_all(&clients).await?;
        let took = began.elapsed().as_secs_f64();
        tell(&format!("{} entities of 30 to 120 KB created in {took:.1} s", self.entities))?;

        let owned: Vec<Vec<String>> = created.iter().map(|(ids, _)| ids.clone()).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for (number, (own, seen)) in created.into_iter().enumerate() {
            let neighbours = owned[(number + 1) % owned.len()].clone();
            let (client, board) = (clients[number].clone(), Arc::clone(&board));
            tasks.spawn(workers::beat(client, name(number), own, neighbours, seen, board));
        }
        tokio::time::sleep(self.beat / 2).await;
        let killed = local::leader(&clients[0]).await.context("nobody leads")?;
        let before = board.acknowledged.load(Ordering::Relaxed);
        ensure!(before > 0, "the workers had written nothing when the leader was to be killed");
        cluster.kill(killed)?;
        tell(&format!("replica {killed}, which led, was killed after {before} patches"))?;
        tokio::time::sleep(self.beat / 4).await;
        cluster.start(killed)?;
        tell(&format!("replica {killed} was started again"))?;
        tokio::time::sleep(self.beat / 4).await;
        board.stop.store(true, Ordering::Relaxed);
        let after = board.acknowledged.load(Ordering::Relaxed);
        ensure!(after > before, "no write was acknowledged after the leader was killed");
        let mut seen = Vec::new();
        while let Some(worker) = tasks.join_next().await {
            seen.push(worker.context("a worker panicked")??);
        }
        for client in &clients {
            client.close().await.ok();
        }
        Ok(seen)
    }

    /// All workers create their share at once.
    async fn create_all(&self, clients: &[Client]) -> Result<Vec<(Vec<String>, Sightings)>> {
        let count = self.workers;
        let creating = clients.iter().enumerate().map(|(number, client)| {
            let numbers = (0..self.entities).filter(move |it| it % count == number as u64);
            async move {
                let mut seen = Sightings::default();
                let ids = workers::create(client, &name(number), numbers, &mut seen).await?;
                anyhow::Ok((ids, seen))
            }
        });
        futures::future::try_join_all(creating).await
    }
}

/// The bucket of the demonstration: an S3 server of this process, and a
/// repository in it.
struct Store {
    server: DevS3,
    repo: Repo,
}

impl Store {
    async fn start() -> Result<Self> {
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let server = DevS3::start(listen, Credentials::random(), None).await;
        let server = server.context("start a bucket on loopback")?;
        server.create_bucket(BUCKET).await.context("make a bucket")?;
        let url = format!("s3://{BUCKET}/demo").parse().context("name the bucket")?;
        let bucket = backup::open(&url, &server.bucket_options(), true)?;
        Ok(Self { repo: Repo::open_or_init(bucket).await?, server })
    }
}

fn name(number: usize) -> String {
    format!("worker-{}", number + 1)
}

async fn register(client: &Client) -> Result<()> {
    for (id, schema) in [
        (samples::CLUSTER_TYPE, samples::CLUSTER_SCHEMA),
        (samples::CONFIG_TYPE, samples::CONFIG_SCHEMA),
    ] {
        let parts: Vec<_> = id.split(':').skip(3).map(str::to_owned).collect();
        let [vendor, nss, version] = &parts[..] else { bail!("{id} is no type") };
        let new = NewType {
            vendor: vendor.clone(),
            nss: nss.clone(),
            version: version.clone(),
            name: nss.clone(),
            description: String::new(),
            schema: schema.into(),
        };
        client.types().register(new).await.with_context(|| format!("register {id}"))?;
    }
    let new = NewEntity::named("vcdKeConfig").org("System").owner("provider").resolve();
    let config = client.documents().create(samples::CONFIG_TYPE, new, samples::config()).await?;
    ensure!(
        config.state == keelstone_client::EntityState::Resolved,
        "the configuration did not resolve: {}",
        config.message
    );
    Ok(())
}

/// Adds up what the workers saw, and says it.
fn tally(seen: &[Sightings]) -> Result<Sightings> {
    let mut all = Sightings::default();
    for worker in seen {
        all.acknowledged += worker.acknowledged;
        all.unknown += worker.unknown;
        all.longest_gap = all.longest_gap.max(worker.longest_gap);
    }
    tell(&format!("{} writes acknowledged, {} unknown", all.acknowledged, all.unknown))?;
    tell(&format!("longest gap that any worker saw: {} ms", all.longest_gap.as_millis()))?;
    Ok(all)
}

/// Every counter must be at least what was acknowledged, and at most what was
/// sent. Returns how many there are.
async fn check(client: &Client, seen: &[Sightings]) -> Result<usize> {
    let mut found = BTreeMap::new();
    let mut pages = client.documents().list(clusters()).page_size(50);
    while let Some(page) = pages.next().await? {
        for entity in page.entities {
            let document: serde_json::Value = serde_json::from_slice(&entity.document)?;
            for section in [Section::Heartbeat, Section::Volumes] {
                let key = (entity.id.clone(), section);
                found.insert(key, workers::counter_in(&document, section));
            }
        }
    }
    let mut lost = Vec::new();
    let mut checked = 0;
    for (key, Counter { acked, attempted }) in seen.iter().flat_map(|worker| &worker.counters) {
        let value = found.get(key).copied().unwrap_or_default();
        if value < *acked || value > *attempted {
            lost.push(format!("{}: {value}, acknowledged {acked}, sent {attempted}", key.0));
        }
        checked += 1;
    }
    ensure!(checked > 0, "there is nothing to check");
    if lost.is_empty() {
        return Ok(checked);
    }
    lost.truncate(10);
    Err(Coded::error(Exit::Verification, format!("writes are lost:\n  {}", lost.join("\n  "))))
}

fn clusters() -> EntityFilter {
    EntityFilter { type_prefix: samples::CLUSTER_TYPE.to_owned(), ..EntityFilter::default() }
}

/// The hash of every document.
async fn documents(client: &Client) -> Result<Documents> {
    let mut documents = Documents::new();
    let mut pages = client.documents().list(EntityFilter::default()).page_size(50);
    while let Some(page) = pages.next().await? {
        for entity in page.entities {
            documents.insert(entity.id, *blake3::hash(&entity.document).as_bytes());
        }
    }
    Ok(documents)
}

fn difference(before: &Documents, after: &Documents) -> String {
    let missing = before.keys().filter(|id| !after.contains_key(*id)).count();
    let added = after.keys().filter(|id| !before.contains_key(*id)).count();
    let changed = before.iter().filter(|(id, hash)| after.get(*id).is_some_and(|it| it != *hash));
    format!("the restore differs: {missing} missing, {added} added, {} changed", changed.count())
}

/// All replicas that have applied the same entries have the same state hash.
async fn same_hash_everywhere(client: &Client) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        let each = client.cluster().status_of_each().await;
        let states: Vec<_> = each
            .iter()
            .filter_map(|(_, status)| status.as_ref().ok())
            .map(|status| (status.transitions, status.state_hash.clone()))
            .collect();
        if states.len() == 3 && states.iter().all(|state| state.0 == states[0].0) {
            ensure!(
                states.iter().all(|state| state.1 == states[0].1),
                "the replicas' state hashes differ after {} transitions",
                states[0].0
            );
            let hash = super::output::hex(&states[0].1);
            return tell(&format!("state hash {} on all three replicas", &hash[..16]));
        }
        ensure!(Instant::now() < until, "the replicas did not come to the same position");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn restore(
    cluster: &LocalCluster,
    repo: &Repo,
    entry: &backup::Entry,
) -> Result<backup::Restored> {
    let members = cluster.replicas().iter().map(|replica| RestoreMember {
        id: replica.id,
        peer_address: replica.peer.to_string(),
        client_address: replica.client.to_string(),
        labels: BTreeMap::new(),
    });
    let directories = cluster.replicas().iter().map(|replica| (replica.id, replica.data_dir()));
    let options =
        RestoreOptions::new(RestoreToken::random(), members.collect(), directories.collect());
    Ok(backup::restore(repo, entry, &options, &backup::Unobserved).await?)
}

/// A heading.
fn say(text: &str) -> Result<()> {
    line(&format!("\n{text}"))
}

/// A fact below a heading.
fn tell(text: &str) -> Result<()> {
    line(&format!("   {text}"))
}
