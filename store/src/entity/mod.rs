//! Types and entities as guarded transactions over the core, pure.
