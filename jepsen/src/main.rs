//! `keelstone-jepsen`: fault runs on real processes.
//!
//! Replicas are the real program, each in a network and on a disk of its own;
//! clients work on them while a nemesis breaks things; what clients were told is
//! written down and judged afterwards. The library half of this crate has the
//! histories and the judges, and knows nothing of what is here.

mod cli;
mod client;
mod disk;
mod doctor;
mod nemesis;
mod net;
mod node;
mod run;
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
