//! Where the fault runs on real processes will live: workloads, nemeses and
//! checkers. None is here yet; what guards the promises today is listed in
//! `docs/guarantees.md`.
