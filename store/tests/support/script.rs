//! The language of the scripts in `testscripts/apply`: commands as text.
//!
//! ```text
//! put KEY VALUE [lease=N] [prev] [ignore_value] [ignore_lease]
//! delete KEYS [prev]
//! range KEYS [rev=N] [limit=N] [keys_only] [count_only]
//! > txn [if COMPARE ; ...] [then OP ; ...] [else OP ; ...]
//! grant ID ttl=MS           renew ID...         revoke ID       expire ID@MS...
//! open ID ttl=MS            close ID            expire_sessions ID@MS...
//! compact REV               feature LEVEL
//! ```
//!
//! An OP is a put, delete or range, or a nested transaction in braces. A COMPARE
//! is `created|mod|version|value|lease KEYS =|!=|>|< TARGET`. KEYS are `a` (one
//! key), `a..c` (up to c), `a..` (to the end) or `a*` (a prefix). `x@5000` is a
//! string of 5000 times x, and `""` the empty one. Any command may have
//! `as=SESSION.SEQUENCE` and `acked=SEQUENCE`.

use bytes::Bytes;
use keelstone_store::machine::{
    Command, Compare, Delete, Envelope, Op, Put, Range, Relation, Target, Txn, WriteId,
};
use keelstone_store::{Key, KeyRange, LeaseId, Millis, RangeEnd, Revision, SessionId};
use std::str::FromStr;

type Parsed<T> = Result<T, Box<dyn std::error::Error>>;

/// The words of one command, from left to right.
pub struct Words {
    words: Vec<String>,
    next: usize,
}

impl Words {
    /// The words of a command as the script has it: a literal line is split at
    /// spaces.
    pub fn of(command: &goldenscript::Command) -> Self {
        let mut words: Vec<_> = command.name.split_whitespace().map(str::to_owned).collect();
        for arg in &command.args {
            words.push(match arg {
                goldenscript::Argument::Positional(value) => value.clone(),
                goldenscript::Argument::KeyValue(key, value) => format!("{key}={value}"),
                other => panic!("an argument of a new kind: {other}"),
            });
        }
        Self { words, next: 0 }
    }

    fn peek(&self) -> Option<&str> {
        self.words.get(self.next).map(String::as_str)
    }

    pub fn next(&mut self) -> Parsed<String> {
        let word = self.peek().ok_or("the command ends too early")?.to_owned();
        self.next += 1;
        Ok(word)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        self.next += usize::from(found);
        found
    }

    /// Takes `name=value` out of the rest, wherever it is.
    fn option<T: FromStr<Err: std::error::Error + 'static>>(
        &mut self,
        name: &str,
    ) -> Parsed<Option<T>> {
        let rest = &self.words[self.next..];
        let prefix = format!("{name}=");
        let Some(at) = rest.iter().position(|word| word.starts_with(&prefix)) else {
            return Ok(None);
        };
        let word = self.words.remove(self.next + at);
        Ok(Some(word[prefix.len()..].parse()?))
    }

    /// The value of `name=value`, if that is the next word.
    fn setting<T: FromStr<Err: std::error::Error + 'static>>(
        &mut self,
        name: &str,
    ) -> Parsed<Option<T>> {
        let prefix = format!("{name}=");
        let Some(value) = self.peek().and_then(|word| word.strip_prefix(&prefix)) else {
            return Ok(None);
        };
        let value = value.parse()?;
        self.next += 1;
        Ok(Some(value))
    }

    fn number<T: FromStr<Err: std::error::Error + 'static>>(&mut self) -> Parsed<T> {
        Ok(self.next()?.parse()?)
    }

    fn rest<T>(&mut self, parse: impl Fn(&str) -> Parsed<T>) -> Parsed<Vec<T>> {
        let rest = self.words.split_off(self.next);
        rest.iter().map(|word| parse(word)).collect()
    }

    /// Fails if a word was not understood.
    pub fn end(&self) -> Parsed<()> {
        match self.peek() {
            Some(word) => Err(format!("{word:?} has no meaning here").into()),
            None => Ok(()),
        }
    }
}

/// A command of the machine.
pub fn envelope(words: &mut Words) -> Parsed<Envelope> {
    let place: Option<String> = words.option("as")?;
    let acked_below = words.option("acked")?.unwrap_or(0);
    let write_id = match place.as_deref().map(|place| place.split_once('.')) {
        None => None,
        Some(Some((session, sequence))) => {
            let (session, sequence) = (SessionId(session.parse()?), sequence.parse()?);
            Some(WriteId { session, sequence, acked_below })
        }
        Some(None) => return Err("as=SESSION.SEQUENCE".into()),
    };
    let command = command(words)?;
    words.end()?;
    Ok(Envelope { write_id, command })
}

fn command(words: &mut Words) -> Parsed<Command> {
    let single = |op| Command::Txn(Txn { then: vec![op], ..Txn::default() });
    Ok(match words.peek().unwrap_or_default() {
        "put" | "delete" | "range" => single(op(words)?),
        name => {
            let name = name.to_owned();
            words.next()?;
            match name.as_str() {
                "txn" => Command::Txn(txn(words)?),
                "grant" => {
                    let id = LeaseId(words.number()?);
                    let ttl_ms = words.setting("ttl")?.unwrap_or(0);
                    Command::LeaseGrant { id, ttl_ms }
                }
                "renew" => Command::LeaseRenew { ids: words.rest(|id| Ok(LeaseId(id.parse()?)))? },
                "revoke" => Command::LeaseRevoke { id: LeaseId(words.number()?) },
                "expire" => {
                    let leases = words.rest(stamped)?.into_iter();
                    let leases = leases.map(|(id, at)| (LeaseId(id), at)).collect();
                    Command::LeaseExpire { leases }
                }
                "compact" => Command::Compact { revision: Revision::new(words.number()?) },
                "open" => {
                    let id = SessionId(words.number()?);
                    let ttl_ms = words.setting("ttl")?.unwrap_or(0);
                    Command::SessionOpen { id, ttl_ms }
                }
                "close" => Command::SessionClose { id: SessionId(words.number()?) },
                "expire_sessions" => {
                    let sessions = words.rest(stamped)?.into_iter();
                    let sessions =
                        sessions.map(|(id, at)| (SessionId(id.cast_unsigned()), at)).collect();
                    Command::SessionExpire { sessions }
                }
                "feature" => Command::FeatureLevel { level: words.number()? },
                other => return Err(format!("no command {other:?}").into()),
            }
        }
    })
}

fn stamped(word: &str) -> Parsed<(i64, Millis)> {
    let (id, at) = word.split_once('@').ok_or("ID@MS")?;
    Ok((id.parse()?, Millis(at.parse()?)))
}

/// A transaction, without its name.
pub fn txn(words: &mut Words) -> Parsed<Txn> {
    let mut txn = Txn::default();
    if words.take("if") {
        txn.compares = list(words, compare)?;
    }
    if words.take("then") {
        txn.then = list(words, op)?;
    }
    if words.take("else") {
        txn.otherwise = list(words, op)?;
    }
    Ok(txn)
}

fn list<T>(words: &mut Words, one: fn(&mut Words) -> Parsed<T>) -> Parsed<Vec<T>> {
    let mut all = vec![one(words)?];
    while words.take(";") {
        all.push(one(words)?);
    }
    Ok(all)
}

fn op(words: &mut Words) -> Parsed<Op> {
    let name = words.next()?;
    Ok(match name.as_str() {
        "put" => Op::Put(put(words)?),
        "delete" => {
            let range = keys(&words.next()?);
            Op::Delete(Delete { range, previous: words.take("prev") })
        }
        "range" => Op::Range(range(words)?),
        "{" => {
            let nested = txn(words)?;
            if !words.take("}") {
                return Err("a nested transaction ends with }".into());
            }
            Op::Txn(nested)
        }
        other => return Err(format!("no operation {other:?}").into()),
    })
}

fn put(words: &mut Words) -> Parsed<Put> {
    let mut put = Put::new(Key(string(&words.next()?)), string(&words.next()?));
    loop {
        if let Some(lease) = words.setting("lease")? {
            put.lease = LeaseId(lease);
        } else if words.take("prev") {
            put.previous = true;
        } else if words.take("ignore_value") {
            put.ignore_value = true;
        } else if words.take("ignore_lease") {
            put.ignore_lease = true;
        } else {
            return Ok(put);
        }
    }
}

/// A range read, without its name.
pub fn range(words: &mut Words) -> Parsed<Range> {
    let mut range = Range::all(keys(&words.next()?));
    loop {
        if let Some(revision) = words.setting("rev")? {
            range.revision = Revision::new(revision);
        } else if let Some(limit) = words.setting("limit")? {
            range.limit = limit;
        } else if words.take("keys_only") {
            range.keys_only = true;
        } else if words.take("count_only") {
            range.count_only = true;
        } else {
            return Ok(range);
        }
    }
}

fn compare(words: &mut Words) -> Parsed<Compare> {
    let property = words.next()?;
    let range = keys(&words.next()?);
    let relation = match words.next()?.as_str() {
        "=" => Relation::Equal,
        "!=" => Relation::NotEqual,
        ">" => Relation::Greater,
        "<" => Relation::Less,
        other => return Err(format!("no relation {other:?}").into()),
    };
    let target = match property.as_str() {
        "created" => Target::Created(Revision::new(words.number()?)),
        "mod" => Target::Modified(Revision::new(words.number()?)),
        "version" => Target::Version(words.number()?),
        "value" => Target::Value(string(&words.next()?)),
        "lease" => Target::Lease(LeaseId(words.number()?)),
        other => return Err(format!("no property {other:?}").into()),
    };
    Ok(Compare { range, relation, target })
}

fn keys(word: &str) -> KeyRange {
    if let Some(prefix) = word.strip_suffix('*') {
        return KeyRange::prefix(string(prefix));
    }
    match word.split_once("..") {
        None => KeyRange::single(&Key(string(word))),
        Some((start, "")) => KeyRange { start: string(start), end: RangeEnd::Unbounded },
        Some((start, until)) => {
            KeyRange { start: string(start), end: RangeEnd::Until(string(until)) }
        }
    }
}

fn string(word: &str) -> Bytes {
    if word == "\"\"" {
        return Bytes::new();
    }
    match word.split_once('@').map(|(unit, times)| (unit, times.parse())) {
        Some((unit, Ok(times))) => unit.repeat(times).into_bytes().into(),
        _ => word.to_owned().into_bytes().into(),
    }
}
