//! The one place where a gRPC status becomes an [`Error`], and where it is
//! decided what a failed attempt allows.
//!
//! A server of ours attaches an `ErrorDetail` that says what became of the
//! request. A status without it comes from the transport, and to a write that
//! means "unknown" -- unless the connection could not even be made.

use crate::{Error, ErrorKind, Outcome, Revision};
use keelstone_proto::v1::ErrorDetail;
use prost::Message as _;
use tonic::{Code, Status};

/// Where the detail travels.
const DETAIL_KEY: &str = "keelstone-error-bin";

/// What one failed attempt means.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: ErrorKind,
    message: String,
    reason: String,
    remedy: String,
    /// Whether a write can still take effect because of this attempt.
    pub(crate) outcome: Outcome,
    /// Whether the same request can succeed later or elsewhere.
    pub(crate) transient: bool,
    /// Whether the node could not be reached or did not answer.
    pub(crate) unreachable: bool,
    /// The session that gave the write its identity is gone.
    pub(crate) session_lost: bool,
    /// Where the leader serves clients, if the node knew.
    pub(crate) leader: Option<String>,
}

impl Failure {
    /// What `status` means.
    pub(crate) fn of(status: &Status) -> Self {
        match detail_of(status) {
            Some(detail) => Self::from_server(status, detail),
            None => Self::from_transport(status),
        }
    }

    /// The attempt's time was up and no answer came.
    pub(crate) fn silent(endpoint: &str) -> Self {
        Self {
            kind: ErrorKind::Unavailable,
            message: format!("{endpoint} did not answer in time"),
            reason: String::new(),
            remedy: String::new(),
            outcome: Outcome::Unknown,
            transient: true,
            unreachable: true,
            session_lost: false,
            leader: None,
        }
    }

    /// The node answers, and does not keep up with the others.
    pub(crate) fn behind(endpoint: &str) -> Self {
        let message = format!("{endpoint} has fallen behind the cluster");
        Self { message, ..Self::silent(endpoint) }
    }

    fn from_server(status: &Status, detail: ErrorDetail) -> Self {
        let outcome = match detail.outcome() {
            keelstone_proto::v1::Outcome::NotApplied => Outcome::NotApplied,
            keelstone_proto::v1::Outcome::Unknown => Outcome::Unknown,
        };
        let kind = kind_of(status.code(), &detail);
        Self {
            transient: is_transient(&kind) && !is_final(&detail.reason),
            unreachable: false,
            session_lost: matches!(detail.reason.as_str(), "session_not_found" | "session_expired"),
            leader: Some(detail.leader_address).filter(|address| !address.is_empty()),
            message: status.message().to_owned(),
            reason: detail.reason,
            remedy: detail.remedy,
            outcome,
            kind,
        }
    }

    fn from_transport(status: &Status) -> Self {
        let kind = kind_of(status.code(), &ErrorDetail::default());
        // Refused before it left, or by the server's framing before any of our
        // code saw it; the rest may have been sent and done.
        let never_seen = is_connect_failure(status)
            || matches!(
                kind,
                ErrorKind::Unauthenticated
                    | ErrorKind::Denied
                    | ErrorKind::Unsupported
                    | ErrorKind::TooLarge { .. }
            );
        Self {
            transient: is_transient(&kind) || kind == ErrorKind::Internal,
            unreachable: true,
            session_lost: false,
            leader: None,
            message: text_of(status),
            reason: String::new(),
            remedy: String::new(),
            outcome: if never_seen { Outcome::NotApplied } else { Outcome::Unknown },
            kind,
        }
    }

    /// Whether the server would not hear the request at all. It then says
    /// nothing about earlier attempts.
    pub(crate) fn is_refusal_to_listen(&self) -> bool {
        matches!(self.kind, ErrorKind::Unauthenticated | ErrorKind::Denied | ErrorKind::Unsupported)
    }

    /// The error of a call that ends with this failure. `outcome` is that of
    /// the call, which may have had attempts before this one.
    pub(crate) fn into_error(self, outcome: Outcome) -> Error {
        let kind = match self.kind {
            ErrorKind::DeadlineExceeded { .. } => ErrorKind::DeadlineExceeded { outcome },
            ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Internal
                if outcome == Outcome::Unknown =>
            {
                ErrorKind::Unknown
            }
            ErrorKind::Unknown if outcome == Outcome::NotApplied => ErrorKind::Unavailable,
            kind => kind,
        };
        Error::new(kind, outcome, self.message).with_advice(self.reason, self.remedy)
    }

    /// The error of a call that ran out of time with this failure last.
    pub(crate) fn into_deadline_error(self, outcome: Outcome) -> Error {
        let message = format!("the call's time was up; the last attempt: {}", self.message);
        Error::new(ErrorKind::DeadlineExceeded { outcome }, outcome, message)
            .with_advice(self.reason, self.remedy)
    }
}

/// The error of a failed read, stream or single attempt of a read.
pub(crate) fn read_error(status: &Status) -> Error {
    Failure::of(status).into_error(Outcome::NotApplied)
}

fn detail_of(status: &Status) -> Option<ErrorDetail> {
    let bytes = status.metadata().get_bin(DETAIL_KEY)?.to_bytes().ok()?;
    ErrorDetail::decode(bytes).ok()
}

fn kind_of(code: Code, detail: &ErrorDetail) -> ErrorKind {
    match detail.reason.as_str() {
        "compacted" => ErrorKind::Compacted { oldest: Revision::new(detail.limit) },
        "history_changed" => ErrorKind::HistoryChanged,
        "too_large" => too_large(detail),
        "conflict" => conflict(detail),
        // Others are at the same entity right now; the server gave up first.
        "contended" => ErrorKind::Overloaded,
        // The write was done before, or may have been; what it answered is gone.
        "reply_forgotten" => ErrorKind::Unknown,
        _ => kind_of_code(code, detail),
    }
}

fn kind_of_code(code: Code, detail: &ErrorDetail) -> ErrorKind {
    match code {
        Code::Aborted => conflict(detail),
        Code::FailedPrecondition if detail.current_revision > 0 => conflict(detail),
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::FailedPrecondition => {
            ErrorKind::Invalid { field: detail.field.clone() }
        }
        Code::OutOfRange if !detail.reason.is_empty() => {
            ErrorKind::Invalid { field: detail.field.clone() }
        }
        // What tonic says of a message beyond its size limit.
        Code::OutOfRange => too_large(detail),
        Code::ResourceExhausted => ErrorKind::Overloaded,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::Denied,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded { outcome: Outcome::Unknown },
        Code::Unavailable | Code::Cancelled => ErrorKind::Unavailable,
        Code::Unknown if detail.reason == "unknown" => ErrorKind::Unknown,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => ErrorKind::Internal,
    }
}

fn conflict(detail: &ErrorDetail) -> ErrorKind {
    ErrorKind::Conflict { current_revision: Revision::new(detail.current_revision) }
}

fn too_large(detail: &ErrorDetail) -> ErrorKind {
    ErrorKind::TooLarge { field: detail.field.clone(), limit: detail.limit, actual: detail.actual }
}

fn is_transient(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unavailable
            | ErrorKind::Overloaded
            | ErrorKind::Unknown
            | ErrorKind::DeadlineExceeded { .. }
    )
}

/// Whether asking again brings the same answer, though its kind says otherwise.
fn is_final(reason: &str) -> bool {
    reason == "reply_forgotten"
}

/// Whether the connection could not be made, so that nothing was sent.
fn is_connect_failure(status: &Status) -> bool {
    causes(status).any(<dyn std::error::Error>::is::<tonic::ConnectError>)
}

/// The message with its causes: a transport's own says only "transport error".
fn text_of(status: &Status) -> String {
    let mut text = status.message().to_owned();
    for cause in causes(status) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |cause| cause.source())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataValue;

    fn of_server(code: Code, detail: &ErrorDetail) -> Failure {
        let mut status = Status::new(code, "refused");
        let bytes = MetadataValue::from_bytes(&detail.encode_to_vec());
        status.metadata_mut().insert_bin(DETAIL_KEY, bytes);
        Failure::of(&status)
    }

    fn detail(reason: &str, outcome: keelstone_proto::v1::Outcome) -> ErrorDetail {
        let outcome = outcome.into();
        ErrorDetail { reason: reason.to_owned(), outcome, ..ErrorDetail::default() }
    }

    #[test]
    fn what_the_server_says_of_the_outcome_counts() {
        use keelstone_proto::v1::Outcome as Wire;
        let refused = of_server(Code::Unavailable, &detail("not_leader", Wire::NotApplied));
        assert_eq!((refused.outcome, refused.transient), (Outcome::NotApplied, true));
        let unknown = of_server(Code::Unknown, &detail("unknown", Wire::Unknown));
        assert_eq!((unknown.outcome, unknown.transient), (Outcome::Unknown, true));
        let forgotten = detail("reply_forgotten", Wire::Unknown);
        let forgotten = of_server(Code::FailedPrecondition, &forgotten);
        assert_eq!((forgotten.outcome, forgotten.transient), (Outcome::Unknown, false));
        assert_eq!(forgotten.into_error(Outcome::Unknown).kind(), &ErrorKind::Unknown);
    }

    #[test]
    fn a_status_of_the_transport_leaves_the_outcome_open() {
        for code in [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled] {
            let failure = Failure::of(&Status::new(code, "h2 protocol error"));
            assert_eq!((failure.outcome, failure.transient), (Outcome::Unknown, true), "{code:?}");
            let error = failure.into_error(Outcome::Unknown);
            assert_eq!(error.kind(), &ErrorKind::Unknown, "{code:?}");
        }
        for code in [Code::Unauthenticated, Code::PermissionDenied, Code::OutOfRange] {
            let failure = Failure::of(&Status::new(code, "refused by a layer below"));
            assert_eq!((failure.outcome, failure.transient), (Outcome::NotApplied, false));
        }
    }

    #[test]
    fn revisions_that_cannot_be_read_are_told_apart() {
        use keelstone_proto::v1::Outcome::NotApplied;
        let gone = ErrorDetail { limit: 17, actual: 3, ..detail("compacted", NotApplied) };
        let gone = of_server(Code::OutOfRange, &gone).into_error(Outcome::NotApplied);
        assert_eq!(gone.kind(), &ErrorKind::Compacted { oldest: Revision::new(17) });
        let field = "revision".to_owned();
        let future = ErrorDetail { field: field.clone(), ..detail("future_revision", NotApplied) };
        let future = of_server(Code::OutOfRange, &future).into_error(Outcome::NotApplied);
        assert_eq!(future.kind(), &ErrorKind::Invalid { field });
    }
}
