//! Late packets: a process in a replica's network that takes what comes in from
//! the other replicas and lets it go on after a while, each packet after its
//! own, so that they overtake each other.
//!
//! The kernel hands the packets over by NFQUEUE. While nobody takes them they go
//! on by themselves, so that the rule can stay when the process is gone.

use super::tool;
use anyhow::{Context as _, Result};
use nfq::{Message, Queue, Verdict};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::io::{ErrorKind, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The number of the queue in each network.
const QUEUE: u16 = 1;
/// Packets that may wait.
const WAITING_MAX: u32 = 16_384;
/// How often the queue is looked at when nothing is due.
const GLANCE: Duration = Duration::from_micros(500);

/// The command that the process is started by.
pub(crate) const COMMAND: &str = "late-packets";

/// A process that makes packets late, until it is dropped.
#[derive(Debug)]
pub(super) struct Late(Child);

impl Late {
    /// Makes what comes into the network behind `prefix` late.
    pub(super) fn begin(prefix: &[String], ms: u64, jitter_ms: u64, seed: u64) -> Result<Self> {
        let rule = ["-s", "10.77.0.0/24", "!", "-d", "127.0.0.1", "-j", "NFQUEUE"];
        let queue = ["--queue-num", "1", "--queue-bypass"];
        let mut words: Vec<&str> = prefix.iter().skip(1).map(String::as_str).collect();
        let program = prefix.first().context("replicas have no networks here")?;
        words.extend(["iptables", "-w", "-F", "INPUT"]);
        tool::run(program, &words)?;
        words.truncate(words.len() - 4);
        // Clients are not late: they are no part of what is tested.
        words.extend(["iptables", "-w", "-A", "INPUT", "-s", "10.77.0.254", "-j", "ACCEPT"]);
        tool::run(program, &words)?;
        words.truncate(words.len() - 8);
        words.extend(["iptables", "-w", "-A", "INPUT"]);
        words.extend(rule);
        words.extend(queue);
        tool::run(program, &words)?;
        let own = std::env::current_exe().context("find the own program")?;
        let child = Command::new(program)
            .args(&prefix[1..])
            .arg(own)
            .arg(COMMAND)
            .args([ms, jitter_ms, seed].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .spawn()
            .context("start the process that makes packets late")?;
        Ok(Self(child))
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Whether this machine can do it, found by trying in a network of the own.
pub(crate) fn delays_are_possible() -> bool {
    tool::exists("iptables")
        && tool::run("iptables", &["-w", "-N", "trial"]).is_ok()
        && tool::run("iptables", &["-w", "-A", "trial", "-j", "NFQUEUE", "--queue-num", "9"])
            .is_ok()
        && Queue::open().is_ok()
}

/// A packet and when it may go on.
struct Waiting {
    due: Instant,
    message: Message,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        self.due.cmp(&other.due)
    }
}

/// What the process does, until its standard input ends.
///
/// # Errors
///
/// Fails if the queue cannot be taken.
pub(crate) fn serve(ms: u64, jitter_ms: u64, seed: u64) -> Result<()> {
    std::thread::spawn(|| {
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
        std::process::exit(0);
    });
    let mut rng = StdRng::seed_from_u64(seed);
    let mut queue = Queue::open().context("open the queue of packets")?;
    queue.bind(QUEUE).context("take the queue of packets")?;
    queue.set_queue_max_len(QUEUE, WAITING_MAX).context("bound the queue of packets")?;
    queue.set_nonblocking(true);
    let mut waiting: BinaryHeap<Reverse<Waiting>> = BinaryHeap::new();
    loop {
        let mut idle = true;
        match queue.recv() {
            Ok(message) => {
                idle = false;
                let late = Duration::from_millis(ms + rng.random_range(0..=jitter_ms));
                waiting.push(Reverse(Waiting { due: Instant::now() + late, message }));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // More came than it could take: those are lost, as on a real link.
            Err(error) if error.raw_os_error() == Some(105) => {}
            Err(error) => return Err(error).context("take a packet"),
        }
        while waiting.peek().is_some_and(|first| first.0.due <= Instant::now()) {
            let Some(Reverse(Waiting { mut message, .. })) = waiting.pop() else { break };
            message.set_verdict(Verdict::Accept);
            queue.verdict(message).context("let a packet go on")?;
            idle = false;
        }
        if idle {
            std::thread::sleep(GLANCE);
        }
    }
}
