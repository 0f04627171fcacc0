//! Faults as data: what is done to whom, when, and for how long.

use serde::{Deserialize, Serialize};

/// One fault in a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Episode {
    /// When it begins, in milliseconds after the load began.
    pub(crate) at_ms: u64,
    /// How long it lasts; of no meaning to a fault that is over at once.
    pub(crate) lasts_ms: u64,
    /// What is done.
    #[serde(flatten)]
    pub(crate) fault: Fault,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// SIGKILL; started again at the end.
    Kill { who: Who },
    /// SIGSTOP; SIGCONT at the end.
    Pause { who: Who },
    /// Links are cut.
    Partition { shape: Shape },
    /// Links to and from one lose packets.
    Loss { who: Who, permille: u16 },
    /// Packets to one are late by this much and more, and overtake each other.
    Delay { who: Who, ms: u64, jitter_ms: u64 },
    /// SIGKILL, then the disk loses what was not synced; started at the end.
    PowerCut { who: Who },
    /// The wall clock is this far from the real one.
    Clock { who: Who, seconds: i64 },
    /// The disk has only this much room.
    DiskFull { who: Who, free_bytes: u64 },
    /// The disk takes only so many writes a second.
    DiskSlow { who: Who, writes_per_second: u64 },
    /// A byte of a file changes while the node is down; started at the end.
    Corrupt { who: Who, part: Part, place_permille: u64 },
    /// Leadership goes to another voter.
    Transfer,
    /// SIGTERM and start, one after the other.
    Rolling,
    /// A new member on an empty disk takes the place of one.
    Replace { who: Who },
    /// History below the present is forgotten.
    Compact,
    /// The log grows by this much, so that checkpoints, purges and snapshots
    /// come.
    Grow { bytes: u64 },
}

/// Who is struck; who that is, is decided when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Who {
    /// Whoever leads.
    Leader,
    /// One replica: the index modulo how many there are.
    One(u64),
    /// As many as make a quorum, from the index on.
    Quorum(u64),
    /// All.
    All,
}

/// How links are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// The leader hears nobody, and nobody hears it.
    IsolateLeader,
    /// One is cut off.
    Isolate(u64),
    /// Two groups, the smaller from the index on.
    Halves(u64),
    /// Each hears only the one after it.
    Ring,
    /// All but one do not hear each other, and that one hears all.
    Bridge(u64),
    /// The leader is heard by nobody and hears all.
    MuteLeader,
    /// The leader hears nobody and is heard by all.
    DeafLeader,
    /// One is heard by nobody and hears all.
    Mute(u64),
    /// One hears nobody and is heard by all.
    Deaf(u64),
    /// One link in one direction.
    OneLink(u64),
}

/// Which of a node's files is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// The write-ahead log.
    Log,
    /// The state engine's files.
    State,
}

impl Who {
    /// The ids it stands for, of `ids` that there are.
    pub(crate) fn among(self, ids: &[u64], leader: Option<u64>) -> Vec<u64> {
        let count = ids.len() as u64;
        if count == 0 {
            return Vec::new();
        }
        let pick = |index: u64| ids[usize::try_from(index % count).unwrap_or_default()];
        match self {
            // Nobody may lead just now; then the first is as good as any.
            Self::Leader => vec![leader.filter(|id| ids.contains(id)).unwrap_or(ids[0])],
            Self::One(index) => vec![pick(index)],
            Self::Quorum(index) => (0..=count / 2).map(|step| pick(index + step)).collect(),
            Self::All => ids.to_vec(),
        }
    }
}

impl Shape {
    /// The links that are cut, each from one id to another, of `ids` that there
    /// are.
    pub(crate) fn links(self, ids: &[u64], leader: Option<u64>) -> Vec<(u64, u64)> {
        let all =
            || ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b);
        let one = |index| Who::One(index).among(ids, leader).first().copied().unwrap_or_default();
        let leading = Who::Leader.among(ids, leader).first().copied().unwrap_or_default();
        let between = |group: &[u64]| -> Vec<(u64, u64)> {
            all().filter(|(a, b)| group.contains(a) != group.contains(b)).collect()
        };
        match self {
            Self::IsolateLeader => between(&[leading]),
            Self::Isolate(index) => between(&[one(index)]),
            Self::Halves(index) => {
                let half: Vec<u64> =
                    (0..ids.len() as u64 / 2).map(|step| one(index + step)).collect();
                between(&half)
            }
            Self::Ring => {
                let place = |id: u64| ids.iter().position(|other| *other == id).unwrap_or_default();
                all().filter(|(a, b)| place(*a) != (place(*b) + 1) % ids.len()).collect()
            }
            Self::Bridge(index) => {
                let middle = one(index);
                all().filter(|(a, b)| *a != middle && *b != middle).collect()
            }
            Self::MuteLeader => all().filter(|(from, _)| *from == leading).collect(),
            Self::DeafLeader => all().filter(|(_, to)| *to == leading).collect(),
            Self::Mute(index) => all().filter(|(from, _)| *from == one(index)).collect(),
            Self::Deaf(index) => all().filter(|(_, to)| *to == one(index)).collect(),
            Self::OneLink(index) => {
                let links: Vec<_> = all().collect();
                let place = usize::try_from(index).unwrap_or_default() % links.len().max(1);
                links.get(place).copied().into_iter().collect()
            }
        }
    }
}

impl Fault {
    /// Its name in schedules, on the command line and in histories.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::Pause { .. } => "pause",
            Self::Partition { .. } => "partition",
            Self::Loss { .. } => "loss",
            Self::Delay { .. } => "delay",
            Self::PowerCut { .. } => "power-cut",
            Self::Clock { .. } => "clock",
            Self::DiskFull { .. } => "disk-full",
            Self::DiskSlow { .. } => "disk-slow",
            Self::Corrupt { .. } => "corrupt",
            Self::Transfer => "transfer",
            Self::Rolling => "rolling",
            Self::Replace { .. } => "replace",
            Self::Compact => "compact",
            Self::Grow { .. } => "grow",
        }
    }

    /// Whether it is over as soon as it is done.
    pub(crate) fn is_momentary(&self) -> bool {
        matches!(
            self,
            Self::Transfer
                | Self::Rolling
                | Self::Replace { .. }
                | Self::Compact
                | Self::Grow { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_cut_what_they_say() {
        let ids = [1, 2, 3];
        let cut = |shape: Shape| shape.links(&ids, Some(2));
        assert_eq!(cut(Shape::IsolateLeader), [(1, 2), (2, 1), (2, 3), (3, 2)]);
        assert_eq!(cut(Shape::Bridge(0)), [(2, 3), (3, 2)]);
        assert_eq!(cut(Shape::MuteLeader), [(2, 1), (2, 3)]);
        assert_eq!(cut(Shape::DeafLeader), [(1, 2), (3, 2)]);
        assert_eq!(cut(Shape::Ring), [(1, 2), (2, 3), (3, 1)]);
        assert_eq!(cut(Shape::OneLink(6)), [(1, 2)]);
        assert_eq!(Shape::Halves(4).links(&[1, 2, 3, 4, 5], None).len(), 12);
    }

    #[test]
    fn a_quorum_is_more_than_half() {
        assert_eq!(Who::Quorum(2).among(&[1, 2, 3], None), [3, 1]);
        assert_eq!(Who::Quorum(0).among(&[1, 2, 3, 4, 5], None), [1, 2, 3]);
        assert_eq!(Who::Leader.among(&[1, 2, 3], Some(9)), [1]);
    }

    #[test]
    fn a_schedule_survives_its_file() {
        let fault = Fault::Partition { shape: Shape::Bridge(7) };
        let episode = Episode { at_ms: 5, lasts_ms: 6, fault };
        let text = serde_json::to_string(&episode).unwrap();
        assert_eq!(serde_json::from_str::<Episode>(&text).unwrap(), episode);
    }
}
