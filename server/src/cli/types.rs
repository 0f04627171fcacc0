//! `keelstone type`.

use super::input::document;
use super::output::{Format, hex, line};
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use keelstone_client::{Client, NewType, TypeFilter, TypeRecord};
use serde_json::{Value, json};

/// Register and read entity types.
#[derive(Debug, Args)]
pub(super) struct Types {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Register a type. The same content again is no change; another content
    /// under one version is refused with the difference.
    Register {
        /// VENDOR:NSS:VERSION, such as `vmware:capvcdCluster:1.3.0`.
        name: TypeName,
        /// The JSON Schema; `-` reads standard input.
        #[arg(value_name = "FILE")]
        schema: String,
        /// A title for people.
        #[arg(long, default_value = "")]
        title: String,
        /// A description for people.
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Print a type's JSON Schema, or with `--output json` the whole type.
    Get {
        /// `vmware:capvcdCluster:1.3.0` or its URN.
        id: String,
    },
    /// List types.
    List {
        /// Only of this vendor.
        #[arg(long, default_value = "")]
        vendor: String,
        /// Only with this name.
        #[arg(long, default_value = "")]
        nss: String,
        /// Only versions that begin so, such as `1` or `1.2`.
        #[arg(long, default_value = "")]
        version_prefix: String,
    },
}

#[derive(Clone, Debug)]
struct TypeName {
    vendor: String,
    nss: String,
    version: String,
}

impl std::str::FromStr for TypeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix("urn:vcloud:type:").unwrap_or(text);
        let parts: Vec<_> = text.split(':').collect();
        let [vendor, nss, version] = parts[..] else {
            return Err("a type is VENDOR:NSS:VERSION, such as acme:cluster:1.0.0".to_owned());
        };
        let (vendor, nss, version) = (vendor.to_owned(), nss.to_owned(), version.to_owned());
        Ok(Self { vendor, nss, version })
    }
}

impl Types {
    pub(super) async fn run(self, client: &Client, output: Format) -> Result<()> {
        match self.action {
            Action::Register { name, schema, title, description } => {
                let TypeName { vendor, nss, version } = name;
                let schema = document(&schema)?.into();
                let new = NewType { vendor, nss, version, name: title, description, schema };
                let (record, created) = client.types().register(new).await?;
                let said = if created { "registered" } else { "was registered before" };
                let mut json = json_of(&record);
                json["created"] = created.into();
                output.sentence(&format!("{} {said}", record.id), &json)
            }
            Action::Get { id } => {
                let record = client.types().get(&urn(&id)).await?;
                match output {
                    Format::Json => output.sentence("", &json_of(&record)),
                    Format::Table => line(&String::from_utf8_lossy(&record.schema)),
                }
            }
            Action::List { vendor, nss, version_prefix } => {
                let filter = TypeFilter { vendor, nss, version_prefix, summary: true };
                let (types, _) = client.types().list(filter).await?;
                let rows = types.iter().map(row).collect();
                let json: Vec<_> = types.iter().map(json_of).collect();
                output.rows(&["type", "revision", "content"], rows, &json.into())
            }
        }
    }
}

/// The URN of a type that may be given in short.
pub(super) fn urn(id: &str) -> String {
    if id.starts_with("urn:") { id.to_owned() } else { format!("urn:vcloud:type:{id}") }
}

fn row(record: &TypeRecord) -> Vec<String> {
    let name = format!("{}:{}:{}", record.vendor, record.nss, record.version);
    let hash = hex(&record.content_hash);
    vec![name, record.revision.to_string(), hash.get(..12).unwrap_or(&hash).to_owned()]
}

fn json_of(record: &TypeRecord) -> Value {
    let schema: Value =
        serde_json::from_slice(&record.schema).context("parse the schema").unwrap_or(Value::Null);
    json!({
        "id": record.id,
        "vendor": record.vendor,
        "nss": record.nss,
        "version": record.version,
        "name": record.name,
        "description": record.description,
        "schema": schema,
        "content_hash": hex(&record.content_hash),
        "revision": record.revision,
    })
}
