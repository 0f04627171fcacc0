//! Entity types: the schemas that documents are validated against.

use crate::call::Route;
use crate::client::Client;
use crate::{Error, Position, Revision};
use bytes::Bytes;
use keelstone_proto::v1;
use std::time::{Duration, SystemTime};

/// A registered type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypeRecord {
    /// `urn:vcloud:type:<vendor>:<nss>:<version>`.
    pub id: String,
    /// Such as `vmware`.
    pub vendor: String,
    /// Such as `capvcdCluster`.
    pub nss: String,
    /// MAJOR.MINOR.PATCH.
    pub version: String,
    /// For people.
    pub name: String,
    /// For people.
    pub description: String,
    /// JSON Schema; empty in a summary.
    pub schema: Bytes,
    /// BLAKE3 of the canonical form of the schema.
    pub content_hash: Bytes,
    /// When it was registered, by the cluster's time.
    pub created: SystemTime,
    /// The revision that registered it.
    pub revision: Revision,
}

impl From<v1::EntityType> for TypeRecord {
    fn from(wire: v1::EntityType) -> Self {
        Self {
            id: wire.id,
            vendor: wire.vendor,
            nss: wire.nss,
            version: wire.version,
            name: wire.name,
            description: wire.description,
            schema: wire.schema,
            content_hash: wire.content_hash,
            created: time_of(wire.created_ms),
            revision: wire.revision.into(),
        }
    }
}

/// Milliseconds since the Unix epoch, as the wire has them.
pub(crate) fn time_of(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

/// A type to be registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewType {
    /// Such as `vmware`.
    pub vendor: String,
    /// Such as `capvcdCluster`.
    pub nss: String,
    /// MAJOR.MINOR.PATCH.
    pub version: String,
    /// For people.
    pub name: String,
    /// For people.
    pub description: String,
    /// A JSON Schema, draft-04 to 2020-12; draft-04 if it does not say.
    pub schema: Bytes,
}

/// Which types to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeFilter {
    /// Empty: of all vendors.
    pub vendor: String,
    /// Empty: all.
    pub nss: String,
    /// "1" or "1.2" stands for all versions that begin so; empty: all.
    pub version_prefix: String,
    /// Leaves the schemas out.
    pub summary: bool,
}

/// Entity types; made by [`Client::types`].
#[derive(Clone, Debug)]
pub struct Types {
    client: Client,
}

impl Types {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Registers a type, and says whether it is new: the same content again is
    /// no change.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) or
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) if the version is
    /// registered with another content; the message has the difference.
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the schema is none,
    /// or refers to another place. And as every write.
    pub async fn register(&self, new: NewType) -> Result<(TypeRecord, bool), Error> {
        let request = v1::TypeRegisterRequest {
            vendor: new.vendor,
            nss: new.nss,
            version: new.version,
            name: new.name,
            description: new.description,
            schema: new.schema,
        };
        // Registering again changes nothing: it is safe to repeat.
        let response = self
            .client
            .read(Route::Leader, |attempt| {
                let request = request.clone();
                async move { attempt.types().register(attempt.request(request)).await }
            })
            .await?;
        let record = response.r#type.ok_or_else(|| missing("type"))?;
        Ok((record.into(), response.created))
    }

    /// The type with this URN.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), and as every read.
    pub async fn get(&self, id: &str) -> Result<TypeRecord, Error> {
        let response = self
            .client
            .read(Route::Leader, |attempt| {
                let request = v1::TypeGetRequest { id: id.to_owned(), consistency: 0 };
                async move { attempt.types().get(attempt.request(request)).await }
            })
            .await?;
        Ok(response.r#type.ok_or_else(|| missing("type"))?.into())
    }

    /// The types that match, all pages of them: there are few types.
    ///
    /// # Errors
    ///
    /// As every read.
    pub async fn list(&self, filter: TypeFilter) -> Result<(Vec<TypeRecord>, Position), Error> {
        let mut request = v1::TypeListRequest {
            vendor: filter.vendor,
            nss: filter.nss,
            version_prefix: filter.version_prefix,
            summary: filter.summary,
            ..v1::TypeListRequest::default()
        };
        let mut types = Vec::new();
        loop {
            let page = &request;
            let response = self
                .client
                .read(Route::Leader, |attempt| {
                    let request = page.clone();
                    async move { attempt.types().list(attempt.request(request)).await }
                })
                .await?;
            types.extend(response.types.into_iter().map(TypeRecord::from));
            if response.next_page_token.is_empty() {
                return Ok((types, Position::of(response.header.as_ref())));
            }
            request.page_token = response.next_page_token;
        }
    }
}

pub(crate) fn missing(what: &str) -> Error {
    Error::unintelligible(format!("the answer lacks the {what}"))
}
