//! Tests of the log. Those that draw at random print their seed.

mod crashes;
mod damage;
mod faults;
mod golden;
mod readers;
mod story;
mod support;
