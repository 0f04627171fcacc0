//! Watches: every change once, in order, whole, and nothing else (W1 to W12).
//!
//! Each stream is followed response by response and compared with the log of
//! revisions that [`replay`](super::replay) found. The rules, with the names
//! that violations carry:
//!
//! * W1 filter: only keys of the span;
//! * W2 ordered: revisions never go back, within and over responses;
//! * W3 unique: no change twice;
//! * W4 atomic: all changes of a revision in one response;
//! * W5 reliable: between its start and its newest revision, a stream has exactly
//!   the changes of the log;
//! * W6 resumable: a reader that goes on right after what it has, on whichever
//!   node, gets exactly the rest (each stream by W5, from the start it asked for);
//! * W7 bookmarkable: progress R comes after all up to R, and before all later;
//! * W8: nothing below the start; a start of 0 stands for what comes after the
//!   creation, so no write asked after the creation may be below it;
//! * W9: a start below the compacted revision ends the watch with that revision,
//!   and only such a start does;
//! * W10: the value before is what the log has;
//! * W11 eventually: a live stream is not further behind than a bound once no
//!   fault is at work;
//! * W12: nothing before the creation, nothing after the end.

use super::replay::{self, Log, LogChange, Record};
use super::{Case, Context, Verdict};
use crate::history::{
    Change, Event, FaultPhase, History, Kind, Op, Outcome, Watch, WatchStep, spans,
};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The checker's name.
pub const NAME: &str = "watch";

/// Judges all watches of a history.
pub fn check(history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let log = replay::log(history, context);
    compare(history, &log, &mut case, true);
    judge_creations(history, &mut case);
    judge_compaction(history, &mut case);
    judge_lag(history, context, &log, &mut case);
    let responses = case.judged.operations;
    case.close("response of a watch", responses)
}

/// Compares what watches delivered with the log, for revision replay.
pub(super) fn compare_with_log(
    history: &History,
    _context: &Context,
    log: &Log<'_>,
    case: &mut Case,
) {
    compare(history, log, case, false);
}

fn compare<'a>(history: &'a History, log: &Log<'a>, case: &mut Case, count: bool) {
    let mut streams: BTreeMap<u64, Stream<'a>> = BTreeMap::new();
    for (event, watch) in history.watches() {
        let stream = streams.entry(watch.watch).or_insert_with(|| Stream::new(watch));
        if count && event.kind == Kind::Ok {
            case.judged.operations += 1;
            if let WatchStep::Changes(changes) = &watch.step {
                case.judged.events += changes.len() as u64;
            }
        }
        stream.take(event, watch, log, case);
    }
    if count {
        case.judged.keys = streams.len() as u64;
    }
}

/// One stream of one watch.
struct Stream<'a> {
    watch: &'a Watch,
    created: bool,
    over: bool,
    /// The first revision that was neither delivered nor passed.
    next: Option<u64>,
    /// The newest progress.
    progress: u64,
    /// The newest response with changes, and its newest revision.
    last: (u64, u64),
    /// The keys of the newest revision.
    newest_keys: HashSet<&'a str>,
}

impl<'a> Stream<'a> {
    fn new(watch: &'a Watch) -> Self {
        Self {
            watch,
            created: false,
            over: false,
            next: None,
            progress: 0,
            last: (0, 0),
            newest_keys: HashSet::new(),
        }
    }

    fn name(&self) -> String {
        format!("watch {} of reader {}", self.watch.watch, self.watch.reader)
    }

    fn take(&mut self, event: &'a Event, watch: &'a Watch, log: &Log<'a>, case: &mut Case) {
        if event.kind != Kind::Ok {
            return;
        }
        if self.over && watch.step != WatchStep::Closed {
            case.violation(
                "W12",
                vec![event.index],
                format!("{} goes on after its end", self.name()),
            );
        }
        match &watch.step {
            WatchStep::Create => {}
            WatchStep::Created { start } => {
                if watch.start != 0 && *start != watch.start {
                    let text = format!("{} begins at {start}, not {}", self.name(), watch.start);
                    case.violation("W8", vec![event.index], text);
                }
                self.created = true;
                self.next.get_or_insert(*start);
            }
            WatchStep::Changes(changes) => self.changes(event, changes, log, case),
            WatchStep::Progress(revision) => self.advance_to(event, *revision, log, case),
            WatchStep::Canceled { .. } | WatchStep::Closed => self.over = true,
        }
    }

    fn changes(&mut self, event: &Event, changes: &'a [Change], log: &Log<'a>, case: &mut Case) {
        if !self.created {
            let text = format!("{} has changes before it was created", self.name());
            case.violation("W12", vec![event.index], text);
            self.created = true;
        }
        let next = changes.first().map_or(1, |change| change.revision);
        self.next.get_or_insert(if self.watch.start == 0 { next } else { self.watch.start });
        for group in changes.chunk_by(|one, other| one.revision == other.revision) {
            self.revision(event, group, log, case);
        }
        self.last.0 = event.index;
    }

    /// All changes of one revision in one response.
    fn revision(&mut self, event: &Event, group: &'a [Change], log: &Log<'a>, case: &mut Case) {
        let Some(revision) = group.first().map(|change| change.revision) else { return };
        let next = self.next.unwrap_or(revision);
        if revision < next {
            self.came_late(event, revision, group, case);
            return;
        }
        self.pass(event, revision - 1, log, case);
        self.newest_keys.clear();
        for change in group {
            if !spans(&self.watch.key, self.watch.end.as_deref(), &change.key) {
                let text = format!("{} delivers key {:?} beyond its span", self.name(), change.key);
                case.violation("W1", vec![event.index], text);
            }
            if !self.newest_keys.insert(&change.key) {
                let text = format!(
                    "{} delivers key {:?} at revision {revision} twice",
                    self.name(),
                    change.key
                );
                case.violation("W3", vec![event.index], text);
            }
            self.content(event, change, log, case);
        }
        self.missing(event, revision, log, case);
        self.last = (event.index, revision);
        self.next = Some(revision + 1);
    }

    /// A revision that the stream has been past already.
    fn came_late(&self, event: &Event, revision: u64, group: &[Change], case: &mut Case) {
        let (before, newest) = self.last;
        let events = vec![before, event.index];
        let name = self.name();
        if revision < self.watch.start {
            let text = format!("{name} delivers revision {revision}, below {}", self.watch.start);
            case.violation("W8", vec![event.index], text);
        } else if revision <= self.progress {
            let text = format!(
                "{name} delivers revision {revision} after it said that all up to {} was sent",
                self.progress
            );
            case.violation("W7", events, text);
        } else if revision == newest {
            let again = group.iter().any(|change| self.newest_keys.contains(change.key.as_str()));
            let (rule, what) = if again { ("W3", "again") } else { ("W4", "in two responses") };
            case.violation(rule, events, format!("{name} delivers revision {revision} {what}"));
        } else {
            let text = format!("{name} delivers revision {revision} after {newest}");
            case.violation("W2", events, text);
        }
    }

    fn advance_to(&mut self, event: &Event, revision: u64, log: &Log<'a>, case: &mut Case) {
        if revision < self.last.1 {
            let text = format!(
                "{} says that all up to {revision} was sent, after revision {}",
                self.name(),
                self.last.1
            );
            case.violation("W7", vec![self.last.0, event.index], text);
            return;
        }
        self.pass(event, revision, log, case);
        self.progress = self.progress.max(revision);
    }

    /// Goes past all revisions up to this one, which have to have no change of
    /// this span.
    fn pass(&mut self, event: &Event, to: u64, log: &Log<'a>, case: &mut Case) {
        let Some(next) = self.next else { return };
        for revision in next..=to.min(log.newest()) {
            self.newest_keys.clear();
            self.missing(event, revision, log, case);
        }
        self.next = Some(next.max(to.saturating_add(1)));
    }

    /// Changes of the log that the stream should have had at this revision.
    fn missing(&self, event: &Event, revision: u64, log: &Log<'a>, case: &mut Case) {
        let Some(entry) = log.get(revision) else { return };
        for change in entry.certain() {
            let wanted = spans(&self.watch.key, self.watch.end.as_deref(), change.key);
            if wanted && !self.newest_keys.contains(change.key) {
                let mut events = author(entry.source).into_iter().collect::<Vec<_>>();
                events.push(event.index);
                let text = format!(
                    "{} went past revision {revision} without its change of {:?}",
                    self.name(),
                    change.key
                );
                case.violation("W5", events, text);
            }
        }
    }

    /// A change that was delivered is one of the log.
    fn content(&self, event: &Event, change: &'a Change, log: &Log<'a>, case: &mut Case) {
        let Some(entry) = log.get(change.revision).filter(|entry| entry.sure) else { return };
        let known = entry.changes.iter().find(|known| known.key == change.key);
        let doubtful = entry.is_doubtful(&change.key);
        let mut events = author(entry.source).into_iter().collect::<Vec<_>>();
        events.push(event.index);
        let what = format!(
            "{} delivers for key {:?} at revision {}",
            self.name(),
            change.key,
            change.revision
        );
        let Some(LogChange { before, after, .. }) = known else {
            // A doubtful key may have been there to be deleted.
            if !doubtful || change.kv.is_some() {
                case.violation("W5", events, format!("{what} a change that did not happen"));
            }
            return;
        };
        let delivered = change.kv.as_ref().map(Record::of);
        // Of a doubtful key it is not known how old it is.
        let content = |record: &Record<'a>| (record.value, record.modified, record.lease);
        let same = delivered == *after
            || (doubtful && delivered.as_ref().map(content) == after.as_ref().map(content));
        if !same {
            case.violation("W5", events, format!("{what} another change than happened"));
        } else if self.watch.prev && !doubtful && change.prev.as_ref().map(Record::of) != *before {
            case.violation("W10", events, format!("{what} another value before than there was"));
        }
    }
}

fn author(source: replay::Source) -> Option<u64> {
    match source {
        replay::Source::Transaction(event) | replay::Source::Operation(event) => Some(event),
        replay::Source::LeaseEnd | replay::Source::Unknown => None,
    }
}

/// W8: what is asked after a watch without a start was created belongs to it.
fn judge_creations(history: &History, case: &mut Case) {
    // The least revision of all writes that were asked at or after an event.
    let mut least: Vec<(u64, u64)> = Vec::new();
    for operation in history.operations().iter().rev() {
        let Some((_, Op::Txn(txn))) = operation.ok() else { continue };
        let Some(reply) = txn.reply.as_ref().filter(|_| !txn.is_read()) else { continue };
        let wrote = reply.results.iter().any(|result| match result {
            crate::history::ActionReply::Put { .. } => true,
            crate::history::ActionReply::Delete { deleted, .. } => *deleted > 0,
            crate::history::ActionReply::Range { .. } => false,
        });
        let below = least.last().map_or(u64::MAX, |(_, revision)| *revision);
        if wrote && reply.revision < below {
            least.push((operation.invoke.index, reply.revision));
        }
    }
    for (event, watch) in history.watches() {
        let WatchStep::Created { start } = watch.step else { continue };
        if watch.start != 0 || event.kind != Kind::Ok {
            continue;
        }
        let missed =
            least.iter().find(|(asked, revision)| *asked > event.index && *revision < start);
        if let Some((asked, revision)) = missed {
            let text = format!(
                "watch {} begins at revision {start}, but a write asked after it was created took \
                 revision {revision}",
                watch.watch
            );
            case.violation("W8", vec![event.index, *asked], text);
        }
    }
}

/// W9: watches end for compaction exactly if what they need was forgotten.
fn judge_compaction(history: &History, case: &mut Case) {
    let mut asked = 0;
    let mut done: Vec<(u64, u64)> = Vec::new();
    for operation in history.operations() {
        if let Op::Compact { revision } = operation.invoke.op
            && operation.outcome() != Outcome::Fail
        {
            asked = asked.max(revision);
            if operation.outcome() == Outcome::Ok {
                done.push((operation.return_index(), revision));
            }
        }
    }
    done.sort_unstable();
    let mut newest = 0;
    for (_, revision) in &mut done {
        newest = newest.max(*revision);
        *revision = newest;
    }
    // What was forgotten for certain when a watch was asked for.
    let mut forgotten: HashMap<u64, u64> = HashMap::new();
    let mut places: HashMap<u64, u64> = HashMap::new();
    for (event, watch) in history.watches() {
        let place = places.entry(watch.watch).or_insert(watch.start);
        match &watch.step {
            WatchStep::Create => {
                let before = done.partition_point(|(at, _)| *at < event.index);
                let revision = before.checked_sub(1).map_or(0, |place| done[place].1);
                forgotten.insert(watch.watch, revision);
            }
            WatchStep::Changes(changes) => {
                judge_start(watch, event, &forgotten, case);
                *place = changes.last().map_or(*place, |change| change.revision + 1);
            }
            WatchStep::Progress(revision) => {
                judge_start(watch, event, &forgotten, case);
                *place = (*place).max(revision + 1);
            }
            WatchStep::Canceled { reason, compact_revision } if reason == "compacted" => {
                let claimed = compact_revision.unwrap_or(0);
                if claimed > asked || claimed <= *place {
                    let text = format!(
                        "watch {} at revision {place} was ended as compacted below {claimed}; at \
                         most {asked} was asked for",
                        watch.watch
                    );
                    case.violation("W9", vec![event.index], text);
                }
            }
            _ => {}
        }
    }
}

/// A watch that was asked to begin below what was forgotten delivers nothing.
fn judge_start(watch: &Watch, event: &Event, forgotten: &HashMap<u64, u64>, case: &mut Case) {
    let forgotten = forgotten.get(&watch.watch).copied().unwrap_or(0);
    if watch.start != 0 && watch.start < forgotten {
        let text = format!(
            "watch {} goes on from revision {}, which was compacted below {forgotten} before it \
             was asked",
            watch.watch, watch.start
        );
        case.violation("W9", vec![event.index], text);
    }
}

/// The last stream of a reader.
struct Last<'a> {
    watch: &'a Watch,
    created: Option<u64>,
    ended: Option<u64>,
    place: u64,
    event: u64,
}

/// W11: the last stream of each reader is not further behind than the bound.
fn judge_lag(history: &History, context: &Context, log: &Log<'_>, case: &mut Case) {
    let lag = context.watch_lag_ms.saturating_mul(1_000_000);
    let quiet = history.faults().filter(|(_, fault)| fault.phase != FaultPhase::Skipped);
    let quiet = quiet.map(|(event, _)| event.time).max().unwrap_or(0);
    let mut lasts: BTreeMap<u64, Last<'_>> = BTreeMap::new();
    for (event, watch) in history.watches() {
        let last = lasts.entry(watch.reader).or_insert_with(|| Last::new(watch));
        if last.watch.watch != watch.watch && watch.watch > last.watch.watch {
            *last = Last::new(watch);
        }
        if last.watch.watch == watch.watch {
            last.take(event, watch);
        }
    }
    let shown = shown_over_time(history);
    let mut judged = 0;
    for last in lasts.values() {
        let end = last.ended.unwrap_or_else(|| history.end());
        let Some(due) = end.checked_sub(lag) else { continue };
        if last.created.is_none_or(|created| created > due) || quiet > due {
            continue;
        }
        judged += 1;
        let reached = shown.partition_point(|(time, _)| *time <= due);
        let Some((_, newest)) = reached.checked_sub(1).and_then(|place| shown.get(place)) else {
            continue;
        };
        let behind = (last.place..=(*newest).min(log.newest())).find(|revision| {
            log.get(*revision).is_some_and(|entry| {
                let mut keys = entry.certain().map(|change| change.key);
                keys.any(|key| spans(&last.watch.key, last.watch.end.as_deref(), key))
            })
        });
        if let Some(revision) = behind {
            let text = format!(
                "watch {} of reader {} did not get revision {revision} within {} ms, with no fault \
                 at work",
                last.watch.watch, last.watch.reader, context.watch_lag_ms
            );
            case.violation("W11", vec![last.event], text);
        }
    }
    case.note(format!("W11 was judged for {judged} of {} readers", lasts.len()));
}

impl<'a> Last<'a> {
    fn new(watch: &'a Watch) -> Self {
        Self { watch, created: None, ended: None, place: watch.start, event: 0 }
    }

    fn take(&mut self, event: &Event, watch: &Watch) {
        if event.kind != Kind::Ok {
            return;
        }
        self.event = event.index;
        match &watch.step {
            WatchStep::Created { start } => {
                self.created = Some(event.time);
                self.place = self.place.max(*start);
            }
            WatchStep::Changes(changes) => {
                let newest = changes.last().map_or(0, |change| change.revision + 1);
                self.place = self.place.max(newest);
            }
            WatchStep::Progress(revision) => self.place = self.place.max(revision + 1),
            WatchStep::Canceled { .. } | WatchStep::Closed => self.ended = Some(event.time),
            WatchStep::Create => {}
        }
    }
}

/// The newest revision that any reply has shown, whenever it grew.
fn shown_over_time(history: &History) -> Vec<(u64, u64)> {
    let mut shown: Vec<(u64, u64)> = Vec::new();
    for event in history.events().iter().filter(|event| event.kind == Kind::Ok) {
        let Op::Txn(txn) = &event.op else { continue };
        let Some(reply) = &txn.reply else { continue };
        if shown.last().is_none_or(|(_, newest)| reply.revision > *newest) {
            shown.push((event.time, reply.revision));
        }
    }
    shown
}
