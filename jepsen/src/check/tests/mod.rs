//! Every checker proves that it can fail, and that it does not cry wolf.
//!
//! `KEELSTONE_SAMPLES=5000` makes as many histories of each workload.

mod brute;
mod doubts;
mod empty;
mod plants;
mod valid;

use super::{CHECKERS, Verdict, by_name};
use crate::sample::{Sampled, Workload};

/// How many histories of each kind are made.
fn samples(default: u64) -> u64 {
    let wanted = std::env::var("KEELSTONE_SAMPLES").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(default)
}

/// The checkers that a workload is for: they have to have an opinion.
fn owners(workload: Workload) -> &'static [&'static str] {
    match workload {
        Workload::Register | Workload::Single => &["replay", "wgl", "watch", "liveness"],
        Workload::Set => &["replay", "wgl", "watch", "set"],
        Workload::Append => &["replay", "wgl", "watch", "append"],
        Workload::Bank => &["replay", "wgl", "watch", "bank"],
        Workload::Lease => &["replay", "watch", "lease"],
        Workload::Lock => &["lock", "lease", "watch"],
        Workload::Queue => &["queue", "lease", "watch"],
        Workload::Counter => &["counter", "watch"],
        Workload::Entity => &["entity", "watch"],
        Workload::Config => &["config", "watch"],
        Workload::Backup => &["replay", "watch", "backup"],
    }
}

fn judge(sampled: &Sampled, checker: &str) -> Verdict {
    let checker = by_name(checker).expect("a checker of this name");
    (checker.check)(&sampled.history, &sampled.context)
}

#[test]
fn names_are_unique_and_found() {
    for checker in CHECKERS {
        assert_eq!(by_name(checker.name).unwrap().about, checker.about);
        let same = CHECKERS.iter().filter(|other| other.name == checker.name).count();
        assert_eq!(same, 1, "{}", checker.name);
    }
}
