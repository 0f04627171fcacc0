//! Failure domains: what a majority of voters should not share.

use crate::core::MemberStatus;
use std::collections::{BTreeMap, BTreeSet};

/// A label and a value that a majority of the voters `after` a change share and
/// no majority of those `before` it did. One that they shared already is not
/// the change's fault: a cluster may well be in one site.
pub(super) fn concentrated(
    members: &BTreeMap<u64, MemberStatus>,
    before: &BTreeSet<u64>,
    after: &BTreeSet<u64>,
) -> Option<(String, String)> {
    let shared_before = shared(members, before);
    shared(members, after).into_iter().find(|shared| !shared_before.contains(shared))
}

/// What a majority of these voters share.
fn shared(
    members: &BTreeMap<u64, MemberStatus>,
    voters: &BTreeSet<u64>,
) -> BTreeSet<(String, String)> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for member in voters.iter().filter_map(|id| members.get(id)) {
        for (label, value) in &member.labels {
            *counts.entry((label.clone(), value.clone())).or_default() += 1;
        }
    }
    let majority = voters.len() / 2 + 1;
    counts.into_iter().filter(|(_, count)| *count >= majority).map(|(shared, _)| shared).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(racks: &[&str]) -> BTreeMap<u64, MemberStatus> {
        let member = |(index, rack): (usize, &&str)| {
            let id = index as u64 + 1;
            let labels = [("rack", *rack), ("site", "x")];
            let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned()));
            let status = MemberStatus {
                id,
                peer_address: String::new(),
                client_address: String::new(),
                labels: labels.into(),
                voter: false,
                lag: None,
            };
            (id, status)
        };
        racks.iter().enumerate().map(member).collect()
    }

    fn check(racks: &[&str], before: &[u64], after: &[u64], expected: Option<&str>) {
        let (before, after) = (before.iter().copied(), after.iter().copied());
        let found = concentrated(&members(racks), &before.collect(), &after.collect());
        assert_eq!(found.map(|(_, value)| value).as_deref(), expected);
    }

    #[test]
    fn a_change_may_not_put_a_majority_into_one_rack() {
        check(&["a", "b", "c", "a"], &[1, 2, 3], &[1, 3, 4], Some("a"));
        check(&["a", "b", "c", "d"], &[1, 2, 3], &[1, 3, 4], None);
        check(&["a", "b", "c"], &[1, 2, 3], &[1, 2], None);
        check(&["a", "a", "c"], &[1, 3], &[1, 2, 3], Some("a"));
    }

    #[test]
    fn what_a_majority_shared_before_stays_allowed() {
        check(&["a", "a", "a", "b"], &[1, 2, 3], &[1, 2, 4], None);
        check(&["a"], &[1], &[1], None);
    }
}
