//! The machine's state as rows in an engine, and snapshots of it.
