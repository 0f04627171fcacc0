//! Backups: what is restored is one state of the past (B1 to B4).
//!
//! B1: the restored keys are exactly the state at the revision that the backup
//! reports, as [`replay`](super::replay) has it: a prefix of the history. B2: all
//! nodes of the new cluster have the same root, that of the backup. B3: that
//! revision is not below any that was shown before the backup was asked, so all
//! that was acknowledged before is in it. B4: the new cluster's revisions are
//! above all that the old one gave before.

use super::replay::{self, Log};
use super::{Case, Context, Verdict};
use crate::history::{Backup, BackupRestore, Event, History, Kind, Op};
use std::collections::BTreeMap;

/// The checker's name.
pub const NAME: &str = "backup";

/// A backup that was taken.
struct Taken<'a> {
    backup: &'a Backup,
    /// The newest revision that was shown before it was asked, and the event.
    floor: (u64, u64),
    events: Vec<u64>,
}

/// Judges all backups that were restored.
pub fn check(history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let log = replay::log(history, context);
    let operations = history.operations();
    let floors = floors(history);
    let mut backups: BTreeMap<&str, Taken<'_>> = BTreeMap::new();
    let mut restored = 0;
    for operation in &operations {
        if let Some((_, Op::Backup(backup))) = operation.ok() {
            let floor = floors.get(&operation.invoke.index).copied().unwrap_or_default();
            case.judged.operations += 1;
            let taken = Taken { backup, floor, events: operation.indices() };
            judge_floor(&taken, &mut case);
            backups.insert(&backup.name, taken);
        }
    }
    for operation in &operations {
        let Some((_, Op::Restore(restore))) = operation.ok() else { continue };
        case.judged.operations += 1;
        let Some(taken) = backups.get(restore.name.as_str()) else {
            case.unknown(format!("{:?} was restored, and its backup is not known", restore.name));
            continue;
        };
        restored += 1;
        let mut events = taken.events.clone();
        events.extend(operation.indices());
        judge_names(taken, restore, &events, &mut case);
        judge_keys(&log, restore, &events, context, &mut case);
        let floor = floors.get(&operation.invoke.index).copied().unwrap_or_default();
        if let Some(new) = restore.new_revision.filter(|new| *new <= floor.0) {
            let text = format!(
                "the restored cluster is at revision {new}, the old one had given {}",
                floor.0
            );
            case.violation("B4", events, text);
        }
    }
    case.judged.keys = backups.len() as u64;
    case.close("backup that was restored", restored)
}

/// The newest revision shown before each backup and restore was asked.
fn floors(history: &History) -> BTreeMap<u64, (u64, u64)> {
    let mut floor = (0, 0);
    let mut floors = BTreeMap::new();
    for event in history.events() {
        if event.kind == Kind::Invoke && matches!(event.op, Op::Backup(_) | Op::Restore(_)) {
            floors.insert(event.index, floor);
        }
        let shown = shown(event);
        if shown > floor.0 {
            floor = (shown, event.index);
        }
    }
    floors
}

fn shown(event: &Event) -> u64 {
    match &event.op {
        Op::Txn(txn) if event.kind == Kind::Ok => {
            txn.reply.as_ref().map_or(0, |reply| reply.revision)
        }
        _ => 0,
    }
}

/// B3: what was shown before is in the backup.
fn judge_floor(taken: &Taken<'_>, case: &mut Case) {
    let (floor, shown) = taken.floor;
    if let Some(revision) = taken.backup.revision.filter(|revision| *revision < floor) {
        let mut events = vec![shown];
        events.extend(&taken.events);
        let text = format!(
            "backup {:?} is of revision {revision}, and {floor} was shown before it was asked",
            taken.backup.name
        );
        case.violation("B3", events, text);
    }
}

/// B2: the restore is of this backup, the same on all nodes.
fn judge_names(taken: &Taken<'_>, restore: &BackupRestore, events: &[u64], case: &mut Case) {
    if let (Some(backup), Some(restored)) = (taken.backup.revision, restore.revision)
        && backup != restored
    {
        let text = format!("a backup of revision {backup} was restored as {restored}");
        case.violation("B2", events.to_vec(), text);
    }
    let roots = restore.state_roots.iter().flatten().chain(&taken.backup.state_root);
    let roots: std::collections::BTreeSet<&String> = roots.collect();
    if roots.len() > 1 {
        let text = format!("the roots differ: {roots:?}");
        case.violation("B2", events.to_vec(), text);
    }
}

/// B1: the keys are the state at the backup's revision.
fn judge_keys(
    log: &Log<'_>,
    restore: &BackupRestore,
    events: &[u64],
    context: &Context,
    case: &mut Case,
) {
    let (Some(revision), Some(kvs)) = (restore.revision, &restore.kvs) else {
        case.unknown(format!("{:?}: the restored keys were not read", restore.name));
        return;
    };
    if revision > log.newest() {
        case.unknown(format!("the backup's revision {revision} is not in the history"));
        return;
    }
    let (state, sure) = state_at(log, revision);
    let owned = |key: &&str| context.owns(key);
    let restored: BTreeMap<&str, &str> = kvs
        .iter()
        .map(|kv| (kv.key.as_str(), kv.value.as_str()))
        .filter(|(key, _)| owned(key))
        .collect();
    case.judged.events += restored.len() as u64;
    let wrong = state
        .iter()
        .filter(|(key, _)| owned(key))
        .find(|(key, value)| restored.get(*key) != Some(value))
        .map(|(key, _)| *key);
    let wrong = wrong.or_else(|| restored.keys().find(|key| !state.contains_key(*key)).copied());
    let Some(key) = wrong else { return };
    let text = format!(
        "key {key:?} was restored as {:?}, at revision {revision} it was {:?}",
        restored.get(key),
        state.get(key)
    );
    if sure {
        case.violation("B1", events.to_vec(), text);
    } else {
        case.unknown(format!("{text}; but not all revisions before are known"));
    }
}

/// Keys and values at a revision, and whether all revisions before are known.
fn state_at<'a>(log: &Log<'a>, revision: u64) -> (BTreeMap<&'a str, &'a str>, bool) {
    let mut state = BTreeMap::new();
    let mut sure = true;
    for entry in (log.base + 1..=revision).filter_map(|revision| log.get(revision)) {
        sure &= entry.sure;
        for change in &entry.changes {
            match change.after {
                Some(record) => state.insert(change.key, record.value),
                None => state.remove(change.key),
            };
        }
    }
    (state, sure)
}
