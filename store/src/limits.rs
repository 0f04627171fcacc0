//! Every limit of the core, in one place. Requests are checked against them
//! before they reach the log; apply relies on that only for speed, never for
//! safety.

/// Bytes of a stored key, with its space's byte.
pub const KEY_BYTES_MAX: usize = 4096;
/// Bytes of a range's bound: a page goes on from a key and one byte more.
pub const BOUND_BYTES_MAX: usize = KEY_BYTES_MAX + 1;
/// Bytes of a value: 1.5 MiB, as etcd's request limit.
pub const VALUE_BYTES_MAX: usize = 1536 * 1024;
/// Bytes of an entity's document.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of an entity's document from which on a warning is given.
pub const DOCUMENT_BYTES_WARN: usize = 256 * 1024;
/// Bytes of an encoded command. Its keys, values and bounds alone are also
/// checked against this.
pub const COMMAND_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Operations and compares in a transaction, those of nested ones included.
pub const TXN_OPS_MAX: usize = 1024;
/// Levels of transactions nested in the outermost one.
pub const TXN_DEPTH_MAX: usize = 8;
/// Commands in one log entry.
pub const BATCH_COMMANDS_MAX: usize = 256;
/// Bytes of commands in one log entry, unless a single command is larger.
pub const BATCH_BYTES_MAX: usize = 512 * 1024;
/// Least time to live of a lease: 1.5 times the longest election timeout,
/// rounded up, as etcd does it, so that no failover alone can end a lease.
pub const LEASE_TTL_MS_MIN: u64 = 2_000;
/// Longest time to live of a lease, etcd's limit of 9,000,000,000 seconds.
pub const LEASE_TTL_MS_MAX: u64 = 9_000_000_000_000;
/// Leases, in all.
pub const LEASES_MAX: u64 = 1_000_000;
/// Leases that one expiry command ends.
pub const LEASE_EXPIRE_MAX: usize = 1_000;
/// Leases that one renewal names.
pub const LEASE_RENEW_MAX: usize = 1_000;
/// Replies that a session keeps: writes that a client may have in flight.
pub const SESSION_REPLIES_MAX: u64 = 256;
/// Bytes of one remembered reply. A larger one is remembered as "applied at
/// this revision" only.
pub const SESSION_REPLY_BYTES_MAX: usize = 4096;
/// Sessions, in all.
pub const SESSIONS_MAX: u64 = 100_000;
/// Sessions that one expiry command ends.
pub const SESSION_EXPIRE_MAX: usize = 1_000;
/// Least time an idle session is remembered; a shorter one is raised to it.
pub const SESSION_TTL_MS_MIN: u64 = 2_000;
/// Longest time an idle session is remembered: one day.
pub const SESSION_TTL_MS_MAX: u64 = 86_400_000;
/// Bytes of keys and values in the response to one range or transaction.
pub const RANGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What each record of a response counts besides its key and value, so that
/// many small ones are bounded too.
pub const RANGE_RECORD_OVERHEAD: usize = 64;
/// Bytes of a type's schema.
pub const SCHEMA_BYTES_MAX: usize = 512 * 1024;
/// Bytes of an entity's or a type's name.
pub const ENTITY_NAME_BYTES_MAX: usize = 256;
/// Bytes of an entity's external id, org or owner, and of a type's description.
pub const ENTITY_TEXT_BYTES_MAX: usize = 1024;
/// Bytes of an org, which is part of a key.
pub const ENTITY_ORG_BYTES_MAX: usize = 256;
/// Finalizers of an entity.
pub const FINALIZERS_MAX: usize = 32;
/// Bytes of a finalizer's name.
pub const FINALIZER_BYTES_MAX: usize = 128;
/// Top-level members of a document whose revisions are kept one by one.
pub const SECTIONS_MAX: usize = 256;
/// Bytes of a configuration path.
pub const CONFIG_PATH_BYTES_MAX: usize = 512;
/// Segments of a configuration path.
pub const CONFIG_PATH_SEGMENTS_MAX: usize = 16;
/// Bytes of a configuration value.
pub const CONFIG_VALUE_BYTES_MAX: usize = 256 * 1024;
