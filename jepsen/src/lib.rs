//! Judging what a store did: histories of operations, and what reads them.
//!
//! * [`history`]: what clients asked, what they were told and when, one JSON
//!   object a line;
//! * [`check`]: the named checkers, each a function of a history;
//! * [`report`]: what people read afterwards;
//! * [`sample`]: histories that are known to be right, or wrong in one way.
//!
//! Nothing here knows the server or a network: the simulation in `tests` judges
//! its runs with the same checkers as the runs on real processes.

pub mod check;
pub mod history;
pub mod report;
pub mod sample;
