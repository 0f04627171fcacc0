//! Configuration values, set under preconditions through the client library.

use super::{Workload, World};
use crate::client::{Actor, Caller, Raw};
use anyhow::{Result, bail};
use async_trait::async_trait;
use keelstone_client::{Client, ConfigValue, Error, Precondition, Revision};
use keelstone_jepsen::check;
use keelstone_jepsen::history::{ConfigGet, ConfigSet, Op};
use rand::Rng as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Paths.
const PATHS: u64 = 5;

pub(super) struct Config;

#[async_trait]
impl Workload for Config {
    fn name(&self) -> &'static str {
        "config"
    }

    fn about(&self) -> &'static str {
        "configuration values set under preconditions"
    }

    fn checkers(&self) -> &'static [&'static str] {
        &["config"]
    }

    fn describe(&self, context: &mut check::Context) {
        context.exclusive = false;
        context.prefixes = vec!["epilogue".to_owned(), "canary".to_owned()];
    }

    fn start(&self, world: &Arc<World>) -> Vec<JoinHandle<()>> {
        (0..world.clients)
            .map(|index| tokio::spawn(client(Arc::clone(world), world.actor(index))))
            .collect()
    }

    async fn read(&self, world: &Arc<World>, _raw: Raw) -> Result<()> {
        let client = world.library()?;
        let mut caller = Caller::new(Arc::clone(&world.recorder));
        for index in 0..PATHS {
            let mut tries = 0;
            while let Err(error) = get(&mut caller, &client, &path(index)).await {
                tries += 1;
                if error.is_not_found() {
                    break;
                }
                if tries == 20 {
                    bail!("a value could not be read: {error}");
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        Ok(())
    }
}

fn path(index: u64) -> String {
    format!("jepsen/part-{index}/value")
}

async fn client(world: Arc<World>, mut actor: Actor) {
    let Ok(client) = world.library() else { return };
    let mut caller = Caller::new(Arc::clone(&world.recorder));
    let mut known: BTreeMap<String, u64> = BTreeMap::new();
    while world.pace(&mut actor).await {
        let path = path(actor.rng.random_range(0..PATHS));
        let if_revision = match actor.rng.random_range(0..10) {
            0..4 => {
                if let Ok(revision) = get(&mut caller, &client, &path).await {
                    known.insert(path, revision);
                }
                continue;
            }
            4..6 => None,
            6 => Some(0),
            _ => Some(known.get(&path).copied().unwrap_or_default()),
        };
        let value = format!("v{}", world.unique());
        if let Some(revision) = set(&mut caller, &client, &path, value, if_revision).await {
            known.insert(path, revision);
        }
    }
}

async fn set(
    caller: &mut Caller,
    client: &Client,
    path: &str,
    value: String,
    if_revision: Option<u64>,
) -> Option<u64> {
    let precondition = match if_revision {
        None => Precondition::Unconditional,
        Some(0) => Precondition::IfAbsent,
        Some(revision) => Precondition::IfRevision(Revision::new(revision)),
    };
    let set = ConfigSet { path: path.to_owned(), value, if_revision, ..ConfigSet::default() };
    let config = client.config();
    let call = config.put(path, &set.value, precondition);
    let done = |value: &ConfigValue| {
        let revision = Some(value.revision.get());
        Some(Op::ConfigSet(ConfigSet { revision, ..set.clone() }))
    };
    let answer = caller.operation(Op::ConfigSet(set.clone()), call, done).await;
    answer.ok().map(|value| value.revision.get())
}

/// The value's revision. That there is none is an answer like others.
async fn get(caller: &mut Caller, client: &Client, path: &str) -> Result<u64, Error> {
    let get = ConfigGet { path: path.to_owned(), ..ConfigGet::default() };
    let config = client.config();
    let call = async {
        match config.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    };
    let done = |value: &Option<ConfigValue>| {
        let found = Some(value.is_some());
        let revision = value.as_ref().map(|value| value.revision.get());
        let value = value.as_ref().map(|value| value.parse().unwrap_or_default());
        Some(Op::ConfigGet(ConfigGet { found, value, revision, ..get.clone() }))
    };
    let answer = caller.operation(Op::ConfigGet(get.clone()), call, done).await?;
    Ok(answer.map_or(0, |value| value.revision.get()))
}
