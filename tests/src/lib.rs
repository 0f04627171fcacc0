//! Harness of the tests and of the programs beside them.

pub mod durability;
pub mod running;
#[cfg(feature = "simulation")]
pub mod sim;
