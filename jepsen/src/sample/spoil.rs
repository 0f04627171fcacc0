//! The occasions for mistakes: each one where it can be seen.

use super::client::TTL_MS;
use super::plant::Plant;
use super::run::{Fate, MS, World};
use super::store::Store;
use crate::history::{Action, ActionReply, KeyValue, Op, Txn};

impl World {
    /// Answers with a mistake, if this is the occasion for it.
    pub(super) fn spoil(&mut self, place: usize, op: &Op) -> Option<Result<Op, String>> {
        let plant = self.tape.plant_ready()?;
        if self.pending[place].fate != Fate::Answered {
            return None;
        }
        match op {
            Op::Txn(txn) => self.spoil_txn(plant, txn, self.pending[place].floor),
            op => self.spoil_other(plant, op, self.pending[place].floor),
        }
    }

    fn spoil_txn(&mut self, plant: Plant, txn: &Txn, floor: u64) -> Option<Result<Op, String>> {
        let done = |reply| Some(Ok(Op::Txn(Txn { reply: Some(reply), ..txn.clone() })));
        let puts = txn.success.iter().filter(|action| matches!(action, Action::Put { .. })).count();
        let blind = txn.compares.is_empty() && puts > 0;
        match plant {
            Plant::StaleRead | Plant::StaleValue if txn.is_read() && txn.revision.is_none() => {
                let old = floor.checked_sub(2)?;
                let keys = self.store.at(old);
                let newest = self.store.revision();
                let fresh = Store::read(&self.store.at(floor), txn, newest);
                let shown = if plant == Plant::StaleRead { old } else { newest };
                let stale = Store::read(&keys, txn, shown);
                // Not what it was when it was asked, nor what it became since.
                let now = Store::read(&self.store.keys, txn, newest);
                let old = stale.results != fresh.results && stale.results != now.results;
                (old && stale.succeeded == fresh.succeeded).then(|| done(stale))?
            }
            Plant::LostWrite if blind => done(self.store.clone().txn(txn, None)),
            Plant::ForgottenWrite if blind => {
                let reply = self.store.clone().txn(txn, None);
                self.store.log.push(Vec::new());
                done(reply)
            }
            Plant::AppliedTwice if blind => {
                let reply = self.store.txn(txn, None);
                self.store.txn(txn, None);
                done(reply)
            }
            Plant::WriteSkew if puts > 0 => {
                let mut holds = txn.compares.iter().map(|c| Store::holds(&self.store.keys, c));
                if txn.compares.is_empty() || holds.all(|holds| holds) {
                    return None;
                }
                done(self.store.txn(txn, Some(true)))
            }
            Plant::TornTransaction if blind || puts > 1 => {
                let mut copy = self.store.clone();
                let reply = copy.txn(txn, None);
                if !reply.succeeded || puts < 2 {
                    return None;
                }
                let mut torn = txn.clone();
                torn.success.pop();
                self.store.txn(&torn, None);
                done(reply)
            }
            Plant::WrongVersion if txn.is_read() && txn.revision.is_none() => {
                let mut reply = self.store.clone().txn(txn, None);
                let found = reply.results.iter_mut().find_map(|result| match result {
                    ActionReply::Range { kvs, .. } => kvs.first_mut(),
                    _ => None,
                });
                found.map(|kv: &mut KeyValue| kv.version += 1)?;
                done(reply)
            }
            _ => None,
        }
    }

    fn spoil_other(&mut self, plant: Plant, op: &Op, floor: u64) -> Option<Result<Op, String>> {
        let now = self.tape.now;
        match (plant, op) {
            (Plant::LeaseRevived, Op::LeaseRenew(renew)) => {
                let shown = self.ended_leases.contains(&renew.lease) && self.knows_end(renew.lease);
                let mut renew = renew.clone();
                renew.ttl_ms = Some(TTL_MS);
                shown.then_some(Ok(Op::LeaseRenew(renew)))
            }
            (Plant::LockTwoHolders, Op::LockAcquire(acquire)) => {
                let (_, lease, token) = self.store.locks.get(&acquire.lock)?.clone();
                let (_, expires) = self.store.leases.get(&lease)?;
                // Only while it certainly lives, and its holder knows that it does.
                let known = self.knows_token(token) && *expires > now + TTL_MS * MS / 3;
                if !known || !self.store.leases.contains_key(&acquire.lease) {
                    return None;
                }
                self.store.locks.remove(&acquire.lock);
                Some(self.store.answer(op, now))
            }
            (Plant::LockSameToken, Op::LockAcquire(acquire)) => {
                let (_, _, token) = self.store.locks.get(&acquire.lock)?.clone();
                let mut acquire = acquire.clone();
                acquire.token = Some(token);
                self.knows_token(token).then_some(Ok(Op::LockAcquire(acquire)))
            }
            (Plant::StaleFence, Op::ResourceWrite(write)) => {
                let (newest, _) = self.store.resources.get(&write.resource)?.clone();
                let mut write = write.clone();
                write.accepted = Some(true);
                let known = write.token < newest;
                known.then_some(Ok(Op::ResourceWrite(write)))
            }
            (Plant::JobGivenTwice, Op::Claim(claim)) => {
                let held = self.store.jobs.iter().find_map(|(job, held)| {
                    let (token, _, lease) = held.as_ref()?;
                    let (_, expires) = self.store.leases.get(lease)?;
                    let lives = *expires > now + TTL_MS * MS / 3 && *lease != claim.lease;
                    (lives && self.knows_token(*token)).then(|| job.clone())
                });
                if !self.store.leases.contains_key(&claim.lease) {
                    return None;
                }
                let job = held?;
                let others: Vec<_> = self.store.jobs.clone().into_iter().collect();
                self.store.jobs.retain(|name, _| *name == job);
                self.store.jobs.insert(job.clone(), None);
                let answer = self.store.answer(op, now);
                self.store.jobs.extend(others.into_iter().filter(|(name, _)| *name != job));
                Some(answer)
            }
            (Plant::JobDoneTwice, Op::Finish(finish)) => {
                let mut copy = self.store.clone();
                let mut done = finish.clone();
                let Ok(Op::Finish(first)) = copy.answer(op, now) else { return None };
                (first.accepted == Some(false) && self.was_finished(&finish.job)).then(|| {
                    done.accepted = Some(true);
                    Ok(Op::Finish(done))
                })
            }
            (Plant::BackupOld, Op::Backup(backup)) => {
                let old = floor.checked_sub(1)?;
                let mut backup = backup.clone();
                backup.revision = Some(old);
                backup.state_root = Some(format!("root-{old}"));
                Some(Ok(Op::Backup(backup)))
            }
            (plant, op) => self.spoil_documents(plant, op),
        }
    }

    fn spoil_documents(&mut self, plant: Plant, op: &Op) -> Option<Result<Op, String>> {
        let now = self.tape.now;
        match (plant, op) {
            (Plant::JobLost, Op::Enqueue(_)) => Some(self.store.clone().answer(op, now)),
            (Plant::CounterTwice, Op::CounterAdd(_)) => {
                let answer = self.store.answer(op, now);
                let again = self.store.answer(op, now);
                again.is_ok().then_some(answer)
            }
            (Plant::CounterLost, Op::CounterAdd(add)) => {
                let answer = self.store.answer(op, now);
                let total = self.store.counters.get_mut(&add.counter)?;
                *total -= add.delta;
                Some(answer)
            }
            (Plant::SectionLost, Op::EntityPatch(patch)) => {
                let old = self.old_documents.get(&patch.entity).cloned();
                let document = self.store.documents.get(&patch.entity)?;
                self.old_documents.insert(patch.entity.clone(), document.1.clone());
                let old = old?;
                let section = old.iter().find(|(section, content)| {
                    **section != patch.section && self.is_old(&patch.entity, section, content)
                })?;
                let (section, content) = (section.0.clone(), section.1.clone());
                let answer = self.store.answer(op, now);
                let document = self.store.documents.get_mut(&patch.entity)?;
                document.1.insert(section, content);
                Some(answer)
            }
            (Plant::PreconditionIgnored, Op::ConfigSet(set)) => {
                let at = self.store.settings.get(&set.path).map_or(0, |(at, _)| *at);
                let expected = set.if_revision?;
                let taken = self.was_replaced(&set.path, expected);
                if expected == at || !taken {
                    return None;
                }
                let mut free = set.clone();
                free.if_revision = None;
                let answer = self.store.answer(&Op::ConfigSet(free), now);
                Some(answer.map(|done| match done {
                    Op::ConfigSet(mut done) => {
                        done.if_revision = set.if_revision;
                        Op::ConfigSet(done)
                    }
                    other => other,
                }))
            }
            _ => None,
        }
    }

    /// Whether an answer has shown the end of a lease.
    fn knows_end(&self, lease: u64) -> bool {
        self.tape.events.iter().any(|event| match &event.op {
            Op::LeaseTtl(ttl) => ttl.lease == lease && ttl.found == Some(false),
            Op::LeaseRenew(renew) => renew.lease == lease && renew.ttl_ms == Some(0),
            _ => false,
        })
    }

    /// Whether an answer has shown a token.
    fn knows_token(&self, token: u64) -> bool {
        self.tape.events.iter().any(|event| match &event.op {
            Op::LockAcquire(acquire) => acquire.token == Some(token),
            Op::Claim(claim) => claim.token == Some(token),
            _ => false,
        })
    }

    fn was_finished(&self, job: &str) -> bool {
        self.tape.events.iter().any(|event| match &event.op {
            Op::Finish(finish) => finish.job == job && finish.accepted == Some(true),
            _ => false,
        })
    }

    /// Whether an acknowledged write has replaced this revision of a value.
    fn was_replaced(&self, path: &str, revision: u64) -> bool {
        self.tape.events.iter().any(|event| match &event.op {
            Op::ConfigSet(set) => {
                set.path == path && set.if_revision == Some(revision) && set.revision.is_some()
            }
            _ => false,
        })
    }

    /// Whether a later patch of a section was acknowledged than this content.
    fn is_old(&self, entity: &str, section: &str, content: &str) -> bool {
        let mut acked = self.tape.events.iter().filter_map(|event| match &event.op {
            Op::EntityPatch(patch) if patch.entity == entity && patch.section == section => {
                patch.revision.map(|revision| (revision, patch.content.as_str()))
            }
            _ => None,
        });
        let own = acked.clone().find(|(_, found)| *found == content);
        own.is_some_and(|(own, _)| acked.any(|(revision, _)| revision > own))
    }
}
