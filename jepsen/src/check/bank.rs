//! Bank accounts: transfers between keys keep the sum.
//!
//! Every answer with all accounts, at whatever revision and from whichever
//! replica, has the sum that the bank began with, and no account below zero
//! unless that is allowed (T10). Answers before the accounts were opened are not
//! judged; after that, none may be missing.

use super::{Case, Context, Verdict};
use crate::history::{Action, ActionReply, History, Op, prefix_end};

/// The checker's name.
pub const NAME: &str = "bank";

/// Judges all answers that show the whole bank.
pub fn check(history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let prefix = context.bank_prefix.as_str();
    let end = prefix_end(prefix);
    // The event after which the accounts are known to be there, and how many.
    let mut opened: Option<(u64, usize)> = None;
    for operation in history.operations() {
        let Some((event, Op::Txn(done))) = operation.ok() else { continue };
        let (Op::Txn(txn), Some(reply)) = (&operation.invoke.op, &done.reply) else { continue };
        for (action, result) in txn.branch(reply.succeeded).iter().zip(&reply.results) {
            let (Action::Range { key, end: to, .. }, ActionReply::Range { kvs, more: false, .. }) =
                (action, result)
            else {
                continue;
            };
            if key != prefix || to.as_deref() != Some(end.as_str()) {
                continue;
            }
            let past = !txn.linearizable || txn.revision.is_some();
            let before = opened.is_none_or(|(at, _)| operation.invoke.index < at) || past;
            if kvs.is_empty() && before {
                continue;
            }
            case.judged.operations += 1;
            case.judged.events += kvs.len() as u64;
            case.judged.keys = case.judged.keys.max(kvs.len() as u64);
            judge(kvs, &operation.indices(), context, &mut case);
            if opened.is_some_and(|(_, count)| count != kvs.len()) {
                let text = format!("there are {} accounts", kvs.len());
                case.violation("T10", operation.indices(), text);
            }
            opened.get_or_insert((event.index, kvs.len()));
        }
    }
    if context.bank_total == 0 {
        case.unknown("the sum of all balances is not known");
    }
    let judged = case.judged.operations;
    case.close("answer with all accounts", judged)
}

fn judge(kvs: &[crate::history::KeyValue], events: &[u64], context: &Context, case: &mut Case) {
    let mut sum: i64 = 0;
    for kv in kvs {
        let Ok(balance) = kv.value.parse::<i64>() else {
            let text = format!("account {:?} has no balance: {:?}", kv.key, kv.value);
            case.violation("T10", events.to_vec(), text);
            return;
        };
        sum = sum.saturating_add(balance);
        if balance < 0 && !context.bank_overdraft {
            let text = format!("account {:?} has {balance}", kv.key);
            case.violation("T10", events.to_vec(), text);
        }
    }
    if context.bank_total != 0 && sum != context.bank_total {
        let text = format!("all balances are {sum} in sum, not {}", context.bank_total);
        case.violation("T10", events.to_vec(), text);
    }
}
