//! The one place where failures become gRPC statuses.
//!
//! Every status made here carries an encoded `ErrorDetail` in the metadata
//! `keelstone-error-bin`: a stable reason, the field at fault, the limit, what
//! to do -- and the outcome, which says whether a write can still take effect. A
//! status without it comes from the transport, whose `Unavailable` may follow a
//! command that was applied: to a client, no detail means "unknown".

use crate::core::{AdminError, LeaderHint, ProposeError, ReadError};
use crate::entities::EntityError;
use crate::watch::{End, Refusal};
use bytes::Bytes;
use keelstone_proto::v1::{ErrorDetail, Outcome};
use keelstone_store::entity::EntityRejection;
use keelstone_store::machine::Rejection;
use keelstone_store::machine::check::{Problem, Violation};
use prost::Message as _;
use std::fmt::Display;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// Where the detail travels.
pub(crate) const DETAIL_KEY: &str = "keelstone-error-bin";
/// Parts of the name of a nested field.
const FIELD_DEPTH_MAX: usize = 16;
/// Bytes of a message. Headers of a response are limited, by clients too.
const MESSAGE_BYTES_MAX: usize = 3 * 1024;

/// A failure on its way to a client.
#[derive(Debug)]
pub(super) struct Failure {
    code: Code,
    message: String,
    detail: ErrorDetail,
}

impl Failure {
    /// A failure of a request that has had no effect and will have none.
    pub(super) fn refused(code: Code, reason: &str, message: impl Into<String>) -> Self {
        let detail = ErrorDetail {
            reason: reason.to_owned(),
            outcome: Outcome::NotApplied.into(),
            ..ErrorDetail::default()
        };
        Self { code, message: message.into(), detail }
    }

    /// A field that is not what it has to be.
    pub(super) fn invalid(field: impl Into<String>, problem: impl Display) -> Self {
        let field = field.into();
        let message = format!("{field}: {problem}");
        Self::refused(Code::InvalidArgument, "invalid", message)
            .with_field(field)
            .with_remedy("correct the field; the .proto files say what it has to be")
    }

    /// A field beyond its limit.
    pub(super) fn too_large(field: impl Into<String>, actual: u64, limit: u64) -> Self {
        // The core names a size by its unit: "value bytes" is the field `value`.
        let size = field.into();
        let message = format!("{size} is {actual}, the limit is {limit}");
        let field = size.trim_end_matches(" bytes");
        Self::refused(Code::InvalidArgument, "too_large", message)
            .with_field(field)
            .with_limit(limit, actual)
    }

    /// A retried write was applied before, and its reply was too large to be
    /// remembered.
    pub(super) fn reply_not_kept(revision: u64) -> Self {
        let message =
            format!("the write was applied before, at r{revision}; its reply is not kept");
        Self::refused(Code::FailedPrecondition, "reply_forgotten", message)
            .maybe_applied()
            .with_remedy(
                "read what happened; ask for no previous values in writes that are retried",
            )
            .with_current(revision)
    }

    /// The core answered something else than was asked: versions that do not
    /// fit together.
    pub(super) fn unexpected() -> Self {
        let message = "the reply is not one to this command; the replicas' versions differ";
        Self::refused(Code::Internal, "unexpected_reply", message).maybe_applied()
    }

    pub(super) fn with_field(mut self, field: impl Into<String>) -> Self {
        self.detail.field = field.into();
        self
    }

    pub(super) fn with_limit(mut self, limit: u64, actual: u64) -> Self {
        (self.detail.limit, self.detail.actual) = (limit, actual);
        self
    }

    pub(super) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.detail.remedy = remedy.into();
        self
    }

    pub(super) fn with_current(mut self, revision: u64) -> Self {
        self.detail.current_revision = revision;
        self
    }

    fn with_leader(mut self, hint: LeaderHint) -> Self {
        self.detail.leader_address = hint.client_address.unwrap_or_default();
        self
    }

    fn maybe_applied(mut self) -> Self {
        self.detail.outcome = Outcome::Unknown.into();
        self
    }
}

/// The status that tells a client of a failure.
pub(super) fn of(failure: impl Into<Failure>) -> Status {
    let Failure { code, message, detail } = failure.into();
    let mut metadata = MetadataMap::new();
    let detail = tonic::metadata::MetadataValue::from_bytes(&detail.encode_to_vec());
    metadata.insert_bin(DETAIL_KEY, detail);
    Status::with_details_and_metadata(code, shortened(message), Bytes::new(), metadata)
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push_str(" ... (shortened)");
    }
    message
}

const RETRY_ELSEWHERE: &str = "send it again, to the leader if its address is known";
const RETRY_LATER: &str = "send it again after a pause";

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        let text = error.to_string();
        match error {
            ProposeError::NotLeader(hint) => Self::refused(Code::Unavailable, "not_leader", text)
                .with_leader(hint)
                .with_remedy(RETRY_ELSEWHERE),
            ProposeError::Overloaded { waiting_bytes, limit_bytes } => {
                Self::refused(Code::ResourceExhausted, "overloaded", text)
                    .with_limit(limit_bytes, waiting_bytes)
                    .with_remedy(RETRY_LATER)
            }
            ProposeError::TooLarge { field, actual, limit } => {
                Self::too_large(field, actual, limit)
                    .with_remedy("split it, or store large values outside of the store")
            }
            ProposeError::NoSpace { free_bytes, reserve_bytes } => {
                Self::refused(Code::ResourceExhausted, "no_space", text)
                    .with_limit(reserve_bytes, free_bytes)
                    .with_remedy("make room on the disk of the data directory; reads go on")
            }
            ProposeError::NoSpaceAtLeader => {
                Self::refused(Code::ResourceExhausted, "no_space", text).with_remedy(
                    "make room on the disk of the leader's data directory; reads go on",
                )
            }
            ProposeError::Stopping => {
                Self::refused(Code::Unavailable, "stopping", text).with_remedy(RETRY_ELSEWHERE)
            }
            ProposeError::Unknown(_) => Self::refused(Code::Unknown, "unknown", text)
                .maybe_applied()
                .with_remedy("read to see what happened, or repeat it with its session's sequence"),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::NoQuorum(hint) => Self::refused(Code::Unavailable, "no_quorum", text)
                .with_leader(hint)
                .with_remedy("read again, or ask for a serializable read"),
            ReadError::Stopping => {
                Self::refused(Code::Unavailable, "stopping", text).with_remedy(RETRY_ELSEWHERE)
            }
            ReadError::Failed(_) => Self::refused(Code::Unavailable, "state_failed", text)
                .with_remedy("ask another node; this one stops, see its log"),
        }
    }
}

impl From<keelstone_store::state::StateError> for Failure {
    fn from(error: keelstone_store::state::StateError) -> Self {
        ReadError::Failed(error.to_string()).into()
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let text = rejection.to_string();
        let refused = |code, reason| Self::refused(code, reason, text.as_str());
        match rejection {
            Rejection::KeyNotFound => refused(Code::NotFound, "key_not_found")
                .with_field("key")
                .with_remedy("create the key with a value first"),
            Rejection::LeaseNotFound(_) => refused(Code::NotFound, "lease_not_found")
                .with_field("lease")
                .with_remedy("grant a new lease"),
            Rejection::LeaseExists(_) => refused(Code::AlreadyExists, "lease_exists")
                .with_field("id")
                .with_remedy("choose another id, or 0 to let the server choose"),
            Rejection::TooLarge { what, actual, limit } => Self::too_large(what, actual, limit)
                .with_remedy("stay below the limit: split the request, or remove some first"),
            Rejection::Compacted { asked, compacted } => refused(Code::OutOfRange, "compacted")
                .with_field("revision")
                .with_limit(compacted.get(), asked.get())
                .with_remedy("read the newest revision"),
            Rejection::FutureRevision { asked, current } => {
                refused(Code::OutOfRange, "future_revision")
                    .with_field("revision")
                    .with_limit(current.get(), asked.get())
                    .with_remedy("read a revision that the store has reached")
            }
            Rejection::DuplicateKey => refused(Code::InvalidArgument, "duplicate_key")
                .with_field("key")
                .with_remedy("write each key once in a transaction's branch"),
            // An earlier attempt of the same write may have been applied, in a
            // session that has expired since.
            Rejection::SessionNotFound(_) => refused(Code::FailedPrecondition, "session_not_found")
                .maybe_applied()
                .with_field("write_id.session")
                .with_remedy("open a new session; if this was a retry, read what happened"),
            Rejection::SessionExists(_) => refused(Code::AlreadyExists, "session_exists"),
            Rejection::ReplyForgotten { sequence, oldest } => {
                refused(Code::FailedPrecondition, "reply_forgotten")
                    .maybe_applied()
                    .with_field("write_id.sequence")
                    .with_limit(oldest, sequence)
                    .with_remedy("read what happened; keep fewer writes in flight in a session")
            }
            Rejection::Invalid(_) => refused(Code::InvalidArgument, "invalid"),
            _ => refused(Code::FailedPrecondition, "rejected"),
        }
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        let Violation { field, limit, actual, problem, remedy } = violation;
        match problem {
            Problem::TooLarge => Self::too_large(field, actual, limit),
            Problem::Malformed(problem) => Self::invalid(field.trim_end_matches(" bytes"), problem),
        }
        .with_remedy(remedy)
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let text = error.to_string();
        match error {
            AdminError::NotLeader(hint) => Self::refused(Code::Unavailable, "not_leader", text)
                .with_leader(hint)
                .with_remedy(RETRY_ELSEWHERE),
            AdminError::Refused { remedy, .. } => {
                Self::refused(Code::FailedPrecondition, "refused", text).with_remedy(remedy)
            }
            AdminError::Unknown(_) => Self::refused(Code::Unknown, "unknown", text)
                .maybe_applied()
                .with_remedy("ask for the members to see what happened"),
            AdminError::Stopping => {
                Self::refused(Code::Unavailable, "stopping", text).with_remedy(RETRY_ELSEWHERE)
            }
        }
    }
}

impl From<End> for Failure {
    fn from(end: End) -> Self {
        let (text, reason) = (end.to_string(), end.reason());
        match end {
            End::Requested => Self::refused(Code::Cancelled, reason, text),
            End::Compacted { oldest } => Self::refused(Code::OutOfRange, reason, text)
                .with_field("start_revision")
                .with_limit(oldest.get(), 0)
                .with_remedy("read again, then watch from the revision of that read"),
            End::HistoryChanged => Self::refused(Code::FailedPrecondition, reason, text)
                .with_field("history")
                .with_remedy("read again, then watch from the revision of that read"),
            End::Invalid(_) => Self::refused(Code::InvalidArgument, reason, text),
            End::TooMany { limit } => Self::refused(Code::ResourceExhausted, reason, text)
                .with_limit(limit as u64, limit as u64)
                .with_remedy("close some streams, or ask another node"),
            End::Stopping | End::Failed => {
                Self::refused(Code::Unavailable, reason, text).with_remedy("go on at another node")
            }
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::invalid(refusal.field, refusal.problem)
    }
}

impl From<EntityRejection> for Failure {
    fn from(rejection: EntityRejection) -> Self {
        EntityError::Rejected(rejection).into()
    }
}

impl From<EntityError> for Failure {
    fn from(error: EntityError) -> Self {
        let code = match error {
            EntityError::Propose(error) => return error.into(),
            EntityError::Read(error) => return error.into(),
            EntityError::Machine(rejection) | EntityError::Session(rejection) => {
                return rejection.into();
            }
            EntityError::Rejected(ref rejection) => code_of(rejection),
            EntityError::Contended { .. } => Code::Unavailable,
            EntityError::RefusedBefore | EntityError::WriteIdReused => Code::FailedPrecondition,
            EntityError::NoValue => Code::NotFound,
            EntityError::ValueConflict { .. } => Code::Aborted,
            EntityError::PageToken(_) => Code::InvalidArgument,
            EntityError::Damaged(_) => Code::DataLoss,
        };
        let failure = Self::refused(code, error.reason(), error.to_string())
            .with_field(error.field())
            .with_remedy(error.remedy())
            .with_current(error.current_revision().map_or(0, keelstone_store::Revision::get));
        let (limit, actual) = error.limit().unwrap_or_default();
        let failure = failure.with_limit(limit, actual);
        if error.may_take_effect() { failure.maybe_applied() } else { failure }
    }
}

fn code_of(rejection: &EntityRejection) -> Code {
    match rejection {
        EntityRejection::NotFound(_) | EntityRejection::TypeNotFound(_) => Code::NotFound,
        EntityRejection::Exists { .. } | EntityRejection::TypeDiffers { .. } => Code::AlreadyExists,
        EntityRejection::Conflict { .. } => Code::Aborted,
        EntityRejection::WrongState(_) | EntityRejection::FinalizerAdded => {
            Code::FailedPrecondition
        }
        _ => Code::InvalidArgument,
    }
}

/// More is worked on than the node takes on.
pub(super) fn too_many_requests(what: &'static str, limit: u64) -> Status {
    let message = format!("the node works on as many {what} as it takes on, {limit}");
    let failure = Failure::refused(Code::ResourceExhausted, "overloaded", message);
    of(failure.with_limit(limit, limit).with_remedy(RETRY_LATER))
}

/// A stream that stays silent or that the client broke off.
pub(super) fn broken_stream(error: &Status) -> Status {
    improved(error).unwrap_or_else(|| error.clone())
}

/// Statuses that tonic makes before a service sees the request: the same codes,
/// with the detail that every refusal of ours has. `None` for all others.
fn improved(status: &Status) -> Option<Status> {
    let message = status.message();
    if let Some((actual, limit)) = parse_too_long(message) {
        let failure = Failure::too_large("request", actual, limit)
            .with_remedy("send less in one request; limits.request_bytes_max sets the limit");
        return Some(of(failure));
    }
    let decoding = message.contains("failed to decode Protobuf message");
    if decoding {
        let problem = message.trim_start_matches("failed to decode Protobuf message: ");
        let message = format!("the request is malformed: {problem}");
        let failure = Failure::refused(Code::InvalidArgument, "malformed", message)
            .with_field(malformed_field(problem))
            .with_remedy("send what the .proto files say; strings must be UTF-8");
        return Some(of(failure));
    }
    None
}

/// prost says: `WriteId.session: PutRequest.write_id: invalid varint`.
fn malformed_field(problem: &str) -> String {
    let parts = problem.split(": ").map_while(|part| part.split_once('.'));
    // The innermost message comes first.
    let mut fields: Vec<&str> = parts.map(|(_, field)| field).collect();
    fields.reverse();
    fields.truncate(FIELD_DEPTH_MAX);
    if fields.is_empty() { "request".to_owned() } else { fields.join(".") }
}

/// tonic says: "Error, decoded message length too large: found X bytes, the
/// limit is: Y bytes".
fn parse_too_long(message: &str) -> Option<(u64, u64)> {
    let rest = message.strip_prefix("Error, decoded message length too large: found ")?;
    let (actual, rest) = rest.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    Some((actual.parse().ok()?, limit.parse().ok()?))
}

/// Replaces the headers of a response that refuses a request before a service
/// saw it, see [`improved`]. Returns the response's code if the headers say it.
pub(super) fn amend<B>(response: &mut http::Response<B>) -> Option<Code> {
    let status = Status::from_header_map(response.headers())?;
    if response.headers().contains_key(DETAIL_KEY) {
        return Some(status.code());
    }
    let Some(better) = improved(&status) else { return Some(status.code()) };
    let headers = better.clone().into_http::<()>().headers().clone();
    *response.headers_mut() = headers;
    Some(better.code())
}

/// The code's name, for metrics and spans.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
