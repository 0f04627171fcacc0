//! Membership: one configuration per position, one leader per term (R1, R8, M1).
//!
//! Nodes are asked for what they have *applied*. At one position in the log all
//! have the same voters and learners; a node's term does not go back, restarts
//! included, nor its position, unless there was a fault in between: a node that
//! has just started may not know yet how far it had applied its log. In one term
//! all name the same leader. Between two
//! configurations that follow each other by position with nothing in between
//! that anybody saw, any two majorities have a voter in common if the change was
//! of one voter; larger differences are noted, not judged, because joint
//! configurations in between may not have been seen.

use super::{Case, Context, Verdict};
use crate::history::{History, MemberView, Op};
use std::collections::BTreeMap;

/// The checker's name.
pub const NAME: &str = "membership";

/// Judges all views of the membership.
pub fn check(history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let faults = history.faults().map(|(event, _)| event.index).collect();
    let mut seen = Seen { faults, ..Seen::default() };
    for operation in history.operations() {
        if matches!(operation.invoke.op, Op::MemberChange(_)) {
            seen.changes += u64::from(operation.ok().is_some());
        }
        let Some((event, Op::MemberView(view))) = operation.ok() else { continue };
        case.judged.operations += 1;
        seen.take((operation.invoke.index, event.index), view, &mut case);
    }
    seen.judge_end(context, &mut case);
    case.judged.keys = seen.newest.len() as u64;
    case.judged.events = seen.configurations.len() as u64;
    case.note(format!(
        "{} configurations and {} terms were seen, {} changes succeeded",
        seen.configurations.len(),
        seen.leaders.len(),
        seen.changes
    ));
    let views = case.judged.operations;
    case.close("view of the membership", views)
}

#[derive(Default)]
struct Seen {
    /// By position: voters, learners, event.
    configurations: BTreeMap<u64, (Vec<u64>, Vec<u64>, u64)>,
    /// By term: the leader and the event.
    leaders: BTreeMap<u64, (u64, u64)>,
    /// By member: position, term, answer, and event.
    newest: BTreeMap<u64, (u64, u64, u64)>,
    changes: u64,
    /// The events of faults, in order.
    faults: Vec<u64>,
}

impl Seen {
    fn take(&mut self, (asked, answered): (u64, u64), view: &MemberView, case: &mut Case) {
        let (Some(index), Some(voters)) = (view.log_index, &view.voters) else {
            case.unknown(format!("node {} did not say what it has applied", view.member));
            return;
        };
        let (mut voters, mut learners) =
            (voters.clone(), view.learners.clone().unwrap_or_default());
        voters.sort_unstable();
        learners.sort_unstable();
        match self.configurations.get(&index) {
            Some((same_voters, same_learners, other)) => {
                if (same_voters, same_learners) != (&voters, &learners) {
                    let text = format!(
                        "at position {index} node {} has voters {voters:?} and learners \
                         {learners:?}, another one {same_voters:?} and {same_learners:?}",
                        view.member
                    );
                    case.violation("M1", vec![*other, answered], text);
                }
            }
            None => {
                self.configurations.insert(index, (voters, learners, answered));
            }
        }
        self.lead(view, answered, case);
        let term = view.term.unwrap_or(0);
        if let Some((before, old_term, event)) = self.newest.get(&view.member).copied()
            && event < asked
        {
            if index < before && !self.disturbed(event, answered) {
                let text = format!("node {} went back from {before} to {index}", view.member);
                case.violation("R8", vec![event, answered], text);
            }
            if term < old_term && view.term.is_some() {
                let text = format!("node {} went from term {old_term} to {term}", view.member);
                case.violation("R8", vec![event, answered], text);
            }
        }
        self.newest.insert(view.member, (index, term, answered));
    }

    /// Whether a fault was begun or ended between two events.
    fn disturbed(&self, from: u64, to: u64) -> bool {
        let next = self.faults.partition_point(|fault| *fault < from);
        self.faults.get(next).is_some_and(|fault| *fault < to)
    }

    fn lead(&mut self, view: &MemberView, answered: u64, case: &mut Case) {
        let (Some(term), Some(leader)) = (view.term, view.leader.filter(|leader| *leader != 0))
        else {
            return;
        };
        match self.leaders.get(&term) {
            Some((other, event)) if *other != leader => {
                let text = format!("in term {term} both {other} and {leader} lead");
                case.violation("R1", vec![*event, answered], text);
            }
            Some(_) => {}
            None => {
                self.leaders.insert(term, (leader, answered));
            }
        }
    }

    /// At the end, all nodes that should be there agree.
    fn judge_end(&self, context: &Context, case: &mut Case) {
        let last = |node: &u64| self.newest.get(node).map(|(index, _, event)| (*index, *event));
        let mut ends: Vec<(u64, u64)> = context.nodes.iter().filter_map(last).collect();
        ends.sort_unstable();
        if let (Some((lowest, one)), Some((highest, other))) = (ends.first(), ends.last())
            && lowest != highest
        {
            let text = format!(
                "at the end a node has the membership of position {lowest}, another that of {highest}"
            );
            case.violation("M1", vec![*one, *other], text);
        }
        let mut before: Option<&Vec<u64>> = None;
        for (voters, _, _) in self.configurations.values() {
            let changed = before.map_or(0, |before| {
                before.iter().filter(|voter| !voters.contains(voter)).count()
                    + voters.iter().filter(|voter| !before.contains(voter)).count()
            });
            if changed > 1 {
                case.note(format!("{changed} voters changed between two views, now {voters:?}"));
            }
            before = Some(voters);
        }
    }
}
