//! Histories of a correct store are accepted, thousands of them, with unknown
//! outcomes, failures, reconnects and compactions.

use super::{judge, owners, samples};
use crate::check::CHECKERS;
use crate::sample::{Sample, Workload};

/// All checkers on many histories of one workload.
fn accepts(workload: Workload) {
    let mut unknown: Vec<String> = Vec::new();
    let total = samples(150);
    for seed in 0..total {
        let mut sample = Sample::new(workload, seed);
        // From no unknown outcome to many.
        sample.info_permille = [0, 40, 150][usize::try_from(seed % 3).unwrap()];
        let sampled = sample.run();
        for checker in CHECKERS {
            let verdict = judge(&sampled, checker.name);
            assert!(!verdict.is_violation(), "{workload:?}, seed {seed}: {verdict}");
            if verdict.is_unknown() && owners(workload).contains(&checker.name) {
                unknown.push(format!("{workload:?}, seed {seed}: {verdict}"));
            }
        }
    }
    // Now and then chance makes a history that has nothing to judge.
    let most = usize::try_from(total / 20).unwrap();
    assert!(unknown.len() <= most, "{} of {total}:\n{}", unknown.len(), unknown.join("\n"));
}

macro_rules! accepts {
    ($($name:ident: $workload:ident,)*) => {$(
        #[test]
        fn $name() {
            accepts(Workload::$workload);
        }
    )*};
}

accepts! {
    register: Register,
    single: Single,
    set: Set,
    append: Append,
    bank: Bank,
    lease: Lease,
    lock: Lock,
    queue: Queue,
    counter: Counter,
    entity: Entity,
    config: Config,
    backup: Backup,
}

#[test]
fn without_watches_nothing_is_a_violation_either() {
    for workload in [Workload::Register, Workload::Lease, Workload::Append, Workload::Backup] {
        for seed in 0..samples(150) {
            let sampled =
                Sample { watchers: 0, info_permille: 100, ..Sample::new(workload, seed) }.run();
            for checker in CHECKERS {
                let verdict = judge(&sampled, checker.name);
                assert!(!verdict.is_violation(), "{workload:?}, seed {seed}: {verdict}");
            }
        }
    }
}
