//! What goes wrong on purpose.
//!
//! A schedule is data, drawn from the run's seed before the run ([`schedule`])
//! and kept with it; [`Nemesis`] carries it out and writes into the history what
//! it did to whom.

mod draw;
mod effect;
mod fault;
mod members;
mod strike;

pub(crate) use draw::{KINDS, schedule, split};
pub(crate) use fault::Episode;
pub(crate) use strike::Nemesis;
