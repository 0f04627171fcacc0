//! What an error of the object storage client means for us.
//!
//! The client's own error texts hold whole response bodies, which may name
//! access keys and signed strings. What leaves this file is the status, the
//! server's error code and its one-line message.

use super::bucket::{BucketError, OBJECT_BYTES_MAX};
use std::error::Error as _;
use std::fmt;

/// The result of one try.
#[derive(Debug)]
pub(super) enum Fault {
    /// No such object or bucket.
    NotFound(String),
    /// No access.
    Denied(String),
    /// The name is taken, or the server says so; look before believing it.
    Taken(String),
    /// Trying again may help, and a write may have taken effect.
    Temporary(String),
    /// Trying again would not help, and nothing has taken effect.
    Refused(String),
    /// An object of this size.
    TooLarge(u64),
}

impl Fault {
    /// Whether another try would be pointless.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Taken(_) | Self::Temporary(_))
    }

    /// The error for the caller.
    pub(super) fn into_error(self, operation: &'static str, key: &str) -> BucketError {
        let key = key.to_owned();
        match self {
            Self::NotFound(detail) => BucketError::NotFound { key, detail },
            Self::Denied(detail) => BucketError::Denied { key, detail },
            Self::TooLarge(size) => BucketError::TooLarge { key, size, limit: OBJECT_BYTES_MAX },
            Self::Taken(detail) | Self::Temporary(detail) | Self::Refused(detail) => {
                BucketError::Refused { operation, key, detail }
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(detail)
            | Self::Denied(detail)
            | Self::Taken(detail)
            | Self::Temporary(detail)
            | Self::Refused(detail) => f.write_str(detail),
            Self::TooLarge(size) => write!(f, "an object of {size} bytes"),
        }
    }
}

/// What `error` means.
pub(super) fn of(error: &object_store::Error) -> Fault {
    use object_store::Error;
    let answer = Answer::read(&error.to_string());
    let detail = answer.describe().unwrap_or_else(|| innermost(error));
    match error {
        // Listings are not told apart by the client.
        Error::Generic { .. } if answer.status == Some(404) => Fault::NotFound(detail),
        Error::Generic { .. } if matches!(answer.status, Some(401 | 403)) => Fault::Denied(detail),
        Error::NotFound { .. } => Fault::NotFound(detail),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Fault::Denied(detail),
        Error::AlreadyExists { .. } | Error::Precondition { .. } => Fault::Taken(detail),
        Error::NotSupported { .. } | Error::NotImplemented { .. } | Error::InvalidPath { .. } => {
            Fault::Refused(detail)
        }
        _ if is_full_disk(error) => Fault::Refused(detail),
        _ if answer.is_refusal() => Fault::Refused(detail),
        _ => Fault::Temporary(detail),
    }
}

/// What an S3 server answered, as far as it can be told from the client's text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    status: Option<u16>,
    code: Option<String>,
    message: Option<String>,
}

impl Answer {
    fn read(text: &str) -> Self {
        let after = text.split_once("status code: ").map(|(_, rest)| rest);
        let status = after.and_then(|rest| rest.get(..3)).and_then(|digits| digits.parse().ok());
        Self { status, code: element(text, "Code"), message: element(text, "Message") }
    }

    fn describe(&self) -> Option<String> {
        let status = self.status?;
        let code = self.code.as_deref().unwrap_or("no error code");
        match &self.message {
            Some(message) => Some(format!("status {status}, {code}: {message}")),
            None => Some(format!("status {status}, {code}")),
        }
    }

    /// A 4xx that says that the request is wrong, not that the moment is.
    fn is_refusal(&self) -> bool {
        self.status.is_some_and(|status| {
            (400..500).contains(&status) && ![408, 409, 412, 425, 429].contains(&status)
        })
    }
}

/// The text of the first element of this name, shortened to one line.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

/// The text of the error that started the chain, such as "connection refused".
fn innermost(error: &object_store::Error) -> String {
    let mut source = error.source();
    let mut text = error.to_string();
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    text.chars().take(300).collect()
}

fn is_full_disk(error: &object_store::Error) -> bool {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};
            return matches!(io.kind(), StorageFull | ReadOnlyFilesystem | PermissionDenied);
        }
        source = inner.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_told_without_its_body() {
        let text = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>InvalidAccessKeyId\
                    </Code><Message>No such key</Message><AWSAccessKeyId>AKSECRET</AWSAccessKeyId></Error>";
        let answer = Answer::read(text);
        assert_eq!(answer.status, Some(403));
        let told = answer.describe().unwrap();
        assert_eq!(told, "status 403, InvalidAccessKeyId: No such key");
        assert!(answer.is_refusal());
        assert!(!Answer::read("status code: 503 x").is_refusal());
        assert!(!Answer::read("status code: 409 x").is_refusal());
    }
}
