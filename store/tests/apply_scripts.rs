//! What each command does, as scripts: `testscripts/apply/*`.
//!
//! After a deliberate change run with `UPDATE_GOLDENFILES=1` and read what has
//! changed; the language is described in `support/script.rs`. Besides its
//! commands there are:
//!
//! * `now MS`: the time of the batches that follow;
//! * `begin` and `commit`: the commands between are one batch;
//! * `read KEYS ...` and `> read_txn ...`: reads outside of the log;
//! * `> check COMMAND`: what a server says of the command before the log;
//! * `head`: the position of the store.

mod support;

use keelstone_store::machine::{Batch, Envelope, check, read_range, read_txn};
use keelstone_store::{Millis, Revision};
use std::error::Error;
use std::path::Path;
use support::memory::Memory;
use support::{print, script};

#[derive(Default)]
struct Runner {
    store: Memory,
    now: Millis,
    batch: Option<Vec<Envelope>>,
}

impl Runner {
    fn apply(&mut self, commands: Vec<Envelope>) -> String {
        let before = self.store.head.clone();
        let transition = self.store.apply(&Batch { now: self.now, commands });
        print::transition(&before, &transition)
    }

    fn read(&self, words: &mut script::Words) -> Result<String, Box<dyn Error>> {
        let range = script::range(words)?;
        words.end()?;
        let Ok(found) = read_range(&self.store, &range);
        Ok(match found {
            Ok(reply) => print::range(&reply, 0),
            Err(rejection) => format!("refused: {rejection}\n"),
        })
    }

    fn read_txn(&self, words: &mut script::Words) -> Result<String, Box<dyn Error>> {
        let txn = script::txn(words)?;
        words.end()?;
        let Ok(found) = read_txn(&self.store, &txn);
        Ok(match found {
            Ok(reply) => print::txn(&reply, 0),
            Err(rejection) => format!("refused: {rejection}\n"),
        })
    }
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut words = script::Words::of(command);
        let name = command.name.split_whitespace().next().unwrap_or_default();
        if matches!(name, "now" | "begin" | "commit" | "read" | "read_txn" | "check" | "head") {
            words.next()?;
        }
        match name {
            "now" => self.now = Millis(words.next()?.parse()?),
            "begin" => self.batch = Some(Vec::new()),
            "commit" => {
                let commands = self.batch.take().ok_or("commit without begin")?;
                return Ok(self.apply(commands));
            }
            "read" => return self.read(&mut words),
            "read_txn" => return self.read_txn(&mut words),
            "check" => {
                let envelope = script::envelope(&mut words)?;
                return Ok(match check::envelope(&envelope) {
                    Ok(()) => "fine\n".to_owned(),
                    Err(violation) => format!("{violation}\n"),
                });
            }
            "head" => return Ok(print::head(&self.store.head)),
            _ => {
                let envelope = script::envelope(&mut words)?;
                match &mut self.batch {
                    Some(batch) => batch.push(envelope),
                    None => return Ok(self.apply(vec![envelope])),
                }
            }
        }
        Ok(String::new())
    }
}

fn run(name: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/apply");
    goldenscript::run(&mut Runner::default(), directory.join(name)).expect("the script runs");
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn every_script_is_run() {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/apply");
            let names = std::fs::read_dir(directory).expect("the scripts are there");
            let mut names: Vec<_> = names
                .map(|entry| entry.expect("it can be read").file_name().into_string())
                .collect::<Result<_, _>>()
                .expect("names are plain");
            names.sort();
            let mut run = vec![$(stringify!($name)),*];
            run.sort_unstable();
            assert_eq!(names, run);
        }
    };
}

scripts!(
    batch,
    compact,
    compare,
    delete,
    duplicate,
    feature,
    hash,
    lease,
    lease_expire,
    limits,
    nested,
    put,
    range,
    read,
    refused,
    revision,
    session,
    session_end,
    session_replan,
    session_window,
    time,
);

/// Scripts start from a fresh store.
#[test]
fn a_fresh_store_is_at_the_first_revision() {
    let runner = Runner::default();
    assert_eq!(runner.store.head.revision, Revision::FIRST);
}
