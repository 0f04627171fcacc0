//! Backups taken while elements are added and things break; in the end one is
//! restored into a new cluster and read there.

use super::{Workload, World, set};
use crate::client::{Directory, Raw, key_value, once, prefix_span, within};
use crate::node::Nodes;
use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use keelstone_jepsen::history::{Backup, BackupRestore, KeyValue, Op};
use keelstone_proto::v1;
use keelstone_proto::v1::export_chunk::Chunk;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// The pause between two backups.
const PAUSE: Duration = Duration::from_secs(4);
/// How long a backup or a restore may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// The first id of the new cluster; those who form one have ids below 100.
const FIRST: u64 = 91;
/// One read of the new cluster.
const READ: Duration = Duration::from_secs(10);

/// Backups that were made, by name.
#[derive(Default)]
pub(super) struct Backups {
    made: StdMutex<Vec<String>>,
}

#[async_trait]
impl Workload for Arc<Backups> {
    fn name(&self) -> &'static str {
        "backup"
    }

    fn about(&self) -> &'static str {
        "backups under load, one restored into a new cluster and read there"
    }

    fn checkers(&self) -> &'static [&'static str] {
        &["backup", "set"]
    }

    fn start(&self, world: &Arc<World>) -> Vec<JoinHandle<()>> {
        let adders = set::Set.start(world);
        let making = tokio::spawn(make_backups(Arc::clone(self), Arc::clone(world)));
        adders.into_iter().chain([making]).collect()
    }

    async fn read(&self, world: &Arc<World>, raw: Raw) -> Result<()> {
        set::Set.read(world, raw).await
    }

    async fn finish(&self, world: &Arc<World>, nodes: &Arc<Mutex<Nodes>>) -> Result<()> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let name = made.last().context("no backup was made")?;
        restore(world, nodes, name).await
    }
}

fn place(world: &World) -> String {
    format!("file://{}", world.dir.join("backups").display())
}

/// The program with what it needs to reach the cluster.
fn program(world: &World, words: &[&str]) -> Command {
    let mut command = Command::new(&world.binary);
    let scheme = if world.certificates.is_some() { "https" } else { "http" };
    let endpoints: Vec<String> = world
        .directory
        .nodes()
        .into_iter()
        .map(|(_, endpoint)| format!("{scheme}://{endpoint}"))
        .collect();
    command
        .args(words)
        .args(["--endpoints", &endpoints.join(","), "--output", "json", "--timeout", "20s"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(certificates) = &world.certificates {
        command
            .arg("--cacert")
            .arg(certificates.file("client-ca.pem"))
            .arg("--cert")
            .arg(certificates.file("client-harness.pem"))
            .arg("--key")
            .arg(certificates.file("client-harness.key"));
    }
    command
}

/// Runs it and reads the JSON that it prints.
async fn answer(mut command: Command) -> Result<serde_json::Value> {
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.context("it took too long")?.context("start the program")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, words.lines().last().unwrap_or_default());
    }
    serde_json::from_slice(&output.stdout).context("understand what it printed")
}

async fn make_backups(backups: Arc<Backups>, world: Arc<World>) {
    let mut process = world.recorder.new_process();
    std::fs::create_dir_all(world.dir.join("backups")).ok();
    let to = place(&world);
    while world.rest(PAUSE).await {
        let asked = Backup { name: String::new(), ..Backup::default() };
        world.recorder.invoke(process, Op::Backup(asked.clone()), None);
        match answer(program(&world, &["backup", "create", "--to", &to])).await {
            Ok(manifest) => {
                let text = |name: &str| manifest[name].as_str().unwrap_or_default().to_owned();
                let made = Backup {
                    name: text("name"),
                    revision: manifest["revision"].as_u64(),
                    state_root: Some(text("state_root")),
                };
                let name = made.name.clone();
                world.recorder.ok(process, Op::Backup(made), None);
                backups.made.lock().unwrap_or_else(PoisonError::into_inner).push(name);
            }
            Err(error) => {
                let why = format!("{error:#}");
                process = world.recorder.info(process, Op::Backup(asked), None, why);
            }
        }
    }
}

async fn restore(world: &Arc<World>, nodes: &Arc<Mutex<Nodes>>, name: &str) -> Result<()> {
    let process = world.recorder.new_process();
    let asked = BackupRestore { name: name.to_owned(), ..BackupRestore::default() };
    world.recorder.invoke(process, Op::Restore(asked.clone()), None);
    match try_restore(world, nodes, name).await {
        Ok(done) => {
            world.recorder.ok(process, Op::Restore(done), None);
            Ok(())
        }
        Err(error) => {
            let why = format!("{error:#}");
            world.recorder.info(process, Op::Restore(asked), None, why);
            Err(error)
        }
    }
}

async fn try_restore(
    world: &Arc<World>,
    nodes: &Arc<Mutex<Nodes>>,
    name: &str,
) -> Result<BackupRestore> {
    let (dirs, members) = {
        let mut nodes = nodes.lock().await;
        let dirs = tokio::task::block_in_place(|| nodes.found_again("restored", FIRST))?;
        (dirs, nodes.initial_cluster().join(","))
    };
    let printed = restore_into(world, name, &dirs, &members).await.context("restore")?;
    let known = {
        let mut nodes = nodes.lock().await;
        let mut known = Vec::new();
        for (id, _) in &dirs {
            nodes.start(*id)?;
            known.push((*id, nodes.node(*id)?.endpoint()));
        }
        known
    };
    let tls = world.certificates.as_ref().map(crate::node::Certificates::channel).transpose()?;
    let directory = Directory::new(tls, known);
    let new_revision = crate::run::wait_formed(&directory).await.context("the new cluster")?;
    let mut roots = Vec::new();
    let mut kvs = None;
    for raw in directory.all() {
        roots.push(state_root(&raw).await.context("the root of the new cluster")?);
        if kvs.is_none() {
            kvs = Some(read_all(&raw).await.context("read the new cluster")?);
        }
    }
    Ok(BackupRestore {
        name: name.to_owned(),
        revision: printed["origin"]["fork_revision"].as_u64(),
        new_revision: Some(new_revision),
        kvs,
        state_roots: Some(roots),
    })
}

async fn restore_into(
    world: &World,
    name: &str,
    dirs: &[(u64, PathBuf)],
    members: &str,
) -> Result<serde_json::Value> {
    let from = place(world);
    let words = ["restore", "--from", &from, "--backup", name];
    let mut command = program(world, &words);
    command.args(["--initial-cluster", members]);
    for (id, dir) in dirs {
        command.arg("--node").arg(node_argument(*id, dir));
    }
    answer(command).await
}

fn node_argument(id: u64, dir: &Path) -> String {
    format!("{id}={}", dir.display())
}

/// All keys of the harness, read in pages at one revision.
async fn read_all(raw: &Raw) -> Result<Vec<KeyValue>> {
    let mut all = Vec::new();
    let mut request =
        v1::RangeRequest { span: Some(prefix_span("")), ..v1::RangeRequest::default() };
    loop {
        let reply = once(READ, raw.kv().range(within(READ, request.clone()))).await;
        let reply = reply.map_err(|failure| anyhow::anyhow!(failure.text()))?;
        let last = reply.kvs.last().map(|kv| kv.key.clone());
        all.extend(reply.kvs.into_iter().map(key_value));
        let Some(last) = last.filter(|_| reply.more) else { return Ok(all) };
        let from = [last.as_ref(), b"\x00"].concat();
        let end = Some(v1::key_span::End::Unbounded(true));
        request.span = Some(v1::KeySpan { key: from.into(), end });
        request.revision = reply.header.as_ref().map_or(0, |header| header.revision);
    }
}

/// The root over all live records, as an export tells it.
async fn state_root(raw: &Raw) -> Result<String> {
    let request = v1::ExportRequest::default();
    let chunks = once(READ, raw.export().export(within(READ, request))).await;
    let mut chunks = chunks.map_err(|failure| anyhow::anyhow!(failure.text()))?;
    while let Some(chunk) = chunks.message().await.context("read an export")? {
        if let Some(Chunk::Trailer(trailer)) = chunk.chunk {
            ensure!(!trailer.state_root.is_empty(), "an export has no root");
            return Ok(crate::run::hex(&trailer.state_root));
        }
    }
    bail!("an export ended without its end")
}
