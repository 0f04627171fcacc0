//! What a test wants to go wrong, scripted: which operation, on which keys, how
//! often.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Rules that may be in force at once.
const RULES_MAX: usize = 1024;

/// A request to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Any of them.
    Any,
    /// Writing an object.
    Put,
    /// Reading one.
    Get,
    /// Asking for its size.
    Head,
    /// Listing.
    List,
    /// Removing one.
    Delete,
}

/// A byte of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Counted from the first byte.
    FromStart(usize),
    /// Counted from the last byte.
    FromEnd(usize),
}

impl Place {
    /// The offset in an object of `len` bytes, if there is such a byte.
    pub fn in_object_of(self, len: usize) -> Option<usize> {
        match self {
            Self::FromStart(at) => (at < len).then_some(at),
            Self::FromEnd(back) => len.checked_sub(back.checked_add(1)?),
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 503 `SlowDown`; nothing is done.
    SlowDown,
    /// 500 `InternalError`; nothing is done.
    InternalError,
    /// The write is done, and then answered with 500.
    ErrorAfterCommit,
    /// 409 `ConditionalRequestConflict`; nothing is done.
    Conflict,
    /// 403 `AccessDenied`; nothing is done.
    AccessDenied,
    /// The request takes this much longer.
    Slow(Duration),
    /// The connection breaks in the middle of the body of the answer.
    Cut,
    /// A bit of the body of the answer is another.
    Flip(Place),
}

/// A fault, and when it strikes.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The operation.
    pub operation: Operation,
    /// Only on keys that begin with this.
    pub prefix: String,
    /// So many matching requests go well first.
    pub after: u32,
    /// So many go wrong then.
    pub times: u32,
    /// What goes wrong.
    pub fault: Fault,
}

impl Rule {
    /// The fault strikes the next matching request, once.
    pub fn once(operation: Operation, prefix: &str, fault: Fault) -> Self {
        Self::times(operation, prefix, fault, 1)
    }

    /// The fault strikes the next matching requests.
    pub fn times(operation: Operation, prefix: &str, fault: Fault, times: u32) -> Self {
        Self { operation, prefix: prefix.to_owned(), after: 0, times, fault }
    }

    /// `after` matching requests go well first.
    #[must_use]
    pub fn after(self, after: u32) -> Self {
        Self { after, ..self }
    }

    fn matches(&self, operation: Operation, key: &str) -> bool {
        let same = self.operation == Operation::Any || self.operation == operation;
        same && self.times > 0 && key.starts_with(&self.prefix)
    }
}

/// The rules in force, and how many requests were served.
#[derive(Debug, Default)]
pub struct Faults {
    script: Mutex<Script>,
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<Rule>,
    requests: u64,
    struck: u64,
}

impl Faults {
    /// Adds a rule. The first that matches a request strikes.
    ///
    /// # Panics
    ///
    /// With more than a thousand rules: a script has a few.
    pub fn add(&self, rule: Rule) {
        let mut script = self.lock();
        script.rules.retain(|rule| rule.times > 0);
        assert!(script.rules.len() < RULES_MAX, "too many rules");
        script.rules.push(rule);
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// Faults that struck so far.
    pub fn struck(&self) -> u64 {
        self.lock().struck
    }

    /// What goes wrong with this request.
    pub(super) fn strike(&self, operation: Operation, key: &str) -> Option<Fault> {
        let mut script = self.lock();
        script.requests += 1;
        let rule = script.rules.iter_mut().find(|rule| rule.matches(operation, key))?;
        if rule.after > 0 {
            rule.after -= 1;
            return None;
        }
        rule.times -= 1;
        let fault = rule.fault;
        script.struck += 1;
        Some(fault)
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_strikes_as_often_as_it_says() {
        let faults = Faults::default();
        faults.add(Rule::times(Operation::Put, "a/", Fault::SlowDown, 2).after(1));
        let strike = |operation, key| faults.strike(operation, key);
        assert_eq!(strike(Operation::Put, "b/x"), None);
        assert_eq!(strike(Operation::Get, "a/x"), None);
        assert_eq!(strike(Operation::Put, "a/x"), None);
        assert_eq!(strike(Operation::Put, "a/x"), Some(Fault::SlowDown));
        assert_eq!(strike(Operation::Put, "a/y"), Some(Fault::SlowDown));
        assert_eq!(strike(Operation::Put, "a/y"), None);
        assert_eq!((faults.requests(), faults.struck()), (6, 2));
    }
}
