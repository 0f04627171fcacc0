//! What a checker has to know besides the history.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A node's log, to be searched for what must not be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// The node.
    pub node: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// Bounds, prefixes and files: saved beside a history, so that it can be judged
/// again. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Context {
    /// The store's revision before the first operation; its keys are unknown to
    /// the history, and none begins with one of `prefixes`.
    pub base_revision: u64,
    /// Keys that only the history's transactions change begin with one of these.
    /// Changes of other keys are taken as they come.
    pub prefixes: Vec<String>,
    /// Whether every revision must be explained by an operation of the history.
    pub exclusive: bool,
    /// Keys of the set workload: one key for each element.
    pub set_prefix: String,
    /// Keys of the list-append workload, whose values are numbers with commas.
    pub append_prefix: String,
    /// Keys of the bank workload, whose values are balances.
    pub bank_prefix: String,
    /// The sum of all balances; 0 if there is no bank.
    pub bank_total: i64,
    /// Whether balances may be negative.
    pub bank_overdraft: bool,
    /// States that WGL may visit for one key.
    pub wgl_states_max: u64,
    /// How long WGL may take in all.
    pub wgl_ms_max: u64,
    /// How long a watch may be behind after the last fault ended (W11).
    pub watch_lag_ms: u64,
    /// By how much a node's clock may run wrong, in parts of a thousand (L1).
    pub clock_drift_permille: u64,
    /// How long beyond its time a lease may live while a quorum is healthy (L2).
    pub lease_late_ms: u64,
    /// Jobs must be taken again so long after their worker died (Q5), its
    /// lease's time not counted.
    pub claim_late_ms: u64,
    /// The longest time without a successful write after faults ended (V1).
    pub serve_ms: u64,
    /// The longest time without a successful write during faults that leave a
    /// majority; 0: not judged.
    pub gap_ms: u64,
    /// The longest time that one operation may take to be answered (V5).
    pub answer_ms: u64,
    /// Members that the cluster has at the end, for convergence.
    pub nodes: Vec<u64>,
    /// The nodes' logs.
    pub logs: Vec<LogFile>,
    /// Texts that must not be in any log: values of secrets, keys and documents
    /// that the run planted.
    pub canaries: Vec<String>,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            base_revision: 0,
            prefixes: vec![String::new()],
            exclusive: true,
            set_prefix: "set/".to_owned(),
            append_prefix: "append/".to_owned(),
            bank_prefix: "bank/".to_owned(),
            bank_total: 0,
            bank_overdraft: false,
            wgl_states_max: 20_000_000,
            wgl_ms_max: 60_000,
            watch_lag_ms: 5_000,
            clock_drift_permille: 20,
            lease_late_ms: 8_000,
            claim_late_ms: 8_000,
            serve_ms: 10_000,
            gap_ms: 0,
            answer_ms: 30_000,
            nodes: Vec::new(),
            logs: Vec::new(),
            canaries: Vec::new(),
        }
    }
}

impl Context {
    /// Whether only the history's transactions change `key`.
    pub fn owns(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }
}
