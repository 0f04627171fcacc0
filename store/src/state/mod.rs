//! The machine's state as rows in an engine, and snapshots of it.

/// A consistent state of the store at one moment: cheap to take, hold and clone.
#[derive(Clone)]
pub struct StateView {}
