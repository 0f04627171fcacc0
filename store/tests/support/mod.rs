//! Support for the tests of the state machine.
//!
//! * [`memory`]: a view that keeps what transitions say, and checks that they
//!   fit what is there;
//! * [`model`]: what commands mean, written a second time and naively;
//! * [`generate`]: random commands;
//! * [`script`] and [`print`]: commands and what they did as text.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

pub mod generate;
pub mod memory;
pub mod model;
pub mod print;
pub mod script;
