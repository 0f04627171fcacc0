//! Planted mistakes are found: each by the checkers named here, every time.

use super::{judge, samples};
use crate::sample::{Plant, Sample, Workload};

/// A mistake, where it is made, and who has to find it: each of these alone.
struct Case {
    plant: Plant,
    workload: Workload,
    finders: &'static [&'static str],
    /// Of a hundred planted histories, in how many each finder has to find it.
    /// Not all mistakes can be seen: one that is overwritten before anybody
    /// looks leaves nothing for a checker that does not believe revisions.
    percent: u64,
}

const fn case(
    plant: Plant,
    workload: Workload,
    finders: &'static [&'static str],
    percent: u64,
) -> Case {
    Case { plant, workload, finders, percent }
}

const CASES: &[Case] = &[
    case(Plant::StaleRead, Workload::Register, &["replay"], 100),
    case(Plant::StaleRead, Workload::Single, &["wgl"], 50),
    case(Plant::StaleValue, Workload::Register, &["replay"], 100),
    case(Plant::StaleValue, Workload::Single, &["wgl"], 50),
    case(Plant::StaleValue, Workload::Append, &["replay"], 100),
    case(Plant::StaleValue, Workload::Append, &["append"], 50),
    case(Plant::LostWrite, Workload::Register, &["replay"], 100),
    case(Plant::LostWrite, Workload::Single, &["wgl"], 50),
    case(Plant::LostWrite, Workload::Set, &["replay", "set", "wgl"], 100),
    case(Plant::ForgottenWrite, Workload::Register, &["replay", "watch"], 100),
    case(Plant::ForgottenWrite, Workload::Set, &["replay", "set", "wgl"], 100),
    case(Plant::DirtyWrite, Workload::Register, &["replay"], 100),
    case(Plant::DirtyWrite, Workload::Set, &["replay", "set"], 100),
    case(Plant::AppliedTwice, Workload::Register, &["replay"], 100),
    case(Plant::AppliedTwice, Workload::Single, &["wgl"], 50),
    case(Plant::AppliedTwice, Workload::Set, &["replay", "set", "wgl"], 100),
    case(Plant::WriteSkew, Workload::Register, &["replay"], 100),
    case(Plant::WriteSkew, Workload::Append, &["replay"], 100),
    case(Plant::WriteSkew, Workload::Append, &["append"], 50),
    case(Plant::WriteSkew, Workload::Bank, &["replay"], 100),
    case(Plant::WriteSkew, Workload::Bank, &["bank"], 50),
    case(Plant::TornTransaction, Workload::Register, &["replay"], 100),
    case(Plant::TornTransaction, Workload::Bank, &["replay", "bank"], 90),
    case(Plant::WrongVersion, Workload::Register, &["replay"], 100),
    case(Plant::WrongVersion, Workload::Single, &["wgl"], 80),
    case(Plant::WatchGap, Workload::Register, &["watch", "replay"], 100),
    case(Plant::WatchTwice, Workload::Register, &["watch"], 100),
    case(Plant::WatchOrder, Workload::Register, &["watch"], 100),
    case(Plant::WatchSplit, Workload::Register, &["watch"], 100),
    case(Plant::WatchEarlyProgress, Workload::Register, &["watch"], 100),
    case(Plant::WatchForeignKey, Workload::Register, &["watch"], 100),
    case(Plant::WatchWrongPrevious, Workload::Register, &["watch"], 100),
    case(Plant::WatchStuck, Workload::Register, &["watch"], 100),
    case(Plant::WatchAfterEnd, Workload::Register, &["watch"], 100),
    case(Plant::LeaseEarly, Workload::Lease, &["lease"], 90),
    case(Plant::LeaseLate, Workload::Lease, &["lease"], 70),
    case(Plant::LeaseRevived, Workload::Lease, &["lease"], 100),
    case(Plant::LeasePartial, Workload::Lease, &["replay"], 90),
    case(Plant::LockTwoHolders, Workload::Lock, &["lock"], 75),
    case(Plant::LockSameToken, Workload::Lock, &["lock"], 100),
    case(Plant::StaleFence, Workload::Lock, &["lock"], 90),
    case(Plant::JobGivenTwice, Workload::Queue, &["queue"], 75),
    case(Plant::JobDoneTwice, Workload::Queue, &["queue"], 100),
    case(Plant::JobLost, Workload::Queue, &["queue"], 100),
    case(Plant::CounterTwice, Workload::Counter, &["counter"], 90),
    case(Plant::CounterLost, Workload::Counter, &["counter"], 90),
    case(Plant::SectionLost, Workload::Entity, &["entity"], 40),
    case(Plant::PreconditionIgnored, Workload::Config, &["config"], 100),
    case(Plant::BackupMixed, Workload::Backup, &["backup"], 100),
    case(Plant::BackupOld, Workload::Backup, &["backup"], 100),
    case(Plant::RestoreReusesRevisions, Workload::Backup, &["backup"], 90),
    case(Plant::StateDiverges, Workload::Register, &["convergence"], 100),
    case(Plant::TwoLeaders, Workload::Register, &["membership"], 100),
    case(Plant::TermGoesBack, Workload::Register, &["membership"], 100),
    case(Plant::NeverServesAgain, Workload::Register, &["liveness"], 100),
];

/// Makes the mistake in many histories and counts who finds it. What was missed
/// comes back.
fn finds(case: &Case) -> Option<String> {
    let wanted = samples(30);
    let (mut planted, mut seed) = (0, 0);
    let mut found = vec![0; case.finders.len()];
    let mut missed = Vec::new();
    while planted < wanted && seed < wanted * 160 {
        seed += 1;
        let mut sample = Sample::new(case.workload, seed);
        sample.plant = Some(case.plant);
        if matches!(case.workload, Workload::Lock | Workload::Queue | Workload::Lease) {
            sample.operations = 400;
        }
        // Unknown outcomes can hide what these look for: they widen its bounds.
        if matches!(case.workload, Workload::Counter | Workload::Queue | Workload::Backup) {
            sample.info_permille = 0;
        }
        let sampled = sample.run();
        if !sampled.planted {
            continue;
        }
        planted += 1;
        for (place, finder) in case.finders.iter().enumerate() {
            let verdict = judge(&sampled, finder);
            if verdict.is_violation() {
                found[place] += 1;
            } else {
                missed.push(format!("seed {seed}: {verdict}"));
            }
        }
    }
    let Case { plant, workload, finders, percent } = case;
    if planted < wanted / 3 {
        return Some(format!("{plant:?} in {workload:?}: only {planted} occasions"));
    }
    for (finder, found) in finders.iter().zip(found) {
        let line = format!("{plant:?} in {workload:?}: {finder} found {found} of {planted}");
        println!("{line}");
        if found * 100 < planted * percent {
            return Some(format!("{line}\n{}", missed.join("\n")));
        }
    }
    None
}

#[test]
fn every_mistake_is_found() {
    let only = std::env::var("KEELSTONE_PLANT").unwrap_or_default();
    let cases = CASES.iter().filter(|case| format!("{:?}", case.plant).contains(&only));
    let missed: Vec<String> = cases.filter_map(finds).collect();
    assert!(missed.is_empty(), "{}", missed.join("\n\n"));
}

#[test]
fn every_mistake_and_every_checker_has_a_case() {
    for plant in Plant::ALL {
        assert!(CASES.iter().any(|case| case.plant == *plant), "{plant:?}: {}", plant.about());
    }
    for checker in crate::check::CHECKERS {
        let found = CASES.iter().any(|case| case.finders.contains(&checker.name));
        // Logs are no part of a history; its tests are in `empty`.
        assert!(found || checker.name == "logs", "{} never has to find anything", checker.name);
    }
}
