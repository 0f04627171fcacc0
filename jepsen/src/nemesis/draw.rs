//! Schedules drawn from a seed.

use super::fault::{Episode, Fault, Part, Shape, Who};
use crate::doctor::Abilities;
use anyhow::{Result, bail};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use std::time::Duration;

/// The kinds that a schedule can be made of, with what they do.
pub(crate) const KINDS: &[(&str, &str)] = &[
    ("none", "no fault"),
    ("kill", "SIGKILL of one, the leader, a quorum or all"),
    ("pause", "SIGSTOP of one, the leader, a quorum or all"),
    ("partition", "links cut in halves, rings, bridges, one way, around the leader"),
    ("loss", "packets lost"),
    ("delay", "packets late and out of order"),
    ("power-cut", "SIGKILL and loss of what was not synced, of one, a quorum or all"),
    ("clock", "wall clocks that jump"),
    ("disk-full", "a disk without room"),
    ("disk-slow", "a disk that takes few writes a second"),
    ("corrupt", "a changed byte in log or state of one node"),
    ("transfer", "leadership handed over"),
    ("rolling", "restarts one after the other"),
    ("replace", "a new member for an old one"),
    ("compact", "history forgotten"),
    ("grow", "a log that grows: checkpoints, purges, snapshots"),
    ("mix", "all of the above, overlapping"),
];

/// Kinds that take a member away for good or for long: never two at a time.
const EXCLUSIVE: &[&str] = &["corrupt", "replace", "disk-full", "rolling"];

/// How long restarts one after the other take: what was planned for that time
/// would come too late, or never.
const ROLLING_MS: u64 = 10_000;

/// What the words of `kinds`, joined by `+`, ask for and this machine can do,
/// and the words that it cannot.
///
/// # Errors
///
/// Fails if a word is no kind.
pub(crate) fn split(kinds: &str, abilities: Abilities) -> Result<(Vec<String>, Vec<String>)> {
    let mut wanted: Vec<String> = Vec::new();
    for kind in kinds.split('+') {
        if !KINDS.iter().any(|(name, _)| *name == kind) {
            bail!("`{kind}` is no nemesis; `keelstone-jepsen list` lists them");
        }
        match kind {
            "none" => {}
            "mix" => {
                let all = KINDS.iter().map(|(name, _)| *name);
                wanted
                    .extend(all.filter(|name| !matches!(*name, "none" | "mix")).map(str::to_owned));
            }
            kind => wanted.push(kind.to_owned()),
        }
    }
    Ok(wanted.into_iter().partition(|kind| abilities.can(kind)))
}

/// Episodes of `kinds` over `time`.
pub(crate) fn schedule(kinds: &[String], time: Duration, seed: u64) -> Vec<Episode> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x6e65_6d65_7369_7300);
    let end = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut episodes = Vec::new();
    let overlap = kinds.len() > 2;
    let mut at = rng.random_range(1_000..3_000);
    let mut exclusive_until = 0;
    while let Some(kind) = kinds.choose(&mut rng) {
        let exclusive = EXCLUSIVE.contains(&kind.as_str());
        if at >= end {
            break;
        }
        if exclusive && at < exclusive_until {
            at += 500;
            continue;
        }
        let fault = fault(kind, &mut rng);
        let busy = if matches!(fault, Fault::Rolling) { ROLLING_MS } else { 0 };
        if at + busy > end {
            at += 500;
            continue;
        }
        let lasts = length(&fault, &mut rng);
        if at + lasts.min(1_500) > end {
            break;
        }
        let lasts_ms = lasts.min(end - at);
        episodes.push(Episode { at_ms: at, lasts_ms, fault });
        if exclusive {
            exclusive_until = at + lasts + 4_000;
        }
        let rest = rng.random_range(500..3_500);
        at += if overlap && rng.random_bool(0.5) { busy + rest } else { busy.max(lasts) + rest };
    }
    episodes
}

fn length(fault: &Fault, rng: &mut StdRng) -> u64 {
    match fault {
        // Down for long enough to need a snapshot, or back at once.
        Fault::Kill { .. } | Fault::PowerCut { .. } => {
            if rng.random_bool(0.3) {
                rng.random_range(0..300)
            } else {
                rng.random_range(500..6_000)
            }
        }
        Fault::Pause { .. } => rng.random_range(300..5_000),
        Fault::Clock { .. } => rng.random_range(1_000..6_000),
        fault if fault.is_momentary() => 0,
        _ => rng.random_range(1_500..8_000),
    }
}

fn fault(kind: &str, rng: &mut StdRng) -> Fault {
    let index = rng.random_range(0..1_000);
    match kind {
        "kill" => Fault::Kill { who: who(rng, true) },
        "pause" => Fault::Pause { who: who(rng, true) },
        "partition" => Fault::Partition { shape: shape(rng, index) },
        "loss" => {
            let permille = *[20, 50, 100, 200, 300].choose(rng).expect("not empty");
            Fault::Loss { who: who(rng, true), permille }
        }
        "delay" => Fault::Delay {
            who: who(rng, true),
            ms: rng.random_range(5..80),
            jitter_ms: rng.random_range(5..100),
        },
        "power-cut" => Fault::PowerCut { who: who(rng, true) },
        "clock" => {
            let seconds = *[-3_600, -30, -2, 2, 30, 3_600, 86_400].choose(rng).expect("not empty");
            Fault::Clock { who: who(rng, false), seconds }
        }
        "disk-full" => {
            let free_bytes = if rng.random_bool(0.5) { 100 << 20 } else { 64 << 10 };
            Fault::DiskFull { who: who(rng, false), free_bytes }
        }
        "disk-slow" => {
            Fault::DiskSlow { who: who(rng, false), writes_per_second: rng.random_range(5..40) }
        }
        "corrupt" => {
            let part = if rng.random_bool(0.5) { Part::Log } else { Part::State };
            let place_permille = rng.random_range(0..1_000);
            Fault::Corrupt { who: Who::One(index), part, place_permille }
        }
        "transfer" => Fault::Transfer,
        "rolling" => Fault::Rolling,
        "replace" => Fault::Replace { who: who(rng, false) },
        "compact" => Fault::Compact,
        "grow" => Fault::Grow { bytes: rng.random_range(2..8) << 20 },
        other => unreachable!("`{other}` was checked to be a kind"),
    }
}

/// One or the leader; if `many`, a quorum or all as well.
fn who(rng: &mut StdRng, many: bool) -> Who {
    let index = rng.random_range(0..1_000);
    match rng.random_range(0..if many { 10 } else { 6 }) {
        0..3 => Who::One(index),
        3..6 => Who::Leader,
        6..8 => Who::Quorum(index),
        _ => Who::All,
    }
}

fn shape(rng: &mut StdRng, index: u64) -> Shape {
    let shapes = [
        Shape::IsolateLeader,
        Shape::IsolateLeader,
        Shape::Isolate(index),
        Shape::Halves(index),
        Shape::Ring,
        Shape::Bridge(index),
        Shape::MuteLeader,
        Shape::DeafLeader,
        Shape::Mute(index),
        Shape::Deaf(index),
        Shape::OneLink(index),
    ];
    *shapes.choose(rng).expect("not empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_schedule_and_every_kind_can_be_drawn() {
        for (kind, _) in KINDS.iter().filter(|(kind, _)| !matches!(*kind, "none" | "mix")) {
            let kinds = [(*kind).to_owned()];
            let time = Duration::from_mins(1);
            let first = schedule(&kinds, time, 7);
            assert!(!first.is_empty(), "{kind}");
            assert_eq!(first, schedule(&kinds, time, 7));
            assert!(first.iter().all(|episode| episode.fault.name() == *kind));
            assert!(first.iter().all(|episode| episode.at_ms + episode.lasts_ms <= 60_000));
        }
    }
}
