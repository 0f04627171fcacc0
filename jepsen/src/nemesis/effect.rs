//! What a fault does to replicas, disks and links, and how it is undone.

use super::fault::Fault;
use crate::disk::SlowDisk;
use crate::node::Nodes;
use anyhow::{Context as _, Result};
use keelstone_proto::v1;
use std::collections::BTreeSet;

/// What lasts.
pub(super) struct Active {
    pub(super) fault: Fault,
    pub(super) targets: Vec<u64>,
    /// Limits that end when they are dropped.
    pub(super) slow: Vec<SlowDisk>,
}

/// Whether the fault keeps the process of its targets away.
pub(super) fn is_down(fault: &Fault) -> bool {
    matches!(fault, Fault::Kill { .. } | Fault::PowerCut { .. } | Fault::Corrupt { .. })
}

pub(super) fn targets_of(fault: &Fault, ids: &[u64], leader: Option<u64>) -> Vec<u64> {
    match fault {
        Fault::Kill { who }
        | Fault::Pause { who }
        | Fault::Loss { who, .. }
        | Fault::Delay { who, .. }
        | Fault::PowerCut { who }
        | Fault::Clock { who, .. }
        | Fault::DiskFull { who, .. }
        | Fault::DiskSlow { who, .. }
        | Fault::Corrupt { who, .. }
        | Fault::Replace { who } => who.among(ids, leader),
        Fault::Partition { shape } => {
            let links = shape.links(ids, leader);
            let struck: BTreeSet<u64> = links.into_iter().flat_map(|(a, b)| [a, b]).collect();
            struck.into_iter().collect()
        }
        Fault::Transfer | Fault::Rolling | Fault::Compact | Fault::Grow { .. } => Vec::new(),
    }
}

pub(super) fn parameters_of(fault: &Fault) -> Vec<(&'static str, String)> {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(fault) else {
        return Vec::new();
    };
    let mut parameters = Vec::new();
    for name in [
        "who",
        "shape",
        "permille",
        "ms",
        "jitter_ms",
        "seconds",
        "free_bytes",
        "writes_per_second",
        "part",
    ] {
        if let Some(value) = fields.get(name) {
            parameters.push((name, value.to_string()));
        }
    }
    parameters
}

/// A write of `bytes` whose compare never holds.
pub(super) fn never(bytes: u64) -> v1::TxnRequest {
    let key = b"jepsen-ballast".to_vec();
    let span = v1::KeySpan { key: key.clone().into(), end: None };
    let compare = v1::Compare {
        span: Some(span),
        relation: v1::Relation::Equal.into(),
        target: Some(v1::compare::Target::Version(u64::MAX)),
    };
    let value = vec![b'.'; usize::try_from(bytes).unwrap_or_default()];
    let put = v1::PutRequest { key: key.into(), value: value.into(), ..v1::PutRequest::default() };
    let put = v1::TxnOp { op: Some(v1::txn_op::Op::Put(put)) };
    v1::TxnRequest { compares: vec![compare], then: vec![put], ..v1::TxnRequest::default() }
}

/// Begins what lasts.
pub(super) fn begin(
    nodes: &mut Nodes,
    fault: &Fault,
    active: &mut Active,
    cause: &str,
    ids: &[u64],
    leader: Option<u64>,
) -> Result<()> {
    let targets = active.targets.clone();
    match fault {
        Fault::Kill { .. } => {
            for id in targets {
                nodes.node(id)?.kill()?;
            }
        }
        Fault::PowerCut { .. } => {
            // First all processes, then all disks: a disk that is cut while the
            // process writes would make errors that no power cut makes.
            for id in &targets {
                nodes.node(*id)?.kill()?;
            }
            for id in &targets {
                tokio::task::block_in_place(|| nodes.node(*id)?.disk().cut_power())?;
            }
        }
        Fault::Pause { .. } => {
            for id in targets {
                // One that is down already cannot be paused.
                nodes.node(id)?.pause(true).ok();
            }
        }
        Fault::Partition { shape } => {
            let links = shape.links(ids, leader);
            let links: Vec<_> =
                links.into_iter().map(|(a, b)| (nodes.address(a), nodes.address(b))).collect();
            nodes.network().faults().cut(cause, links)?;
        }
        Fault::Loss { permille, .. } => {
            let links = touching(&targets, ids);
            let links: Vec<_> =
                links.into_iter().map(|(a, b)| (nodes.address(a), nodes.address(b))).collect();
            nodes.network().faults().lose(cause, links, *permille)?;
        }
        Fault::Delay { ms, jitter_ms, .. } => {
            for id in targets {
                let prefix = nodes.node(id)?.prefix().to_vec();
                nodes.network().delay(id, *ms, *jitter_ms, &prefix)?;
            }
        }
        Fault::Clock { seconds, .. } => {
            for id in targets {
                nodes.node(id)?.set_clock(*seconds)?;
            }
        }
        Fault::DiskFull { free_bytes, .. } => {
            for id in targets {
                nodes.node(id)?.disk().fill(*free_bytes)?;
            }
        }
        Fault::DiskSlow { writes_per_second, .. } => {
            for id in targets {
                let node = nodes.node(id)?;
                let device = node.disk().device()?;
                let pid = node.pid().context("the replica does not run")?;
                active.slow.push(SlowDisk::limit(pid, &device, *writes_per_second)?);
            }
        }
        Fault::Corrupt { .. }
        | Fault::Transfer
        | Fault::Rolling
        | Fault::Replace { .. }
        | Fault::Compact
        | Fault::Grow { .. } => {}
    }
    Ok(())
}

/// Ends what lasted. Those in `held` are kept down by another fault.
pub(super) fn end(
    nodes: &mut Nodes,
    active: &Active,
    cause: &str,
    held: &BTreeSet<u64>,
) -> Result<()> {
    for id in &active.targets {
        let Ok(node) = nodes.node(*id) else { continue };
        if node.is_retired() {
            continue;
        }
        match active.fault {
            Fault::Kill { .. } | Fault::PowerCut { .. } | Fault::Corrupt { .. }
                if !held.contains(id) && !node.is_running() =>
            {
                nodes.start(*id)?;
            }
            Fault::Pause { .. } if node.is_paused() => node.pause(false)?,
            Fault::Clock { .. } => node.set_clock(0)?,
            Fault::DiskFull { .. } => node.disk().empty()?,
            Fault::Delay { .. } => nodes.network().end_delay(*id),
            _ => {}
        }
    }
    if let Fault::Partition { .. } | Fault::Loss { .. } = active.fault {
        nodes.network().faults().heal(cause)?;
    }
    Ok(())
}

/// All links that one of `targets` is an end of.
fn touching(targets: &[u64], ids: &[u64]) -> Vec<(u64, u64)> {
    let all = ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b)));
    all.filter(|(a, b)| a != b && (targets.contains(a) || targets.contains(b))).collect()
}
