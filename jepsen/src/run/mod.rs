//! One run: set up, load with faults, heal, quiet, final reads, restart, final
//! reads again, judgement.

mod failover;
mod judge;
mod observe;
mod phases;
mod place;
mod plan;

pub(crate) use failover::{Gaps, HEADING, Loss, failover};
pub(crate) use judge::{Outcome, Word, judge, keep};
pub(crate) use observe::hex;
pub(crate) use phases::{run, version_of, wait_formed};
pub(crate) use place::Place;
pub(crate) use plan::Plan;
