//! Where a bucket is and how it is reached: URLs, credentials, TLS.
//!
//! Two forms of URL: `s3://bucket/prefix`, and `file:///path` for a directory.
//! Credentials come from the environment that all S3 tools share, or from the
//! machine's own identity; they are never part of a URL, and they are not shown
//! by any `Debug` or error here.

use super::bucket::{Bucket, BucketError, Retry, StoreBucket};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Certificate, ClientOptions, RetryConfig};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Connecting to the server may take this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One request may take this long: a pack of 32 MiB at half a megabyte a second.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

/// A bucket's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketUrl {
    /// `s3://bucket/prefix`.
    S3 {
        /// The bucket.
        bucket: String,
        /// The folder in it; may be empty.
        prefix: String,
    },
    /// `file:///path`, or `file://./path` below the working directory.
    File(PathBuf),
}

impl FromStr for BucketUrl {
    type Err = BucketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why: &str| Err(BucketError::Settings(format!("{why}: {EXPECTED}")));
        if let Some(path) = text.strip_prefix("file://") {
            return match path {
                "" => wrong("the URL of the bucket names no directory"),
                path => Ok(Self::File(PathBuf::from(path))),
            };
        }
        let Some(rest) = text.strip_prefix("s3://") else {
            return wrong("the URL of the bucket has another scheme");
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            return wrong("credentials do not belong into a URL, use the AWS_* variables");
        }
        let name_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if bucket.is_empty() || !bucket.chars().all(name_ok) {
            return wrong("the URL names no valid bucket");
        }
        let prefix = prefix.trim_matches('/').to_owned();
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix })
    }
}

const EXPECTED: &str = "expected s3://bucket/prefix or file:///path";

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// How to reach an S3 server. The defaults are those of AWS.
#[derive(Clone, Debug, Default)]
pub struct BucketOptions {
    /// The server's URL; `None`: AWS itself.
    pub endpoint: Option<String>,
    /// The region that requests are signed for; `None`: `us-east-1`.
    pub region: Option<String>,
    /// The access key's name.
    pub access_key_id: Option<String>,
    /// The access key's secret.
    pub secret_access_key: Option<Secret>,
    /// The token of temporary credentials.
    pub session_token: Option<Secret>,
    /// Allows an `http://` endpoint that is not on this machine.
    pub allow_http: bool,
    /// A PEM file of certificates to trust besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// Whether to look for credentials where AWS tools do: other `AWS_*`
    /// variables, web identity, container and instance metadata.
    pub ambient: bool,
    /// How often and how long an operation is tried.
    pub retry: Retry,
}

impl BucketOptions {
    /// The settings of the standard `AWS_*` variables.
    pub fn from_env() -> Self {
        let get = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
        Self {
            endpoint: endpoint.into_iter().find_map(get),
            region: get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION")),
            access_key_id: get("AWS_ACCESS_KEY_ID"),
            secret_access_key: get("AWS_SECRET_ACCESS_KEY").map(Secret::new),
            session_token: get("AWS_SESSION_TOKEN").map(Secret::new),
            allow_http: get("AWS_ALLOW_HTTP").is_some_and(|value| value == "true" || value == "1"),
            ca_file: get("AWS_CA_BUNDLE").map(PathBuf::from),
            ambient: true,
            retry: Retry::default(),
        }
    }

    fn problems(&self) -> Result<(), BucketError> {
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            return Err(BucketError::Settings(
                "an access key has two parts: set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                    .into(),
            ));
        }
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        if self.access_key_id.is_none() && !has_ambient_identity() {
            return Err(BucketError::Settings(
                "no credentials for the bucket: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                    .into(),
            ));
        }
        check_endpoint(endpoint, self.allow_http)
    }
}

/// Whether the environment names another source of credentials.
fn has_ambient_identity() -> bool {
    let names = [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_METADATA_ENDPOINT",
    ];
    names.into_iter().any(|name| std::env::var_os(name).is_some())
}

/// Plaintext would show the backup to everyone on the way.
fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<(), BucketError> {
    let wrong = |text: String| Err(BucketError::Settings(text));
    let Ok(uri) = endpoint.parse::<http::Uri>() else {
        return wrong("the endpoint is not a URL, expected https://host:port".into());
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    if host.is_empty() || uri.authority().is_some_and(|it| it.as_str().contains('@')) {
        return wrong("the endpoint must be https://host:port, without credentials".into());
    }
    let loopback =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if loopback || allow_http => Ok(()),
        Some("http") => wrong(format!(
            "{host} would be reached without TLS; use https, or allow it with AWS_ALLOW_HTTP=true"
        )),
        _ => wrong("the endpoint must begin with https:// or http://".into()),
    }
}

/// Opens a bucket. No request is made yet, but the directory of a `file://`
/// bucket must exist unless `create` asks for it to be made.
///
/// # Errors
///
/// [`BucketError::Settings`], which says what to set.
pub fn open(
    url: &BucketUrl,
    options: &BucketOptions,
    create: bool,
) -> Result<Arc<dyn Bucket>, BucketError> {
    match url {
        BucketUrl::S3 { bucket, prefix } => {
            options.problems()?;
            let store = s3(bucket, options)?;
            let prefix = Path::from(prefix.as_str());
            Ok(Arc::new(StoreBucket::new(Arc::new(store), prefix, url.to_string(), options.retry)))
        }
        BucketUrl::File(directory) => {
            let store = directory_store(directory, create)
                .map_err(|why| BucketError::Settings(format!("{}: {why}", directory.display())))?;
            let path = Path::default();
            Ok(Arc::new(StoreBucket::new(Arc::new(store), path, url.to_string(), options.retry)))
        }
    }
}

fn directory_store(directory: &std::path::Path, create: bool) -> Result<LocalFileSystem, String> {
    use std::os::unix::fs::DirBuilderExt as _;
    if create {
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(directory);
        made.map_err(|error| error.to_string())?;
    }
    // A backup is a promise to survive a power cut too, also into a directory.
    let store = LocalFileSystem::new_with_prefix(directory).map_err(|_| {
        "there is no such directory; `backup create` makes it, other commands do not".to_owned()
    })?;
    Ok(store.with_fsync(true))
}

fn s3(bucket: &str, options: &BucketOptions) -> Result<object_store::aws::AmazonS3, BucketError> {
    // reqwest is built without a TLS provider of its own. A provider that is
    // installed already is as good.
    let _already = rustls::crypto::ring::default_provider().install_default();
    let endpoint_is_http = options.endpoint.as_deref().is_some_and(|it| it.starts_with("http://"));
    let mut client = ClientOptions::new()
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(endpoint_is_http);
    for certificate in options.ca_file.iter().map(read_certificates) {
        for one in certificate? {
            client = client.with_root_certificate(one);
        }
    }
    let mut builder =
        if options.ambient { AmazonS3Builder::from_env() } else { AmazonS3Builder::new() }
            .with_client_options(client)
            .with_bucket_name(bucket)
            .with_disable_bulk_delete(true)
            .with_region(options.region.as_deref().unwrap_or("us-east-1"))
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let (Some(id), Some(secret)) = (&options.access_key_id, &options.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret.expose());
    }
    if let Some(token) = &options.session_token {
        builder = builder.with_token(token.expose());
    }
    builder
        .build()
        .map_err(|error| BucketError::Settings(format!("the bucket's settings are wrong: {error}")))
}

fn read_certificates(file: &PathBuf) -> Result<Vec<Certificate>, BucketError> {
    let wrong = |why: String| BucketError::Settings(format!("{}: {why}", file.display()));
    let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    Certificate::from_pem_bundle(&pem).map_err(|_| wrong("not a PEM file of certificates".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown() {
        let check = |text: &str| text.parse::<BucketUrl>().map(|url| url.to_string()).ok();
        assert_eq!(check("s3://b/p/q/").as_deref(), Some("s3://b/p/q"));
        assert_eq!(check("s3://b").as_deref(), Some("s3://b"));
        assert_eq!(check("file:///x/y").as_deref(), Some("file:///x/y"));
        assert_eq!(check("file://./y").as_deref(), Some("file://./y"));
        assert_eq!(check("s3://key:secret@host/p"), None);
        assert_eq!(check("s3:///p"), None);
        assert_eq!(check("https://host/p"), None);
        assert_eq!(check("file://"), None);
    }

    #[test]
    fn plaintext_is_for_this_machine_only() {
        let check = |endpoint: &str, allow: bool| check_endpoint(endpoint, allow).is_ok();
        assert!(check("http://127.0.0.1:9000", false));
        assert!(check("http://[::1]:9000", false));
        assert!(check("http://localhost:9000", false));
        assert!(!check("http://minio.example:9000", false));
        assert!(check("http://minio.example:9000", true));
        assert!(check("https://minio.example", false));
        assert!(!check("https://user:secret@minio.example", false));
        assert!(!check("minio.example", false));
    }

    #[test]
    fn secrets_are_not_shown() {
        let options = BucketOptions {
            secret_access_key: Some(Secret::new("hush")),
            session_token: Some(Secret::new("hush")),
            ..BucketOptions::default()
        };
        assert!(!format!("{options:?}").contains("hush"));
    }
}
