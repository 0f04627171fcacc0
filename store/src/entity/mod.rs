//! Types and entities as guarded transactions over the core, pure.

pub mod diff;
pub mod json;
pub mod rejection;
pub mod schema;
pub mod state;
pub mod urn;
mod view;
