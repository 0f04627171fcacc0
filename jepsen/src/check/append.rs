//! List-append transactions, judged by the crate `adya`: Elle's method, which
//! finds forbidden cycles of dependencies and does not believe in revisions.
//!
//! The keys that begin with [`Context::append_prefix`] have lists of numbers,
//! separated by commas. A transaction appends by putting a list that is one
//! longer than what it read, guarded by a compare; what it reads is in single-key
//! ranges of the same transaction. From a put only the last number is believed to
//! be new: if what stands before is not what was there, the reads that follow
//! show it.
//!
//! Unknown outcomes are `info` for `adya` too. Compares that did not hold make a
//! transaction one that only read, or nothing at all.

use super::{Case, Context, Verdict};
use crate::history::{
    Action, ActionReply, History, Op, Operation, Outcome, Process, Txn, TxnReply,
};
use adya::history::{Interner, Mop, Op as ElleOp, OpType, ReadValue, Scalar};
use adya::{Opts, Valid, Workload};
use std::time::Duration;

/// The checker's name.
pub const NAME: &str = "append";

/// The model that histories have to fit.
const MODEL: &str = "strict-serializable";

/// Judges the list-append transactions of a history.
pub fn check(history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let mut built = Built::default();
    for operation in history.operations() {
        if let Op::Txn(txn) = &operation.invoke.op
            && is_append(txn, &context.append_prefix)
        {
            built.add(&operation, txn, &mut case);
        }
    }
    // Answers stand in the order in which they came: real time counts.
    built.ops.sort_by_key(|op| op.index);
    let answered = built.answered;
    case.judged.operations = built.ops.iter().filter(|op| op.kind == OpType::Invoke).count() as u64;
    case.judged.events = answered;
    let elle = adya::History::from_ops(built.ops, built.interner);
    let timeout = Duration::from_millis(context.wgl_ms_max);
    let opts = Opts { models: vec![MODEL.to_owned()], timeout, ..Opts::default() };
    if answered > 0 {
        let report = adya::check(&elle, Workload::ListAppend, &opts);
        for anomaly in report.anomalies.values().flatten() {
            if report.valid == Valid::False {
                case.violation(&anomaly.kind, anomaly.ops.clone(), anomaly.explanation.clone());
            }
        }
        match report.valid {
            Valid::True => {}
            Valid::False if case.violations() > 0 => {}
            Valid::False => {
                case.violation("adya", Vec::new(), format!("{:?}", report.anomaly_types));
            }
            Valid::Unknown => case.unknown(format!("adya: {:?}", report.anomaly_types)),
        }
    }
    case.close("answered list-append transaction", answered)
}

/// Whether all that a transaction touches are lists, one key at a time.
fn is_append(txn: &Txn, prefix: &str) -> bool {
    let mut actions = txn.success.iter().chain(&txn.failure);
    let any = !txn.success.is_empty();
    any && txn.revision.is_none()
        && txn.linearizable
        && actions.all(|action| match action {
            Action::Put { key, .. } | Action::Range { key, end: None, .. } => {
                key.starts_with(prefix)
            }
            Action::Range { .. } | Action::Delete { .. } => false,
        })
}

#[derive(Default)]
struct Built {
    ops: Vec<ElleOp>,
    interner: Interner,
    answered: u64,
}

impl Built {
    fn add(&mut self, operation: &Operation<'_>, txn: &Txn, case: &mut Case) {
        let reply = match operation.ok() {
            Some((_, Op::Txn(done))) => done.reply.as_ref(),
            _ => None,
        };
        let succeeded = reply.is_none_or(|reply| reply.succeeded);
        let kind = match operation.outcome() {
            Outcome::Ok if !succeeded && txn.failure.is_empty() => OpType::Fail,
            Outcome::Ok => OpType::Ok,
            Outcome::Fail => OpType::Fail,
            Outcome::Info => OpType::Info,
        };
        let actions = if kind == OpType::Ok { txn.branch(succeeded) } else { &txn.success };
        let Some(asked) = self.mops(actions, None) else {
            let why = "a list has something that is no number";
            case.unknown(format!("event {}: {why}", operation.invoke.index));
            return;
        };
        let done = if kind == OpType::Ok { self.mops(actions, reply) } else { None };
        let done = done.unwrap_or_else(|| asked.clone());
        self.push(operation.invoke, OpType::Invoke, asked);
        if let Some(completion) = operation.completion {
            self.answered += u64::from(kind == OpType::Ok);
            self.push(completion, kind, done);
        }
    }

    fn push(&mut self, event: &crate::history::Event, kind: OpType, value: Vec<Mop>) {
        let process = match event.process {
            Process::Client(number) => i64::try_from(number).ok(),
            Process::Nemesis => None,
        };
        let time = i64::try_from(event.time).ok();
        self.ops.push(ElleOp { index: event.index, kind, process, value, time });
    }

    fn mops(&mut self, actions: &[Action], reply: Option<&TxnReply>) -> Option<Vec<Mop>> {
        let mut mops = Vec::with_capacity(actions.len());
        for (place, action) in actions.iter().enumerate() {
            match action {
                Action::Put { key, value, .. } => {
                    let last = value.rsplit(',').next()?.parse().ok()?;
                    let key = self.interner.intern(Scalar::Str(key.clone()));
                    let value = self.interner.intern(Scalar::Int(last));
                    mops.push(Mop::Append { key, value });
                }
                Action::Range { key, .. } => {
                    let value = match reply.and_then(|reply| reply.results.get(place)) {
                        Some(ActionReply::Range { kvs, .. }) => self.list(kvs.first())?,
                        Some(ActionReply::Put { .. } | ActionReply::Delete { .. }) | None => {
                            ReadValue::Nil
                        }
                    };
                    let key = self.interner.intern(Scalar::Str(key.clone()));
                    mops.push(Mop::Read { key, value });
                }
                Action::Delete { .. } => return None,
            }
        }
        Some(mops)
    }

    fn list(&mut self, kv: Option<&crate::history::KeyValue>) -> Option<ReadValue> {
        let Some(kv) = kv else { return Some(ReadValue::List(Vec::new())) };
        let numbers = kv.value.split(',').map(|number| {
            number.parse().ok().map(|number| self.interner.intern(Scalar::Int(number)))
        });
        Some(ReadValue::List(numbers.collect::<Option<_>>()?))
    }
}
