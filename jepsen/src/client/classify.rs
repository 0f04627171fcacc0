//! The one table that says which failures mean "did not happen".
//!
//! | what came back | class |
//! |---|---|
//! | a status with the server's detail, outcome `NOT_APPLIED` | [`Class::Fail`] |
//! | a status with the server's detail, outcome `UNKNOWN` | [`Class::Info`] |
//! | no detail: the connection could not be made | [`Class::Fail`] |
//! | no detail: `Unauthenticated`, `PermissionDenied`, `Unimplemented` | [`Class::Fail`] |
//! | no detail, anything else: timeouts, resets, `Unavailable`, `Unknown` | [`Class::Info`] |
//! | nothing within the deadline | [`Class::Info`] |
//!
//! The table believes what the server claims; the checkers test the claim, for
//! an operation of class `Fail` must never be seen to have had an effect.

use keelstone_proto::v1::{ErrorDetail, Outcome};
use prost::Message as _;
use std::error::Error;
use tonic::{Code, Status};

/// Where the server's detail travels.
const DETAIL_KEY: &str = "keelstone-error-bin";

/// What a failed attempt says of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It has not happened and will not.
    Fail,
    /// It may have happened, or may yet.
    Info,
}

/// A failed attempt.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// What it says of the operation.
    pub(crate) class: Class,
    /// The server's stable name of the error; else the name of the code.
    pub(crate) reason: String,
    /// The message, for people.
    pub(crate) message: String,
    /// Whether the node could not be reached or did not answer.
    pub(crate) unreachable: bool,
}

impl Failure {
    /// What `status` means.
    pub(crate) fn of(status: &Status) -> Self {
        let message = status.message().to_owned();
        if let Some(detail) = detail(status) {
            let class = match detail.outcome() {
                Outcome::NotApplied => Class::Fail,
                Outcome::Unknown => Class::Info,
            };
            let reason = detail.reason;
            return Self { class, reason, message, unreachable: false };
        }
        let never_sent = is_connect_failure(status)
            || matches!(
                status.code(),
                Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented
            );
        let class = if never_sent { Class::Fail } else { Class::Info };
        let reason = format!("{:?}", status.code());
        Self { class, reason, message, unreachable: true }
    }

    /// No answer came before the deadline.
    pub(crate) fn timeout() -> Self {
        Self {
            class: Class::Info,
            reason: "timeout".to_owned(),
            message: "no answer before the deadline".to_owned(),
            unreachable: true,
        }
    }

    /// The same failure of an operation without effects: it did not happen.
    #[must_use]
    pub(crate) fn of_a_read(self) -> Self {
        Self { class: Class::Fail, ..self }
    }

    /// For the history.
    pub(crate) fn text(&self) -> String {
        format!("{}: {}", self.reason, self.message)
    }
}

fn detail(status: &Status) -> Option<ErrorDetail> {
    let bytes = status.metadata().get_bin(DETAIL_KEY)?.to_bytes().ok()?;
    ErrorDetail::decode(bytes).ok()
}

fn is_connect_failure(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataValue;

    fn of_server(code: Code, outcome: Outcome) -> Class {
        let detail =
            ErrorDetail { reason: "x".into(), outcome: outcome.into(), ..ErrorDetail::default() };
        let mut status = Status::new(code, "said the server");
        let bytes = MetadataValue::from_bytes(&detail.encode_to_vec());
        status.metadata_mut().insert_bin(DETAIL_KEY, bytes);
        Failure::of(&status).class
    }

    #[test]
    fn the_servers_word_counts_whatever_the_code() {
        for code in [Code::Unavailable, Code::Unknown, Code::Aborted, Code::ResourceExhausted] {
            assert_eq!(of_server(code, Outcome::NotApplied), Class::Fail, "{code:?}");
            assert_eq!(of_server(code, Outcome::Unknown), Class::Info, "{code:?}");
        }
    }

    #[test]
    fn without_the_servers_word_only_what_cannot_have_been_done_failed() {
        for code in [Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented] {
            assert_eq!(Failure::of(&Status::new(code, "")).class, Class::Fail, "{code:?}");
        }
        for code in [
            Code::Unavailable,
            Code::Unknown,
            Code::Internal,
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Aborted,
            Code::ResourceExhausted,
            Code::OutOfRange,
        ] {
            assert_eq!(Failure::of(&Status::new(code, "")).class, Class::Info, "{code:?}");
        }
        assert_eq!(Failure::timeout().class, Class::Info);
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_failure() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        let mut client = keelstone_proto::v1::cluster_client::ClusterClient::new(channel);
        let status = client.status(keelstone_proto::v1::StatusRequest {}).await.unwrap_err();
        assert_eq!(Failure::of(&status).class, Class::Fail);
    }
}
