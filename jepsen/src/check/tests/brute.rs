//! The two opinions against brute force, on histories so small that all orders
//! can be tried.

use super::judge;
use crate::history::{Action, ActionReply, Op, Operation, Outcome, Txn};
use crate::sample::{Plant, Sample, Workload};
use std::collections::BTreeMap;

/// Keys with their values and versions.
type Keys = BTreeMap<String, (String, u64)>;

/// Whether some order of the operations, with some of the unknown ones, is right.
fn is_linearizable(operations: &[Operation<'_>]) -> bool {
    let open: Vec<_> = operations
        .iter()
        .filter(|operation| operation.outcome() != Outcome::Fail)
        .filter(|operation| matches!(&operation.invoke.op, Op::Txn(txn) if is_of_keys(txn)))
        .collect();
    assert!(open.len() <= 20, "{} operations are too many for brute force", open.len());
    extend(&open, 0, &Keys::new(), &mut std::collections::HashSet::new())
}

/// Not one of the final reads of other workloads' keys.
fn is_of_keys(txn: &Txn) -> bool {
    !matches!(&txn.success[0], Action::Range { key, .. } if !key.starts_with("k/"))
}

fn extend(
    operations: &[&Operation<'_>],
    done: u32,
    keys: &Keys,
    seen: &mut std::collections::HashSet<(u32, String)>,
) -> bool {
    if !seen.insert((done, format!("{keys:?}"))) {
        return false;
    }
    let left = || operations.iter().enumerate().filter(|(place, _)| done & (1 << place) == 0);
    if left().all(|(_, operation)| operation.outcome() == Outcome::Info) {
        return true;
    }
    let earliest = left().map(|(_, operation)| operation.return_index()).min().unwrap();
    left().any(|(place, operation)| {
        operation.invoke.index < earliest
            && answers(operation, keys)
                .is_some_and(|keys| extend(operations, done | (1 << place), &keys, seen))
    })
}

/// The keys after an operation, if it can have been answered so.
fn answers(operation: &Operation<'_>, keys: &Keys) -> Option<Keys> {
    let Op::Txn(txn) = &operation.invoke.op else { return Some(keys.clone()) };
    let reply = match operation.ok() {
        Some((_, Op::Txn(done))) => done.reply.clone(),
        _ => None,
    };
    let holds = txn.compares.iter().all(|compare| {
        use crate::history::{Operand, Target};
        let found = keys.get(&compare.key);
        match (compare.target, &compare.operand) {
            (Target::Value, Operand::Text(text)) => found.is_some_and(|found| found.0 == *text),
            (Target::Version, Operand::Number(n)) => found.map_or(0, |found| found.1) == *n,
            (Target::Create, Operand::Number(0)) => found.is_none(),
            other => panic!("the workload has no such compare: {other:?}"),
        }
    });
    if reply.as_ref().is_some_and(|reply| reply.succeeded != holds) {
        return None;
    }
    run(txn, holds, reply.map(|reply| reply.results).as_deref(), keys)
}

fn run(txn: &Txn, holds: bool, results: Option<&[ActionReply]>, keys: &Keys) -> Option<Keys> {
    let mut keys = keys.clone();
    for (place, action) in txn.branch(holds).iter().enumerate() {
        match (action, results.map(|results| &results[place])) {
            (Action::Put { key, value, .. }, _) => {
                let version = keys.get(key).map_or(0, |found| found.1) + 1;
                keys.insert(key.clone(), (value.clone(), version));
            }
            (Action::Delete { key, .. }, result) => {
                let there = u64::from(keys.remove(key).is_some());
                if let Some(ActionReply::Delete { deleted, .. }) = result
                    && *deleted != there
                {
                    return None;
                }
            }
            (Action::Range { end: Some(_), .. }, Some(ActionReply::Range { kvs, .. })) => {
                let got = kvs.iter().map(|kv| (kv.key.clone(), (kv.value.clone(), kv.version)));
                if got.collect::<Keys>() != keys {
                    return None;
                }
            }
            (Action::Range { key, .. }, Some(ActionReply::Range { kvs, .. })) => {
                let got = kvs.first().map(|kv| (kv.value.clone(), kv.version));
                if got != keys.get(key).cloned() {
                    return None;
                }
            }
            (Action::Range { .. }, _) => {}
        }
    }
    Some(keys)
}

#[test]
fn the_opinions_agree_with_brute_force() {
    let plants = [
        None,
        Some(Plant::StaleValue),
        Some(Plant::LostWrite),
        Some(Plant::AppliedTwice),
        Some(Plant::WriteSkew),
        Some(Plant::DirtyWrite),
        Some(Plant::WrongVersion),
    ];
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..super::samples(1500) {
        let plant = plants[usize::try_from(seed).unwrap() % plants.len()];
        let mut sample = Sample::new(Workload::Single, seed);
        (sample.operations, sample.clients, sample.keys) = (9, 4, 2);
        (sample.info_permille, sample.plant) = (150, plant);
        let sampled = sample.run();
        let expected = is_linearizable(&sampled.history.operations());
        let wgl = judge(&sampled, "wgl");
        assert_eq!(wgl.is_violation(), !expected, "seed {seed}, {plant:?}: {wgl}");
        let replay = judge(&sampled, "replay");
        // What is not linearizable cannot be replayed. The converse does not
        // hold: revisions can be wrong where the values happen to fit.
        assert!(expected || replay.is_violation(), "seed {seed}, {plant:?}: {replay}");
        assert!(sampled.planted || !replay.is_violation(), "seed {seed}: {replay}");
        if expected { right += 1 } else { wrong += 1 }
    }
    println!("{right} histories were right, {wrong} wrong");
    assert!(wrong > 50 && right > 50, "{right} right, {wrong} wrong: too few of one kind");
}
