//! The checkers: each one judges a history by rules that it can name.
//!
//! A [`Checker`] is a function of a [`History`] and a [`Context`], which says
//! what the history alone does not: bounds, prefixes, files. Its [`Verdict`] is
//! *valid*, a list of *violations* with the events concerned, or *unknown* with
//! the reason. A checker that found nothing to judge says unknown: an empty run
//! proves nothing.
//!
//! # What is checked by whom
//!
//! [`replay`] is the first: it trusts that the store has one total order, that of
//! its revisions, and replays it. A wrong revision is itself a violation. What
//! does not trust revisions at all is the second opinion: [`wgl`] for single keys
//! and [`append`] for transactions over lists. All others look at one promise
//! each.
//!
//! # Unknown outcomes
//!
//! An operation that ended in `info` may have happened at any time after its
//! invocation, or never. Each checker says in its own text how it treats that;
//! none takes a timeout for a failure.

pub mod append;
pub mod backup;
pub mod bank;
pub mod config;
mod context;
pub mod convergence;
pub mod counter;
pub mod entity;
pub mod lease;
pub mod liveness;
pub mod lock;
pub mod logs;
pub mod membership;
pub mod queue;
mod quiet;
mod register;
pub mod replay;
pub mod set;
#[cfg(test)]
mod tests;
mod verdict;
pub mod watch;
pub mod wgl;

pub use context::{Context, LogFile};
pub use verdict::{Case, Finding, Judged, VIOLATIONS_MAX, Verdict, Violation};

use crate::history::History;

/// A named part that judges histories.
#[derive(Clone, Copy)]
pub struct Checker {
    /// The name in verdicts, on the command line and in reports.
    pub name: &'static str,
    /// What it promises to find, in one sentence.
    pub about: &'static str,
    /// Judges a history.
    pub check: fn(&History, &Context) -> Verdict,
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All checkers, the most telling first.
pub const CHECKERS: &[Checker] = &[
    Checker {
        name: replay::NAME,
        about: "strict serializability of all transactions, reads and watches, by revisions",
        check: replay::check,
    },
    Checker {
        name: wgl::NAME,
        about: "linearizability of each key, without trust in revisions",
        check: wgl::check,
    },
    Checker {
        name: append::NAME,
        about: "no forbidden cycle among list-append transactions, without trust in revisions",
        check: append::check,
    },
    Checker {
        name: set::NAME,
        about: "what was added is there, once, and nothing else",
        check: set::check,
    },
    Checker { name: bank::NAME, about: "no read sees money made or lost", check: bank::check },
    Checker {
        name: watch::NAME,
        about: "watches are ordered, unique, atomic, complete and resumable",
        check: watch::check,
    },
    Checker {
        name: lease::NAME,
        about: "leases do not end early, do end, and do not come back",
        check: lease::check,
    },
    Checker {
        name: lock::NAME,
        about: "fencing tokens grow, and the protected resource loses no update",
        check: lock::check,
    },
    Checker {
        name: queue::NAME,
        about: "each job is done once and none is lost",
        check: queue::check,
    },
    Checker {
        name: counter::NAME,
        about: "an addition that is sent again is applied once",
        check: counter::check,
    },
    Checker {
        name: entity::NAME,
        about: "patches of disjoint sections lose nothing",
        check: entity::check,
    },
    Checker {
        name: config::NAME,
        about: "configuration values are set once, in order, under their preconditions",
        check: config::check,
    },
    Checker {
        name: membership::NAME,
        about: "one configuration per position, changes overlap, one leader per term",
        check: membership::check,
    },
    Checker {
        name: backup::NAME,
        about: "a restored backup is one state of the past, with all acknowledged before it",
        check: backup::check,
    },
    Checker {
        name: convergence::NAME,
        about: "replicas with as many transitions have the same state hash",
        check: convergence::check,
    },
    Checker {
        name: liveness::NAME,
        about: "it serves again within a bound after faults end, and gaps stay bounded",
        check: liveness::check,
    },
    Checker {
        name: logs::NAME,
        about: "no panic and no secret in the nodes' logs",
        check: logs::check,
    },
];

/// The checker of this name.
pub fn by_name(name: &str) -> Option<&'static Checker> {
    CHECKERS.iter().find(|checker| checker.name == name)
}
