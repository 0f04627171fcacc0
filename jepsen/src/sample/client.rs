//! What the clients of a sample ask for.

use crate::history::{
    Action, ActionReply, BackupRestore, Claim, Compare, ConfigGet, ConfigSet, CounterAdd,
    CounterRead, Enqueue, EntityPatch, EntityRead, Finish, KeyValue, LeaseGrant, LeaseRenew,
    LeaseRevoke, LeaseTtl, LockAcquire, LockRelease, Op, Operand, Relation, ResourceRead,
    ResourceWrite, Target, Txn,
};
use rand::Rng as _;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    /// Gets, puts, deletions, compare-and-set and transactions on few keys, reads
    /// of the past and of replicas, compaction.
    Register,
    /// As `Register`, but each operation touches one key, and no revision is used.
    Single,
    /// Unique keys, read as a whole.
    Set,
    /// Lists that grow.
    Append,
    /// Transfers between accounts.
    Bank,
    /// Keys with leases.
    Lease,
    /// Locks and fenced resources.
    Lock,
    /// Jobs.
    Queue,
    /// Counters.
    Counter,
    /// Sections of documents.
    Entity,
    /// Configuration values.
    Config,
    /// Puts, with backups that are restored.
    Backup,
}

impl Workload {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Register,
        Self::Single,
        Self::Set,
        Self::Append,
        Self::Bank,
        Self::Lease,
        Self::Lock,
        Self::Queue,
        Self::Counter,
        Self::Entity,
        Self::Config,
        Self::Backup,
    ];
}

/// The sum of all balances.
pub(super) const BANK_TOTAL: i64 = 100;
/// The time to live of leases, in milliseconds.
pub(super) const TTL_MS: u64 = 100;

/// One client and what it remembers.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) number: usize,
    /// What it saw last of keys.
    seen: BTreeMap<String, KeyValue>,
    lease: Option<u64>,
    lock: Option<(String, u64)>,
    resource: Option<String>,
    job: Option<(String, u64)>,
    settings: BTreeMap<String, u64>,
    backup: Option<String>,
}

/// What all clients share.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) workload: Workload,
    pub(super) keys: usize,
    pub(super) unique: u64,
    pub(super) revision: u64,
}

fn txn(success: Vec<Action>) -> Txn {
    Txn { success, linearizable: true, ..Txn::default() }
}

fn compare(key: &str, target: Target, op: Relation, operand: Operand) -> Compare {
    Compare { key: key.to_owned(), target, op, operand }
}

impl Plan {
    fn unique(&mut self) -> u64 {
        self.unique += 1;
        self.unique
    }

    fn key(&self, rng: &mut StdRng, prefix: &str) -> String {
        format!("{prefix}{}", rng.random_range(0..self.keys))
    }

    /// The next operation of a client.
    pub(super) fn next(&mut self, client: &Client, rng: &mut StdRng) -> Op {
        match self.workload {
            Workload::Register => self.register(client, rng),
            Workload::Single => Op::Txn(self.single(client, rng)),
            Workload::Set => self.set(rng),
            Workload::Append => Op::Txn(self.append(client, rng)),
            Workload::Bank => Op::Txn(self.bank(client, rng)),
            Workload::Lease => self.lease(client, rng),
            Workload::Lock => self.lock(client, rng),
            Workload::Queue => self.queue(client, rng),
            Workload::Counter => {
                let counter = self.key(rng, "c");
                if rng.random_bool(0.3) {
                    return Op::CounterRead(CounterRead { counter, ..CounterRead::default() });
                }
                Op::CounterAdd(CounterAdd { counter, delta: 1, ..CounterAdd::default() })
            }
            Workload::Entity => {
                let entity = self.key(rng, "e");
                if rng.random_bool(0.3) {
                    return Op::EntityRead(EntityRead { entity, ..EntityRead::default() });
                }
                let section = format!("s{}", rng.random_range(0..3));
                let content = format!("x{}", self.unique());
                Op::EntityPatch(EntityPatch { entity, section, content, revision: None })
            }
            Workload::Config => {
                let path = self.key(rng, "p");
                if rng.random_bool(0.4) {
                    return Op::ConfigGet(ConfigGet { path, ..ConfigGet::default() });
                }
                let if_revision = client.settings.get(&path).copied().or(Some(0));
                let if_revision = if_revision.filter(|_| rng.random_bool(0.7));
                let value = format!("x{}", self.unique());
                Op::ConfigSet(ConfigSet { path, value, if_revision, revision: None })
            }
            Workload::Backup => {
                if let Some(name) = &client.backup {
                    let restore = BackupRestore { name: name.clone(), ..BackupRestore::default() };
                    return Op::Restore(restore);
                }
                if rng.random_bool(0.05) {
                    let name = format!("b{}", self.unique());
                    return Op::Backup(crate::history::Backup {
                        name,
                        ..crate::history::Backup::default()
                    });
                }
                self.register(client, rng)
            }
        }
    }

    /// One key, and nothing that names a revision.
    fn single(&mut self, client: &Client, rng: &mut StdRng) -> Txn {
        let key = self.key(rng, "k/");
        let value = format!("v{}", self.unique());
        match rng.random_range(0..10) {
            0..4 => txn(vec![Action::get(key)]),
            4..6 => txn(vec![Action::put(key, value)]),
            6 => txn(vec![Action::delete(key)]),
            7 => {
                let absent = compare(&key, Target::Create, Relation::Equal, Operand::Number(0));
                let mut create = txn(vec![Action::put(key.clone(), value)]);
                create.compares = vec![absent];
                create.failure = vec![Action::get(key)];
                create
            }
            _ => {
                let Some(seen) = client.seen.get(&key) else { return txn(vec![Action::get(key)]) };
                let guard = match rng.random_range(0..2) {
                    0 => (Target::Value, Operand::Text(seen.value.clone())),
                    _ => (Target::Version, Operand::Number(seen.version)),
                };
                let mut set = txn(vec![Action::put(key.clone(), value)]);
                set.compares = vec![compare(&key, guard.0, Relation::Equal, guard.1)];
                set.failure = vec![Action::get(key)];
                set
            }
        }
    }

    fn register(&mut self, client: &Client, rng: &mut StdRng) -> Op {
        let key = self.key(rng, "k/");
        let other = self.key(rng, "k/");
        let value = format!("v{}", self.unique());
        Op::Txn(match rng.random_range(0..20) {
            0..8 => self.single(client, rng),
            8 => txn(vec![Action::prefix("k/")]),
            9 => txn(vec![Action::Range { key: "k/".into(), end: Some("k0".into()), limit: 2 }]),
            10 => Txn { linearizable: false, ..txn(vec![Action::get(key)]) },
            11 if self.revision > 0 => {
                let revision = Some(rng.random_range(1..=self.revision));
                Txn { revision, ..txn(vec![Action::prefix("k/")]) }
            }
            12 if rng.random_bool(0.2) && self.revision > 0 => {
                return Op::Compact { revision: rng.random_range(1..=self.revision) };
            }
            13 => txn(vec![Action::Delete {
                key: "k/".into(),
                end: Some("k/2".into()),
                prev: rng.random_bool(0.5),
            }]),
            14 => txn(vec![Action::Put { key, value, lease: 0, prev: true }]),
            15..18 if key != other => {
                let at = client.seen.get(&key).map_or(0, |seen| seen.modified);
                let guard = compare(&key, Target::Mod, Relation::Equal, Operand::Number(at));
                Txn {
                    compares: vec![guard],
                    failure: vec![Action::get(key.clone()), Action::get(other.clone())],
                    ..txn(vec![
                        Action::get(other.clone()),
                        Action::put(key, value.clone()),
                        Action::put(other, format!("{value}b")),
                    ])
                }
            }
            _ => self.single(client, rng),
        })
    }

    fn set(&mut self, rng: &mut StdRng) -> Op {
        if rng.random_bool(0.08) {
            return Op::Txn(txn(vec![Action::prefix("set/")]));
        }
        let element = self.unique();
        Op::Txn(txn(vec![Action::put(format!("set/{element:06}"), "1")]))
    }

    /// Reads one list or two and appends to them, guarded by what was seen.
    fn append(&mut self, client: &Client, rng: &mut StdRng) -> Txn {
        let mut keys = vec![self.key(rng, "append/")];
        let other = self.key(rng, "append/");
        if rng.random_bool(0.4) && other != keys[0] {
            keys.push(other);
        }
        let reads = || keys.iter().map(|key| Action::get(key.clone())).collect::<Vec<_>>();
        if rng.random_bool(0.3) {
            return txn(reads());
        }
        let mut append = txn(reads());
        append.failure = reads();
        for key in &keys {
            let seen = client.seen.get(key);
            let at = seen.map_or(0, |seen| seen.modified);
            let guard = compare(key, Target::Mod, Relation::Equal, Operand::Number(at));
            append.compares.push(guard);
            if rng.random_bool(0.8) || keys.len() == 1 {
                let element = self.unique();
                let list = seen.map_or(format!("{element}"), |s| format!("{},{element}", s.value));
                append.success.push(Action::put(key.clone(), list));
            }
        }
        append
    }

    fn bank(&mut self, client: &Client, rng: &mut StdRng) -> Txn {
        let (from, to) = (self.key(rng, "bank/"), self.key(rng, "bank/"));
        let seen = |key: &String| client.seen.get(key);
        let balance = |kv: &KeyValue| kv.value.parse::<i64>().unwrap_or(0);
        if let (Some(a), Some(b)) = (seen(&from), seen(&to))
            && from != to
            && rng.random_bool(0.6)
        {
            let amount = rng.random_range(1..=5).min(balance(a));
            let mut transfer = txn(vec![
                Action::put(from.clone(), (balance(a) - amount).to_string()),
                Action::put(to.clone(), (balance(b) + amount).to_string()),
            ]);
            for kv in [a, b] {
                let at = Operand::Number(kv.modified);
                transfer.compares.push(compare(&kv.key, Target::Mod, Relation::Equal, at));
            }
            transfer.failure = vec![Action::prefix("bank/")];
            return transfer;
        }
        txn(vec![Action::prefix("bank/")])
    }

    fn lease(&mut self, client: &Client, rng: &mut StdRng) -> Op {
        let Some(lease) = client.lease else {
            let lease = self.unique();
            return Op::LeaseGrant(LeaseGrant { lease, ttl_ms: TTL_MS, granted_ms: None });
        };
        let key = format!("k/{}-{}", client.number, rng.random_range(0..3));
        match rng.random_range(0..10) {
            0..3 => {
                let value = format!("v{}", self.unique());
                Op::Txn(txn(vec![Action::Put { key, value, lease, prev: false }]))
            }
            3..5 => Op::LeaseRenew(LeaseRenew { lease, ttl_ms: None }),
            5 => Op::LeaseTtl(LeaseTtl { lease, ..LeaseTtl::default() }),
            6 if rng.random_bool(0.2) => Op::LeaseRevoke(LeaseRevoke { lease, revision: None }),
            _ => Op::Txn(txn(vec![Action::prefix("k/")])),
        }
    }

    fn lock(&mut self, client: &Client, rng: &mut StdRng) -> Op {
        let Some(lease) = client.lease else {
            let lease = self.unique();
            return Op::LeaseGrant(LeaseGrant { lease, ttl_ms: TTL_MS, granted_ms: None });
        };
        let owner = format!("o{}", client.number);
        let Some((lock, token)) = client.lock.clone() else {
            if rng.random_bool(0.2) {
                return Op::LeaseRenew(LeaseRenew { lease, ttl_ms: None });
            }
            let lock = self.key(rng, "l");
            return Op::LockAcquire(LockAcquire { lock, owner, lease, token: None });
        };
        let resource = lock.clone();
        match (rng.random_range(0..10), client.resource.clone()) {
            (0..2, _) => Op::LeaseRenew(LeaseRenew { lease, ttl_ms: None }),
            (2..5, _) => Op::LockRelease(LockRelease { lock, owner, token }),
            (_, None) => Op::ResourceRead(ResourceRead { resource, value: None }),
            (_, Some(seen)) => {
                let value = format!("x{}", self.unique());
                let seen = Some(seen);
                Op::ResourceWrite(ResourceWrite { resource, token, value, seen, accepted: None })
            }
        }
    }

    fn queue(&mut self, client: &Client, rng: &mut StdRng) -> Op {
        let queue = "q".to_owned();
        let Some(lease) = client.lease else {
            let lease = self.unique();
            return Op::LeaseGrant(LeaseGrant { lease, ttl_ms: TTL_MS, granted_ms: None });
        };
        let worker = format!("w{}", client.number);
        match (&client.job, rng.random_range(0..10)) {
            (_, 0..2) => Op::LeaseRenew(LeaseRenew { lease, ttl_ms: None }),
            (_, 2..4) => {
                let job = format!("j{:05}", self.unique());
                Op::Enqueue(Enqueue { queue, job, revision: None })
            }
            (Some((job, token)), _) => Op::Finish(Finish {
                queue,
                job: job.clone(),
                worker,
                token: *token,
                ..Finish::default()
            }),
            (None, _) => Op::Claim(Claim { queue, worker, lease, ..Claim::default() }),
        }
    }
}

impl Client {
    pub(super) fn new(number: usize) -> Self {
        Self { number, ..Self::default() }
    }

    /// Takes note of an answer.
    pub(super) fn learn(&mut self, op: &Op, rng: &mut StdRng) {
        match op {
            Op::Txn(txn) => {
                let Some(reply) = txn.reply.as_ref().filter(|_| txn.revision.is_none()) else {
                    return;
                };
                for (action, result) in txn.branch(reply.succeeded).iter().zip(&reply.results) {
                    let (Action::Range { key, end, .. }, ActionReply::Range { kvs, .. }) =
                        (action, result)
                    else {
                        continue;
                    };
                    if end.is_none() && kvs.is_empty() {
                        self.seen.remove(key);
                    }
                    self.seen.extend(kvs.iter().map(|kv| (kv.key.clone(), kv.clone())));
                }
                if reply.succeeded && !txn.is_read() {
                    self.seen.clear();
                }
            }
            Op::LeaseGrant(grant) => self.lease = Some(grant.lease),
            Op::LeaseRenew(renew) if renew.ttl_ms == Some(0) => self.lose(),
            Op::LeaseTtl(ttl) if ttl.found == Some(false) && rng.random_bool(0.5) => self.lose(),
            Op::LeaseRevoke(_) => self.lose(),
            Op::LockAcquire(acquire) => {
                self.lock = acquire.token.map(|token| (acquire.lock.clone(), token));
                self.resource = None;
            }
            Op::LockRelease(_) => self.lock = None,
            Op::ResourceRead(read) => self.resource.clone_from(&read.value),
            Op::ResourceWrite(write) => {
                let accepted = write.accepted == Some(true);
                self.resource = Some(write.value.clone()).filter(|_| accepted);
                if !accepted {
                    self.lock = None;
                }
            }
            Op::Claim(claim) => self.job = claim.job.clone().zip(claim.token),
            Op::Finish(_) => self.job = None,
            Op::ConfigGet(get) => {
                self.settings.insert(get.path.clone(), get.revision.unwrap_or(0));
            }
            Op::Backup(backup) => self.backup = Some(backup.name.clone()),
            Op::Restore(_) => self.backup = None,
            _ => {}
        }
    }

    /// Takes note of a failure, or of no answer at all.
    pub(super) fn forget(&mut self, op: &Op) {
        match op {
            Op::LockRelease(_) | Op::ResourceWrite(_) => self.lock = None,
            Op::Finish(_) => self.job = None,
            Op::Txn(_) => self.seen.clear(),
            Op::Restore(_) => self.backup = None,
            Op::LeaseRevoke(_) | Op::LockAcquire(_) | Op::Claim(_) => self.lose(),
            _ => {}
        }
    }

    /// Its lease may be gone: it begins anew.
    fn lose(&mut self) {
        (self.lease, self.lock, self.job) = (None, None, None);
    }
}
