//! From events to operations: invocations with their completions.

use super::{Event, HistoryError, Kind, Op, Process};
use std::collections::HashMap;

/// One operation of a client.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// The request.
    pub invoke: &'a Event,
    /// The answer, if one was recorded.
    pub completion: Option<&'a Event>,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It happened; there is a reply.
    Ok,
    /// It did not happen and never will.
    Fail,
    /// Nobody knows.
    Info,
}

impl<'a> Operation<'a> {
    /// How it ended. Without a completion nobody knows.
    pub fn outcome(&self) -> Outcome {
        match self.completion.map(|event| event.kind) {
            Some(Kind::Ok) => Outcome::Ok,
            Some(Kind::Fail) => Outcome::Fail,
            Some(Kind::Info | Kind::Invoke) | None => Outcome::Info,
        }
    }

    /// The completion with its operation, if it ended well.
    pub fn ok(&self) -> Option<(&'a Event, &'a Op)> {
        self.completion.filter(|event| event.kind == Kind::Ok).map(|event| (event, &event.op))
    }

    /// When it was asked, in nanoseconds.
    pub fn invoked(&self) -> u64 {
        self.invoke.time
    }

    /// When it was known to have happened or failed, in nanoseconds. An unknown
    /// one may still happen, so it never ends.
    pub fn returned(&self) -> Option<u64> {
        self.completion.filter(|event| event.kind != Kind::Info).map(|event| event.time)
    }

    /// The position of its completion in the history; the end of time if it is
    /// unknown.
    pub fn return_index(&self) -> u64 {
        self.completion.filter(|event| event.kind != Kind::Info).map_or(u64::MAX, |e| e.index)
    }

    /// The events concerned, for a report.
    pub fn indices(&self) -> Vec<u64> {
        let completion = self.completion.map(|event| event.index);
        std::iter::once(self.invoke.index).chain(completion).collect()
    }
}

/// Whether an event is paired with another.
fn is_paired(event: &Event) -> bool {
    event.process != Process::Nemesis && !matches!(event.op, Op::Watch(_) | Op::Nemesis(_))
}

/// The operations in the order of their invocations. The events are valid.
pub(super) fn pair(events: &[Event]) -> Vec<Operation<'_>> {
    let mut operations: Vec<Operation<'_>> = Vec::with_capacity(events.len() / 2);
    let mut open: HashMap<Process, usize> = HashMap::new();
    for event in events.iter().filter(|event| is_paired(event)) {
        if event.kind == Kind::Invoke {
            open.insert(event.process, operations.len());
            operations.push(Operation { invoke: event, completion: None });
        } else if let Some(place) = open.remove(&event.process) {
            operations[place].completion = Some(event);
        }
    }
    operations
}

/// What a process is doing.
enum Doing {
    Nothing,
    Operation(std::mem::Discriminant<Op>),
    Gone,
}

/// Checks the rules of histories.
pub(super) fn validate(events: &[Event]) -> Result<(), HistoryError> {
    let mut time = 0;
    let mut processes: HashMap<Process, Doing> = HashMap::new();
    for (place, event) in events.iter().enumerate() {
        let wrong = |reason: String| Err(HistoryError::Impossible { index: event.index, reason });
        if event.index != place as u64 {
            return wrong(format!("stands at place {place}"));
        }
        if event.time < time {
            return wrong(format!("its time {} is before {time}", event.time));
        }
        time = event.time;
        if !is_paired(event) {
            continue;
        }
        let doing = processes.entry(event.process).or_insert(Doing::Nothing);
        let kind = std::mem::discriminant(&event.op);
        *doing = match (&doing, event.kind) {
            (Doing::Nothing, Kind::Invoke) => Doing::Operation(kind),
            (Doing::Operation(asked), Kind::Ok | Kind::Fail) if *asked == kind => Doing::Nothing,
            (Doing::Operation(asked), Kind::Info) if *asked == kind => Doing::Gone,
            (Doing::Gone, _) => {
                return wrong(format!("process {} is used after info", event.process));
            }
            (Doing::Operation(_), Kind::Invoke) => {
                return wrong(format!("process {} has two operations", event.process));
            }
            (Doing::Operation(_), _) => {
                return wrong(format!("{} completes something else", event.op.name()));
            }
            (Doing::Nothing, _) => return wrong("completes nothing".to_owned()),
        };
    }
    Ok(())
}
