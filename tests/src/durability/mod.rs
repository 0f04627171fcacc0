//! What must survive a process that is killed and a machine that loses power.
//!
//! A *subject* is something that promises durability: the log, a state engine,
//! or both together as a replica uses them. Its *writer* is a process of its own
//! that performs numbered operations and notes in a [`Ledger`], outside of the
//! subject's disk, up to which number they were acknowledged. Each operation
//! follows from the seed and its number alone, so afterwards the *verifier* can
//! tell from the number what has to be there: everything acknowledged, perhaps
//! some more, and nothing else.
//!
//! Used by the programs `crash` (SIGKILL) and `powercut` (a copied disk).

mod engine;
mod history;
mod ledger;
mod log;
mod random;
mod replica;

pub use ledger::Ledger;
pub use random::{Random, fresh_seed};

use keelstone_store::disk::EngineKind;
use std::fmt;
use std::os::unix::process::parent_id;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

/// What is written to and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The write-ahead log.
    Log,
    /// A state engine.
    Engine(EngineKind),
    /// sled whose own flush is taken for durable. It is not: shows that the
    /// power-cut harness can fail.
    SledWithoutFsync,
    /// Log and state as a replica keeps them.
    Replica(EngineKind),
}

impl Subject {
    /// All subjects that this build has.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Log, Self::Engine(EngineKind::Fjall)];
        if EngineKind::Sled.is_available() {
            all.extend([Self::Engine(EngineKind::Sled), Self::SledWithoutFsync]);
        }
        all.push(Self::Replica(EngineKind::Fjall));
        all
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log => f.write_str("log"),
            Self::Engine(kind) => write!(f, "{kind}"),
            Self::SledWithoutFsync => f.write_str("sled-without-fsync"),
            Self::Replica(kind) => write!(f, "replica-{kind}"),
        }
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::all().into_iter().find(|subject| subject.to_string() == name);
        known.ok_or_else(|| format!("no subject {name:?} in this build"))
    }
}

/// Why a verification failed.
#[derive(Debug)]
pub enum Loss {
    /// The subject could not be opened or read.
    Unreadable(String),
    /// What is there is not what has to be.
    Wrong(String),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(detail) => write!(f, "cannot be read: {detail}"),
            Self::Wrong(detail) => write!(f, "lost or wrong: {detail}"),
        }
    }
}

/// Performs the operations after number `from` on the subject in `dir`, which
/// has all up to it, until the process is killed.
///
/// # Errors
///
/// Fails if the subject does.
pub fn write(
    subject: Subject,
    dir: &Path,
    seed: u64,
    from: u64,
    ledger: Ledger,
) -> anyhow::Result<()> {
    end_with_parent();
    match subject {
        Subject::Log => log::write(dir, seed, from, ledger),
        Subject::Engine(kind) => engine::write(dir, kind, false, seed, from, &ledger),
        Subject::SledWithoutFsync => {
            engine::write(dir, EngineKind::Sled, true, seed, from, &ledger)
        }
        Subject::Replica(kind) => replica::write(dir, kind, seed, from, ledger),
    }
}

/// Ends this process when the one that started it is gone: nobody else would.
fn end_with_parent() {
    let parent = parent_id();
    thread::spawn(move || {
        while parent_id() == parent {
            thread::sleep(Duration::from_millis(200));
        }
        std::process::exit(1);
    });
}

/// Opens the subject in `dir`, and returns the number of the operation up to
/// which everything is there: not less than `acknowledged`.
///
/// # Errors
///
/// See [`Loss`].
pub fn verify(subject: Subject, dir: &Path, seed: u64, acknowledged: u64) -> Result<u64, Loss> {
    // On some damage sled panics instead of answering.
    let verified =
        catch_unwind(AssertUnwindSafe(|| open_and_compare(subject, dir, seed, acknowledged)));
    verified.unwrap_or_else(|_| Err(Loss::Unreadable("reading it panicked".to_owned())))
}

fn open_and_compare(
    subject: Subject,
    dir: &Path,
    seed: u64,
    acknowledged: u64,
) -> Result<u64, Loss> {
    match subject {
        Subject::Log => log::verify(dir, seed, acknowledged),
        Subject::Engine(kind) => engine::verify(dir, kind, false, seed, acknowledged),
        Subject::SledWithoutFsync => {
            engine::verify(dir, EngineKind::Sled, true, seed, acknowledged)
        }
        Subject::Replica(kind) => replica::verify(dir, kind, seed, acknowledged),
    }
}
